//! Prefixed integers (RFC 7541 5.1) and the string lengths built on them; used
//! by every QPACK instruction. Pure; values are bounded to 62 bits.

/// Reads an integer whose first byte carries `prefix` bits of it. Gives the
/// value and how many bytes it took.
pub(super) enum Read {
    /// Value and bytes taken.
    Done(u64, usize),
    /// The input ends inside it.
    Cut,
    /// Above 62 bits.
    Overflow,
}

pub(super) fn read(input: &[u8], prefix: u8) -> Read {
    let Some(first) = input.first() else {
        return Read::Cut;
    };
    let mask = (1u64 << prefix) - 1;
    let mut value = u64::from(*first) & mask;
    if value < mask {
        return Read::Done(value, 1);
    }
    for (index, byte) in input[1..].iter().enumerate() {
        let shift = index * 7;
        if shift > 56 {
            return Read::Overflow;
        }
        value += u64::from(byte & 0x7f) << shift;
        if value > crate::varint::MAX {
            return Read::Overflow;
        }
        if byte & 0x80 == 0 {
            return Read::Done(value, index + 2);
        }
    }
    Read::Cut
}

/// Appends an integer; `flags` are the bits of the first byte above the prefix.
pub(super) fn write(value: u64, prefix: u8, flags: u8, out: &mut Vec<u8>) {
    let mask = (1u64 << prefix) - 1;
    if value < mask {
        out.push(flags | value as u8);
        return;
    }
    out.push(flags | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_of_the_rfc() {
        // RFC 7541 C.1
        let mut out = Vec::new();
        write(10, 5, 0, &mut out);
        write(1337, 5, 0, &mut out);
        assert_eq!(out, [0b01010, 0b11111, 0b1001_1010, 0b1010]);
    }

    #[test]
    fn endless_integers_end() {
        assert!(matches!(read(&[0xff; 64], 7), Read::Overflow));
        assert!(matches!(read(&[0xff; 3], 7), Read::Cut));
        let padded = [0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0];
        assert!(matches!(read(&padded, 7), Read::Overflow));
    }

    proptest::proptest! {
        #[test]
        fn read_undoes_write(value in 0..=crate::varint::MAX, prefix in 3u8..=8) {
            let mut out = Vec::new();
            write(value, prefix, 0, &mut out);
            assert!(matches!(read(&out, prefix), Read::Done(v, n) if v == value && n == out.len()));
            assert!(matches!(read(&out[..out.len() - 1], prefix), Read::Cut));
        }
    }
}
