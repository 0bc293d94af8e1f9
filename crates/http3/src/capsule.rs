//! Capsules (RFC 9297 section 3) to and from bytes: the reliable twin of HTTP
//! datagrams, on any HTTP version. The caller moves the bytes, on HTTP/3 or
//! HTTP/2; this never touches a socket.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::frame::MAX_HEADER;
use crate::varint;

/// The DATAGRAM capsule.
pub const DATAGRAM: u64 = 0x00;

/// One capsule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capsule {
    /// Its type; unknown ones are to be skipped by the receiver.
    pub kind: u64,
    /// Its value.
    pub value: Bytes,
}

/// A capsule that cannot be taken; ends the stream (`H3_DATAGRAM_ERROR`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CapsuleError {
    /// The value of a known type is longer than the receiver's limit.
    #[error("capsule longer than {limit} bytes")]
    TooLong {
        /// The limit that held.
        limit: usize,
    },
    /// The stream ended inside a capsule (RFC 9297 3.3).
    #[error("stream ended inside a capsule")]
    Cut,
}

/// Appends one capsule.
pub fn encode(kind: u64, value: &[u8], out: &mut impl BufMut) {
    encode_header(kind, value.len() as u64, out);
    out.put_slice(value);
}

/// Appends a capsule's type and length; the value follows by the caller.
pub fn encode_header(kind: u64, length: u64, out: &mut impl BufMut) {
    varint::encode(kind, out);
    varint::encode(length, out);
}

/// Incremental reader of a capsule stream. DATAGRAM capsules are handed over,
/// all other types are skipped whatever their length, as RFC 9297 3.2 asks.
#[derive(Debug)]
pub struct Reader {
    limit: usize,
    pending: BytesMut,
    skip: u64,
}

impl Reader {
    /// `limit` bounds the value of one capsule in bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, pending: BytesMut::new(), skip: 0 }
    }

    /// Adds received bytes. Holds at most these and one unfinished capsule, as
    /// long as [`Self::next`] is called until `None` after each.
    pub fn feed(&mut self, mut input: Bytes) {
        let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(input.len());
        self.skip -= skipped as u64;
        input.advance(skipped);
        self.pending.extend_from_slice(&input);
    }

    /// The next whole DATAGRAM capsule, or `None` until more is fed.
    #[expect(
        clippy::should_implement_trait,
        reason = "None means not yet, not the end, so this is no iterator"
    )]
    pub fn next(&mut self) -> Option<Result<Capsule, CapsuleError>> {
        loop {
            let (kind, first) = varint::decode(&self.pending)?;
            let (length, second) = varint::decode(&self.pending[first..])?;
            let header = first + second;
            if kind != DATAGRAM {
                self.pending.advance(header);
                self.skip = length;
                let skipped = usize::try_from(length).unwrap_or(usize::MAX).min(self.pending.len());
                self.pending.advance(skipped);
                self.skip -= skipped as u64;
                continue;
            }
            let Some(length) = usize::try_from(length).ok().filter(|l| *l <= self.limit) else {
                return Some(Err(CapsuleError::TooLong { limit: self.limit }));
            };
            if self.pending.len() < header + length {
                self.pending.reserve(header + length - self.pending.len() + MAX_HEADER);
                return None;
            }
            self.pending.advance(header);
            let value = self.pending.split_to(length).freeze();
            return Some(Ok(Capsule { kind, value }));
        }
    }

    /// To be called when the stream ends cleanly.
    pub fn finish(&self) -> Result<(), CapsuleError> {
        if self.pending.is_empty() && self.skip == 0 {
            return Ok(());
        }
        Err(CapsuleError::Cut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_all(chunks: &[&[u8]]) -> (Vec<Bytes>, bool) {
        let (mut reader, mut out) = (Reader::new(100), Vec::new());
        for chunk in chunks {
            reader.feed(Bytes::copy_from_slice(chunk));
            while let Some(capsule) = reader.next() {
                out.push(capsule.unwrap().value);
            }
        }
        (out, reader.finish().is_ok())
    }

    #[test]
    fn an_oversized_datagram_is_refused_before_it_is_kept() {
        let mut reader = Reader::new(10);
        reader.feed(Bytes::from_static(&[0, 11]));
        let limit = 10;
        assert_eq!(reader.next(), Some(Err(CapsuleError::TooLong { limit })));
    }

    #[test]
    fn a_huge_unknown_capsule_is_skipped_without_being_kept() {
        let mut reader = Reader::new(10);
        reader.feed(Bytes::from_static(&[0x29, 0x80, 0x10, 0, 0]));
        assert_eq!(reader.next(), None);
        for _ in 0..16 {
            assert_eq!(reader.finish(), Err(CapsuleError::Cut));
            reader.feed(Bytes::from(vec![7; 65536]));
            assert!(reader.next().is_none() && reader.pending.is_empty());
        }
        assert_eq!(reader.finish(), Ok(()));
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_capsules(
            capsules in prop::collection::vec((0u64..3, prop::collection::vec(any::<u8>(), 0..100)), 0..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut wire = Vec::new();
            for (kind, value) in &capsules {
                encode(*kind, value, &mut wire);
            }
            let wanted: Vec<Bytes> = capsules
                .iter()
                .filter(|(kind, _)| *kind == DATAGRAM)
                .map(|(_, value)| Bytes::copy_from_slice(value))
                .collect();
            let cut = cut.index(wire.len() + 1);
            prop_assert_eq!(read_all(&[&wire[..cut], &wire[cut..]]), (wanted.clone(), true));
            let single: Vec<&[u8]> = wire.chunks(1).collect();
            prop_assert_eq!(read_all(&single), (wanted, true));
        }
    }
}
