//! Laws of the frame decoder: cutting the input anywhere changes nothing.

use proptest::prelude::*;

use super::*;

fn rule(kind: u64, length: u64) -> Result<Action, Violation> {
    Ok(match kind {
        kind::DATA => Action::Stream,
        kind::HEADERS if length > 1000 => return Err(TOO_LONG),
        kind::HEADERS => Action::Collect,
        _ => Action::Skip,
    })
}

/// Joins neighbouring DATA pieces, because cuts may fall anywhere.
fn decode_all(chunks: &[&[u8]]) -> (Vec<(u64, Vec<u8>)>, bool) {
    let (mut decoder, mut out) = (Decoder::default(), Vec::<(u64, Vec<u8>)>::new());
    for chunk in chunks {
        let mut input = Bytes::copy_from_slice(chunk);
        loop {
            match decoder.decode(&mut input, rule).unwrap() {
                Decoded::NeedMore => break,
                Decoded::Frame(kind, payload) => out.push((kind, payload.to_vec())),
                Decoded::Data(piece) => match out.last_mut() {
                    Some((kind::DATA, data)) => data.extend_from_slice(&piece),
                    _ => out.push((kind::DATA, piece.to_vec())),
                },
            }
        }
        assert!(input.is_empty());
    }
    (out, decoder.at_boundary())
}

#[test]
fn a_limit_is_asked_before_any_payload_is_kept() {
    let mut input = Bytes::from_static(&[0x01, 0x80, 0x10, 0, 0]);
    assert_eq!(Decoder::default().decode(&mut input, rule), Err(TOO_LONG));
}

#[test]
fn an_empty_frame_is_a_frame() {
    let (frames, boundary) = decode_all(&[&[0x01, 0x00, 0x00, 0x00, 0x21, 0x00]]);
    assert_eq!(frames, vec![(kind::HEADERS, vec![])]);
    assert!(boundary);
}

proptest! {
    #[test]
    fn any_cut_gives_the_same_frames(
        frames in prop::collection::vec((0u64..4, prop::collection::vec(any::<u8>(), 0..40)), 0..6),
        cut in any::<prop::sample::Index>(),
        second in any::<prop::sample::Index>(),
    ) {
        let wire: Vec<u8> = frames.iter().flat_map(|(k, p)| encode(*k, p)).collect();
        let (mut a, mut b) = (cut.index(wire.len() + 1), second.index(wire.len() + 1));
        if a > b { std::mem::swap(&mut a, &mut b); }
        let whole = decode_all(&[&wire]);
        prop_assert!(whole.1);
        let single: Vec<&[u8]> = wire.chunks(1).collect();
        prop_assert_eq!(&decode_all(&single), &whole);
        prop_assert_eq!(decode_all(&[&wire[..a], &wire[a..b], &wire[b..]]), whole);
    }

    #[test]
    fn a_header_survives(kind in 0..=varint::MAX, length in 0..=varint::MAX) {
        let mut out = Vec::new();
        encode_header(kind, length, &mut out);
        prop_assert_eq!(decode_header(&out), Some((kind, length, out.len())));
        prop_assert_eq!(decode_header(&out[..out.len() - 1]), None);
    }
}
