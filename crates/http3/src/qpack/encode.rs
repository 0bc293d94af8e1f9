//! Encodes a field section with static-table matches and plain literals (RFC
//! 9204 4.5). Used for the HEADERS we send; refers to no dynamic entry, so a
//! peer can never be blocked by it.

use super::FIELD_OVERHEAD;
use super::integer::write;
use super::table::{Match, find};

/// Builds one field section.
#[derive(Debug)]
pub struct Encoder {
    block: Vec<u8>,
    size: u64,
}

impl Default for Encoder {
    fn default() -> Self {
        let mut block = Vec::with_capacity(256);
        // Required insert count 0, base 0: nothing dynamic follows.
        block.extend_from_slice(&[0, 0]);
        Self { block, size: 0 }
    }
}

impl Encoder {
    /// Appends a field. `name` is lower case; `secret` asks every hop never to
    /// put it into a table.
    pub fn field(&mut self, name: &str, value: &[u8], secret: bool) {
        self.size += name.len() as u64 + value.len() as u64 + FIELD_OVERHEAD;
        let never = u8::from(secret);
        match find(name, value) {
            Match::Full(index) if !secret => write(index as u64, 6, 0b1100_0000, &mut self.block),
            Match::Full(index) | Match::Name(index) => {
                write(index as u64, 4, 0b0101_0000 | never << 5, &mut self.block);
                self.string(value);
            }
            Match::None => {
                let flags = 0b0010_0000 | never << 4;
                write(name.len() as u64, 3, flags, &mut self.block);
                self.block.extend_from_slice(name.as_bytes());
                self.string(value);
            }
        }
    }

    fn string(&mut self, value: &[u8]) {
        write(value.len() as u64, 7, 0, &mut self.block);
        self.block.extend_from_slice(value);
    }

    /// Size by the rule that the peer's limit uses (RFC 9114 4.2.2).
    pub fn section_size(&self) -> u64 {
        self.size
    }

    /// The bytes for a HEADERS frame.
    pub fn finish(self) -> Vec<u8> {
        self.block
    }
}
