//! Entry points for fuzzers and the replay test: one per parser that reads the
//! network. Each takes any bytes, must not panic, and states the parser's law.
//! Never called in production.

use bytes::Bytes;

use crate::control::ControlReader;
use crate::frame::{Action, Decoded, Decoder, kind};
use crate::message::{self, RequestHead, ResponseHead};
use crate::qpack::{self, DecoderStream, EncoderStream, Limits, huffman};
use crate::role::Role;
use crate::settings::Settings;
use crate::{capsule, datagram, varint};

/// A target: its name and what it does with the input.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("varint", varint_law),
    ("frame", frame_law),
    ("settings", settings_law),
    ("control", control_law),
    ("huffman", huffman_law),
    ("qpack", qpack_law),
    ("qpack_streams", qpack_streams_law),
    ("capsule", capsule_law),
    ("datagram", datagram_law),
];

/// Runs one target by name; whether there is such a target.
pub fn run(target: &str, data: &[u8]) -> bool {
    match TARGETS.iter().find(|(name, _)| *name == target) {
        Some((_, law)) => {
            law(data);
            true
        }
        None => false,
    }
}

const LIMITS: Limits = Limits { size: 16 * 1024, fields: 64 };

fn varint_law(data: &[u8]) {
    if let Some((value, length)) = varint::decode(data) {
        let mut out = Vec::new();
        varint::encode(value, &mut out);
        assert!(out.len() <= length, "longer than what was read");
        assert_eq!(varint::decode(&out), Some((value, out.len())));
    }
}

/// Reads all frames; cutting the input in halves must give the same.
fn frame_law(data: &[u8]) {
    let whole = frames(&[data]);
    let (left, right) = data.split_at(data.len() / 2);
    assert_eq!(whole, frames(&[left, right]), "a cut changed the frames");
}

fn frames(chunks: &[&[u8]]) -> (Vec<(u64, Vec<u8>)>, bool) {
    let rule = |kind, length| match kind {
        kind::DATA => Ok(Action::Stream),
        kind::HEADERS if length <= LIMITS.size => Ok(Action::Collect),
        _ => Ok(Action::Skip),
    };
    let (mut decoder, mut out) = (Decoder::default(), Vec::<(u64, Vec<u8>)>::new());
    for chunk in chunks {
        let mut input = Bytes::copy_from_slice(chunk);
        loop {
            match decoder.decode(&mut input, rule) {
                Ok(Decoded::Frame(kind, payload)) => out.push((kind, payload.to_vec())),
                Ok(Decoded::Data(piece)) => match out.last_mut() {
                    Some((kind::DATA, data)) => data.extend_from_slice(&piece),
                    _ => out.push((kind::DATA, piece.to_vec())),
                },
                Ok(Decoded::NeedMore) | Err(_) => break,
            }
        }
    }
    (out, decoder.at_boundary())
}

fn settings_law(data: &[u8]) {
    if let Ok(settings) = Settings::decode(data) {
        let frame = settings.encode();
        let payload = frame.slice(frame.len().min(2)..);
        assert_eq!(Settings::decode(&payload), Ok(settings));
    }
}

fn control_law(data: &[u8]) {
    for role in [Role::Requester, Role::Responder] {
        let mut whole = ControlReader::new(role, 0, 1024);
        let mut input = Bytes::copy_from_slice(data);
        let mut events = Vec::new();
        let end = loop {
            match whole.next(&mut input) {
                Ok(Some(event)) => events.push(event),
                other => break other,
            }
        };
        let (mut cut, mut cut_events) = (ControlReader::new(role, 0, 1024), Vec::new());
        let cut_end = data.iter().try_fold(None, |_, byte| {
            let mut input = Bytes::copy_from_slice(&[*byte]);
            while let Some(event) = cut.next(&mut input)? {
                cut_events.push(event);
            }
            Ok(None)
        });
        assert_eq!((events, end), (cut_events, cut_end), "a cut changed the events");
    }
}

fn huffman_law(data: &[u8]) {
    if let Some(out) = huffman::decode(data, data.len() * 2) {
        assert!(out.len() * 5 <= data.len() * 8, "denser than the code");
    }
}

/// What decodes, encodes to a section that decodes to the same; heads likewise.
fn qpack_law(data: &[u8]) {
    let Ok(fields) = qpack::decode(data, LIMITS) else {
        return;
    };
    if let Ok(head) = RequestHead::decode(&fields) {
        let again = head.encode().map(qpack::Encoder::finish);
        assert!(again.is_ok(), "a head that was taken cannot be sent");
    }
    if let Ok(head) = ResponseHead::decode(&fields) {
        assert!(head.encode().is_ok(), "a head that was taken cannot be sent");
    }
    let _ = message::decode_trailers(&fields);
    let mut encoder = qpack::Encoder::default();
    for field in &fields {
        if let Ok(name) = std::str::from_utf8(&field.name) {
            encoder.field(name, &field.value, field.secret);
        }
    }
    let block = encoder.finish();
    let again = qpack::decode(&block, LIMITS).unwrap_or_default();
    let text = fields.iter().filter(|f| std::str::from_utf8(&f.name).is_ok());
    assert!(again.iter().eq(text), "fields changed on the way");
}

fn qpack_streams_law(data: &[u8]) {
    let _ = EncoderStream::default().feed(data);
    let _ = DecoderStream::default().feed(data);
}

fn capsule_law(data: &[u8]) {
    let (left, right) = data.split_at(data.len() / 2);
    assert_eq!(capsules(&[data]), capsules(&[left, right]), "a cut changed the capsules");
}

fn capsules(chunks: &[&[u8]]) -> Vec<Option<Bytes>> {
    let (mut reader, mut out) = (capsule::Reader::new(1024), Vec::new());
    for chunk in chunks {
        reader.feed(Bytes::copy_from_slice(chunk));
        while let Some(next) = reader.next() {
            let failed = next.is_err();
            out.push(next.ok().map(|capsule| capsule.value));
            if failed {
                return out;
            }
        }
    }
    out
}

fn datagram_law(data: &[u8]) {
    let Ok((quarter, payload)) = datagram::decode(Bytes::copy_from_slice(data)) else {
        return;
    };
    let again = datagram::encode(quarter, payload.clone());
    assert_eq!(datagram::decode(again), Ok((quarter, payload)));
}
