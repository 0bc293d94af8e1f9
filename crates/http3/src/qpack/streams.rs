//! What may come on the peer's QPACK streams when no dynamic table was granted
//! and none is used (RFC 9204 4.3, 4.4). Fed by the driver with the bytes of
//! those streams; keeps at most one unfinished integer.

use super::integer::{Read, read};
use crate::code::Code;
use crate::error::Violation;

/// An unfinished instruction; eleven bytes hold any integer we accept.
#[derive(Debug, Default)]
struct Partial(Vec<u8>);

impl Partial {
    /// Reads instructions of one integer each off the input and gives `check`
    /// the first byte and the value.
    fn feed(
        &mut self,
        input: &[u8],
        prefix: impl Fn(u8) -> Option<u8>,
        check: impl Fn(u8, u64) -> bool,
    ) -> Option<()> {
        for byte in input {
            self.0.push(*byte);
            let first = self.0[0];
            match read(&self.0, prefix(first)?) {
                Read::Done(value, _) => {
                    check(first, value).then_some(())?;
                    self.0.clear();
                }
                Read::Cut => {}
                Read::Overflow => return None,
            }
        }
        Some(())
    }
}

/// The peer's encoder stream: with capacity 0 it may only set the capacity to
/// 0, any number of times.
#[derive(Debug, Default)]
pub struct EncoderStream(Partial);

impl EncoderStream {
    /// Checks the next bytes.
    pub fn feed(&mut self, input: &[u8]) -> Result<(), Violation> {
        let capacity = |first| (first & 0b1110_0000 == 0b0010_0000).then_some(5);
        let ok = self.0.feed(input, capacity, |_, value| value == 0);
        let code = Code::QPACK_ENCODER_STREAM_ERROR;
        ok.ok_or(Violation::connection(code, "dynamic table was not granted"))
    }
}

/// The peer's decoder stream: it may cancel streams, but has nothing to
/// acknowledge.
#[derive(Debug, Default)]
pub struct DecoderStream(Partial);

impl DecoderStream {
    /// Checks the next bytes.
    pub fn feed(&mut self, input: &[u8]) -> Result<(), Violation> {
        let cancellation = |first| (first & 0b1100_0000 == 0b0100_0000).then_some(6);
        let ok = self.0.feed(input, cancellation, |_, _| true);
        let code = Code::QPACK_DECODER_STREAM_ERROR;
        ok.ok_or(Violation::connection(code, "no dynamic entry was sent"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_harmless_instructions_pass() {
        let mut encoder = EncoderStream::default();
        assert!(encoder.feed(&[0x20, 0x20]).is_ok());
        assert!(encoder.feed(&[0x21]).is_err(), "capacity 1");
        assert!(EncoderStream::default().feed(&[0xc0]).is_err(), "insert");
        let mut decoder = DecoderStream::default();
        assert!(decoder.feed(&[0x41, 0x7f]).is_ok());
        assert!(decoder.feed(&[0x05]).is_ok(), "rest of a long stream id");
        assert!(decoder.feed(&[0x80]).is_err(), "acknowledgement");
        assert!(DecoderStream::default().feed(&[0x01]).is_err(), "increment");
        assert!(DecoderStream::default().feed(&[0x7f; 1]).is_ok());
        assert!(DecoderStream::default().feed(&[0xff; 64]).is_err(), "endless");
    }
}
