//! HTTP/3 frames (RFC 9114 section 7): headers on slices, and an incremental
//! decoder that hands DATA through without copying and collects small frames
//! up to a limit. Used by request and control streams; never touches a socket.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::code::Code;
use crate::error::Violation;
use crate::varint;

/// Frame types known to this codec.
pub mod kind {
    /// Message content.
    pub const DATA: u64 = 0x00;
    /// A field section.
    pub const HEADERS: u64 = 0x01;
    /// Gives up a push.
    pub const CANCEL_PUSH: u64 = 0x03;
    /// Settings, first on the control stream.
    pub const SETTINGS: u64 = 0x04;
    /// Promises a push.
    pub const PUSH_PROMISE: u64 = 0x05;
    /// No new requests from this id on.
    pub const GOAWAY: u64 = 0x07;
    /// Allows pushes.
    pub const MAX_PUSH_ID: u64 = 0x0d;
}

/// Whether HTTP/2 used this type, which makes it an error in HTTP/3
/// (RFC 9114 7.2.8).
pub const fn is_http2_only(kind: u64) -> bool {
    matches!(kind, 0x02 | 0x06 | 0x08 | 0x09)
}

/// The longest frame header: two eight-byte integers.
pub const MAX_HEADER: usize = 16;

/// Reads a frame header: type, payload length, bytes taken. `None` means that
/// more input is needed.
#[inline]
pub fn decode_header(input: &[u8]) -> Option<(u64, u64, usize)> {
    let (kind, first) = varint::decode(input)?;
    let (length, second) = varint::decode(&input[first..])?;
    Some((kind, length, first + second))
}

/// Appends a frame header.
#[inline]
pub fn encode_header(kind: u64, length: u64, out: &mut impl BufMut) {
    varint::encode(kind, out);
    varint::encode(length, out);
}

/// A whole frame around `payload`.
pub fn encode(kind: u64, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(MAX_HEADER + payload.len());
    encode_header(kind, payload.len() as u64, &mut out);
    out.extend_from_slice(payload);
    out.freeze()
}

/// What the owner of a stream wants done with a frame it sees beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Hand the payload through as it comes, as [`Decoded::Data`].
    Stream,
    /// Wait for the whole payload, then hand it over as [`Decoded::Frame`].
    Collect,
    /// Drop the payload.
    Skip,
}

/// What [`Decoder::decode`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// The input is used up and nothing is complete.
    NeedMore,
    /// A piece of a streamed frame's payload, never empty.
    Data(Bytes),
    /// A collected frame: type and whole payload.
    Frame(u64, Bytes),
}

#[derive(Debug)]
enum Payload {
    None,
    Stream(u64),
    Skip(u64),
    Collect { kind: u64, missing: usize, have: BytesMut },
}

/// Incremental frame decoder of one stream. Holds at most one partial frame
/// header and one partially collected frame.
#[derive(Debug)]
pub struct Decoder {
    header: [u8; MAX_HEADER],
    filled: u8,
    payload: Payload,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { header: [0; MAX_HEADER], filled: 0, payload: Payload::None }
    }
}

impl Decoder {
    /// Whether the stream may end here: between frames.
    pub fn at_boundary(&self) -> bool {
        self.filled == 0 && matches!(self.payload, Payload::None)
    }

    /// Takes the next thing off `input`. `rule` is asked once per frame, with
    /// type and length, before any payload is taken; it bounds the lengths.
    #[inline]
    pub fn decode(
        &mut self,
        input: &mut Bytes,
        mut rule: impl FnMut(u64, u64) -> Result<Action, Violation>,
    ) -> Result<Decoded, Violation> {
        loop {
            match &mut self.payload {
                Payload::Stream(left) if !input.is_empty() => {
                    let take = clamp(*left, input.len());
                    *left -= take as u64;
                    if *left == 0 {
                        self.payload = Payload::None;
                    }
                    return Ok(Decoded::Data(input.split_to(take)));
                }
                Payload::Skip(left) => {
                    let take = clamp(*left, input.len());
                    input.advance(take);
                    *left -= take as u64;
                    if *left > 0 {
                        return Ok(Decoded::NeedMore);
                    }
                    self.payload = Payload::None;
                }
                Payload::Collect { .. } => return Ok(self.collect(input)),
                Payload::Stream(_) => return Ok(Decoded::NeedMore),
                Payload::None => {
                    let Some((kind, length)) = self.next_header(input) else {
                        return Ok(Decoded::NeedMore);
                    };
                    self.begin(kind, length, rule(kind, length)?)?;
                }
            }
        }
    }

    fn begin(&mut self, kind: u64, length: u64, action: Action) -> Result<(), Violation> {
        self.payload = match action {
            Action::Stream if length == 0 => Payload::None,
            Action::Stream => Payload::Stream(length),
            Action::Skip => Payload::Skip(length),
            Action::Collect => Payload::Collect {
                kind,
                missing: usize::try_from(length).map_err(|_| TOO_LONG)?,
                have: BytesMut::new(),
            },
        };
        Ok(())
    }

    /// The whole payload in one chunk is sliced, not copied.
    fn collect(&mut self, input: &mut Bytes) -> Decoded {
        let Payload::Collect { kind, missing, have } = &mut self.payload else {
            return Decoded::NeedMore;
        };
        let kind = *kind;
        if have.is_empty() && input.len() >= *missing {
            let whole = input.split_to(*missing);
            self.payload = Payload::None;
            return Decoded::Frame(kind, whole);
        }
        let take = (*missing).min(input.len());
        have.extend_from_slice(&input[..take]);
        input.advance(take);
        *missing -= take;
        if *missing > 0 {
            return Decoded::NeedMore;
        }
        let whole = std::mem::take(have).freeze();
        self.payload = Payload::None;
        Decoded::Frame(kind, whole)
    }

    /// Reads a header, also one that is spread over several chunks.
    #[inline]
    fn next_header(&mut self, input: &mut Bytes) -> Option<(u64, u64)> {
        if self.filled == 0
            && let Some((kind, length, taken)) = decode_header(input)
        {
            input.advance(taken);
            return Some((kind, length));
        }
        while !input.is_empty() {
            self.header[usize::from(self.filled)] = input.get_u8();
            self.filled += 1;
            let have = &self.header[..usize::from(self.filled)];
            if let Some((kind, length, _)) = decode_header(have) {
                self.filled = 0;
                return Some((kind, length));
            }
        }
        None
    }
}

const TOO_LONG: Violation = Violation::connection(Code::H3_EXCESSIVE_LOAD, "frame too long");

#[inline]
fn clamp(left: u64, have: usize) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(have)
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
