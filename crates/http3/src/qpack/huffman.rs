//! Huffman decoding of strings (RFC 7541 Appendix B), for foreign peers: this
//! codec itself sends plain literals. The code is canonical, so the lengths
//! alone define it and the decoding tables are built from them at compile time.

/// Code length in bits per symbol; the last one is the end-of-string symbol.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28,
    28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6,
    6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7,
    8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7,
    15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24,
    23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23,
    23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26,
    26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20,
    21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27,
    27, 27, 26, 30,
];

const MAX_BITS: usize = 30;
const EOS: u16 = 256;

/// Canonical decoding tables, one row per code length.
struct Tables {
    /// Symbols in code order.
    symbols: [u16; 257],
    /// One past the last code of this length, left-aligned in 30 bits.
    limit: [u64; MAX_BITS + 1],
    /// First code of this length, left-aligned in 30 bits.
    first: [u64; MAX_BITS + 1],
    /// Where this length's symbols begin in `symbols`.
    start: [usize; MAX_BITS + 1],
}

static TABLES: Tables = build();

const fn build() -> Tables {
    let mut tables = Tables {
        symbols: [0; 257],
        limit: [0; MAX_BITS + 1],
        first: [0; MAX_BITS + 1],
        start: [0; MAX_BITS + 1],
    };
    let (mut code, mut filled, mut bits) = (0u64, 0, 1);
    while bits <= MAX_BITS {
        tables.first[bits] = code;
        tables.start[bits] = filled;
        let mut symbol = 0;
        while symbol < 257 {
            if LENGTHS[symbol] as usize == bits {
                tables.symbols[filled] = symbol as u16;
                filled += 1;
                code += 1 << (MAX_BITS - bits);
            }
            symbol += 1;
        }
        tables.limit[bits] = code;
        bits += 1;
    }
    tables
}

/// Decodes one string, or `None` when it is no valid Huffman string: holds the
/// end-of-string symbol, or padding that is longer than 7 bits or not all ones.
/// `max` bounds the output in bytes.
pub fn decode(input: &[u8], max: usize) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(max.min(input.len() * 8 / 5));
    let (mut window, mut have) = (0u64, 0usize);
    let mut rest = input.iter();
    loop {
        while have <= 56 {
            let Some(byte) = rest.next() else { break };
            window |= u64::from(*byte) << (56 - have);
            have += 8;
        }
        let Some((symbol, bits)) = lookup(window, have) else {
            return padding_is_valid(window, have).then_some(out);
        };
        if symbol == EOS || out.len() == max {
            return None;
        }
        out.push(symbol as u8);
        window <<= bits;
        have -= bits;
    }
}

/// The symbol at the top of the window and its length, if `have` bits hold it.
fn lookup(window: u64, have: usize) -> Option<(u16, usize)> {
    let head = window >> (64 - MAX_BITS);
    let bits = (5..=have.min(MAX_BITS)).find(|bits| head < TABLES.limit[*bits])?;
    let offset = (head - TABLES.first[bits]) >> (MAX_BITS - bits);
    let symbol = TABLES.symbols[TABLES.start[bits] + offset as usize];
    Some((symbol, bits))
}

fn padding_is_valid(window: u64, have: usize) -> bool {
    have < 8 && window == !(u64::MAX >> have)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Encoder used only to state the round-trip law.
    fn encode(input: &[u8]) -> Vec<u8> {
        let (mut bits, mut count, mut out) = (0u64, 0, Vec::new());
        for byte in input {
            let length = usize::from(LENGTHS[usize::from(*byte)]);
            let row = TABLES.start[length];
            let offset = (row..257).find(|i| TABLES.symbols[*i] == u16::from(*byte)).unwrap() - row;
            let code = (TABLES.first[length] >> (MAX_BITS - length)) + offset as u64;
            bits = (bits << length) | code;
            count += length;
            while count >= 8 {
                out.push((bits >> (count - 8)) as u8);
                count -= 8;
                bits &= (1 << count) - 1;
            }
        }
        if count > 0 {
            out.push(((bits << (8 - count)) as u8) | (0xff >> count));
        }
        out
    }

    #[test]
    fn the_code_is_complete() {
        assert_eq!(TABLES.limit[MAX_BITS], 1 << MAX_BITS);
    }

    #[test]
    fn examples_of_the_rfc() {
        // RFC 7541 C.4.1 and C.4.3
        let host = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(decode(&host, 100).unwrap(), b"www.example.com");
        let key = [0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f];
        assert_eq!(decode(&key, 100).unwrap(), b"custom-key");
    }

    #[test]
    fn wrong_padding_and_end_of_string_are_refused() {
        assert_eq!(decode(&[0b0000_0000], 10), None, "padding of zeros");
        assert_eq!(decode(&[0x1f, 0xff], 10), None, "more than seven bits");
        assert_eq!(decode(&[0xff, 0xff, 0xff, 0xff], 10), None, "end of string");
        assert_eq!(decode(&[0x1f], 0), None, "longer than allowed");
        assert_eq!(decode(&[], 0), Some(vec![]));
    }

    proptest::proptest! {
        #[test]
        fn decode_undoes_encode(input: Vec<u8>) {
            assert_eq!(decode(&encode(&input), input.len()).unwrap(), input);
        }

        #[test]
        fn any_input_is_survived(input: Vec<u8>) {
            if let Some(out) = decode(&input, 4096) {
                assert_eq!(encode(&out), input);
            }
        }
    }
}
