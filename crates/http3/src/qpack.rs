//! QPACK (RFC 9204) without a dynamic table: field sections to and from bytes,
//! and what may come on the peer's QPACK streams. Used for HEADERS frames;
//! keeps no state between sections.

mod decode;
mod encode;
pub mod huffman;
mod integer;
mod streams;
pub mod table;

pub use decode::{Field, Limits, QpackError, decode};
pub use encode::Encoder;
pub use streams::{DecoderStream, EncoderStream};

/// What a field costs beyond its bytes (RFC 9114 4.2.2).
pub const FIELD_OVERHEAD: u64 = 32;

#[cfg(test)]
mod tests;
