//! Laws of the field section codec.

use proptest::prelude::*;

use super::*;

const WIDE: Limits = Limits { size: 1 << 20, fields: 1000 };

#[test]
fn a_connect_head_is_small() {
    let mut encoder = Encoder::default();
    encoder.field(":method", b"CONNECT", false);
    encoder.field(":authority", b"a:1", false);
    let block = encoder.finish();
    assert_eq!(block, [0, 0, 0xcf, 0x50, 3, b'a', b':', b'1']);
}

#[test]
fn huffman_strings_are_read() {
    // RFC 9204 has no Huffman example; the string is of RFC 7541 C.4.3.
    let mut block = vec![0, 0, 0b0010_1111, 1];
    block.extend([0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f]);
    block.extend([1, b'x']);
    let fields = decode(&block, WIDE).unwrap();
    assert_eq!(fields[0].name.as_ref(), b"custom-key");
    assert_eq!(fields[0].value.as_ref(), b"x");
}

#[test]
fn dynamic_references_are_refused() {
    for first in [0x80u8, 0x40, 0x10, 0x00, 0x08] {
        let block = [0, 0, first, 0, 0];
        assert_eq!(decode(&block, WIDE), Err(QpackError::Invalid), "{first:x}");
    }
    assert_eq!(decode(&[1, 0, 0xc0], WIDE), Err(QpackError::Invalid));
    assert_eq!(decode(&[], WIDE), Err(QpackError::Invalid));
    assert_eq!(decode(&[0, 0, 0xff, 99 - 63], WIDE), Err(QpackError::Invalid));
}

#[test]
fn limits_hold() {
    let mut encoder = Encoder::default();
    for _ in 0..10 {
        encoder.field("x-y", b"12345", false);
    }
    assert_eq!(encoder.section_size(), 400);
    let block = encoder.finish();
    let limits = |size, fields| decode(&block, Limits { size, fields }).map(|f| f.len());
    assert_eq!(limits(400, 10), Ok(10));
    assert_eq!(limits(399, 10), Err(QpackError::TooLarge));
    assert_eq!(limits(400, 9), Err(QpackError::TooLarge));
}

proptest! {
    #[test]
    fn decode_undoes_encode(
        fields in prop::collection::vec(("[a-z:-]{0,20}", any::<Vec<u8>>(), any::<bool>()), 0..20),
    ) {
        let mut encoder = Encoder::default();
        for (name, value, secret) in &fields {
            encoder.field(name, value, *secret);
        }
        let block = encoder.finish();
        let back = decode(&block, WIDE).unwrap();
        prop_assert_eq!(back.len(), fields.len());
        for (field, (name, value, secret)) in back.iter().zip(&fields) {
            prop_assert_eq!(field.name.as_ref(), name.as_bytes());
            prop_assert_eq!(field.value.as_ref(), value);
            prop_assert_eq!(field.secret, *secret);
        }
    }

    #[test]
    fn every_static_entry_survives(index in 0usize..99) {
        let (name, value) = table::STATIC[index];
        let mut encoder = Encoder::default();
        encoder.field(name, value.as_bytes(), false);
        let block = encoder.finish();
        let field = &decode(&block, WIDE).unwrap()[0];
        prop_assert_eq!((field.name.as_ref(), field.value.as_ref()), (name.as_bytes(), value.as_bytes()));
    }
}
