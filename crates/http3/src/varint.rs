//! QUIC variable-length integers (RFC 9000 section 16), the only integer form
//! of HTTP/3 frames, settings, datagrams and capsules. Works on slices; never
//! waits and never allocates.

use bytes::BufMut;

/// The largest value the encoding can carry.
pub const MAX: u64 = (1 << 62) - 1;

/// Reads one integer: its value and how many bytes it took, or `None` when the
/// input ends too early. Longer encodings than needed are valid.
#[inline]
pub fn decode(input: &[u8]) -> Option<(u64, usize)> {
    let first = *input.first()?;
    let length = 1usize << (first >> 6);
    let bytes = input.get(1..length)?;
    let head = u64::from(first & 0x3f);
    let value = bytes.iter().fold(head, |v, b| (v << 8) | u64::from(*b));
    Some((value, length))
}

/// Takes one integer off the front of `input`, or leaves it alone.
pub fn take(input: &mut &[u8]) -> Option<u64> {
    let (value, length) = decode(input)?;
    *input = &input[length..];
    Some(value)
}

/// How many bytes the shortest encoding of `value` needs.
#[inline]
pub const fn size(value: u64) -> usize {
    match value {
        0..0x40 => 1,
        0x40..0x4000 => 2,
        0x4000..0x4000_0000 => 4,
        _ => 8,
    }
}

/// Appends the shortest encoding. Values above [`MAX`] cannot be expressed;
/// they are clamped, and every caller in this crate checks before.
#[inline]
pub fn encode(value: u64, out: &mut impl BufMut) {
    debug_assert!(value <= MAX);
    let value = value.min(MAX);
    match size(value) {
        1 => out.put_u8(value as u8),
        2 => out.put_u16(value as u16 | 0x4000),
        4 => out.put_u32(value as u32 | 0x8000_0000),
        _ => out.put_u64(value | 0xc000_0000_0000_0000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_of_the_rfc() {
        // RFC 9000 A.1
        let eight = [0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c];
        assert_eq!(decode(&eight), Some((151_288_809_941_952_652, 8)));
        assert_eq!(decode(&[0x9d, 0x7f, 0x3e, 0x7d]), Some((494_878_333, 4)));
        assert_eq!(decode(&[0x7b, 0xbd]), Some((15_293, 2)));
        assert_eq!(decode(&[0x25]), Some((37, 1)));
        assert_eq!(decode(&[0x40, 0x25]), Some((37, 2)), "longer than needed");
        assert_eq!(decode(&[0x40]), None);
        assert_eq!(decode(&[]), None);
    }

    proptest::proptest! {
        #[test]
        fn decode_undoes_encode(value in 0..=MAX) {
            let mut out = Vec::new();
            encode(value, &mut out);
            assert_eq!(decode(&out), Some((value, size(value))));
            assert_eq!(out.len(), size(value));
        }
    }
}
