//! Decodes a field section (RFC 9204 4.5) under limits. Used for the HEADERS
//! we receive; whatever refers to a dynamic table is an error, because none was
//! granted. Plain strings are borrowed from the input.

use std::borrow::Cow;

use super::integer::{Read, read};
use super::{FIELD_OVERHEAD, huffman, table};

/// Bounds on one field section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sum over fields of name, value and 32 bytes.
    pub size: u64,
    /// Number of fields.
    pub fields: usize,
}

/// Why a field section cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QpackError {
    /// Not valid QPACK, or refers to a dynamic table.
    #[error("field section cannot be decoded")]
    Invalid,
    /// Valid so far, but over a limit.
    #[error("field section exceeds a limit")]
    TooLarge,
}

/// One field as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field<'a> {
    /// Name; its characters are not checked here.
    pub name: Cow<'a, [u8]>,
    /// Value; its characters are not checked here.
    pub value: Cow<'a, [u8]>,
    /// The sender forbids putting it into any table: a secret.
    pub secret: bool,
}

/// Decodes a whole section.
pub fn decode(block: &[u8], limits: Limits) -> Result<Vec<Field<'_>>, QpackError> {
    let mut reader = Reader { rest: block, left: limits.size };
    // Required insert count, then sign and base, which mean nothing without
    // dynamic references.
    if reader.integer(8)? != 0 {
        return Err(QpackError::Invalid);
    }
    reader.integer(7)?;
    let mut fields = Vec::with_capacity(16);
    while let Some(first) = reader.rest.first().copied() {
        if fields.len() == limits.fields {
            return Err(QpackError::TooLarge);
        }
        let field = reader.field(first)?;
        let size = field.name.len() as u64 + field.value.len() as u64 + FIELD_OVERHEAD;
        reader.left = reader.left.checked_sub(size).ok_or(QpackError::TooLarge)?;
        fields.push(field);
    }
    Ok(fields)
}

struct Reader<'a> {
    rest: &'a [u8],
    left: u64,
}

impl<'a> Reader<'a> {
    fn field(&mut self, first: u8) -> Result<Field<'a>, QpackError> {
        if first & 0b1100_0000 == 0b1100_0000 {
            let (name, value) = self.entry(6)?;
            return Ok(Field {
                name: Cow::Borrowed(name.as_bytes()),
                value: Cow::Borrowed(value.as_bytes()),
                secret: false,
            });
        }
        if first & 0b1101_0000 == 0b0101_0000 {
            let (name, _) = self.entry(4)?;
            return Ok(Field {
                name: Cow::Borrowed(name.as_bytes()),
                value: self.string(7)?,
                secret: first & 0b0010_0000 != 0,
            });
        }
        if first & 0b1110_0000 == 0b0010_0000 {
            return Ok(Field {
                name: self.string(3)?,
                value: self.string(7)?,
                secret: first & 0b0001_0000 != 0,
            });
        }
        // Everything else refers to the dynamic table.
        Err(QpackError::Invalid)
    }

    fn integer(&mut self, prefix: u8) -> Result<u64, QpackError> {
        match read(self.rest, prefix) {
            Read::Done(value, taken) => {
                self.rest = &self.rest[taken..];
                Ok(value)
            }
            Read::Cut | Read::Overflow => Err(QpackError::Invalid),
        }
    }

    fn entry(&mut self, prefix: u8) -> Result<(&'static str, &'static str), QpackError> {
        let index = usize::try_from(self.integer(prefix)?).map_err(|_| QpackError::Invalid)?;
        table::STATIC.get(index).copied().ok_or(QpackError::Invalid)
    }

    /// A string whose Huffman flag stands just above the length's prefix.
    fn string(&mut self, prefix: u8) -> Result<Cow<'a, [u8]>, QpackError> {
        let first = *self.rest.first().ok_or(QpackError::Invalid)?;
        let coded = first & (1 << prefix) != 0;
        let length = usize::try_from(self.integer(prefix)?).map_err(|_| QpackError::Invalid)?;
        if length > self.rest.len() {
            return Err(QpackError::Invalid);
        }
        let (bytes, rest) = self.rest.split_at(length);
        self.rest = rest;
        // Five bits are the shortest code, so the output is bounded by the
        // input anyway; the section limit is applied by the caller.
        if coded {
            let whole = huffman::decode(bytes, bytes.len() * 2);
            return Ok(Cow::Owned(whole.ok_or(QpackError::Invalid)?));
        }
        Ok(Cow::Borrowed(bytes))
    }
}
