//! Rows and position as bytes, for the disk.
//!
//! Called by servers that keep their last value across restarts. A file that is cut or altered is an
//! error, never a guess; writing and setting aside files is the caller's.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes};
use sha2::{Digest as _, Sha256};

use super::Position;
use super::follow::Applied;
use crate::convert::Rows;

const MAGIC: &[u8; 8] = b"hansaf01";
const CHECKSUM: usize = 32;

/// What a follower held last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// Where it was.
    pub position: Position,
    /// All rows, also those it refused.
    pub rows: Rows,
}

/// Why saved bytes cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SavedError {
    /// Not a file of this kind, or of a version that is not known.
    #[error("not a saved feed of a known version")]
    Foreign,
    /// Bytes are missing.
    #[error("the saved feed is cut short")]
    Truncated,
    /// The checksum is wrong.
    #[error("the saved feed is damaged")]
    Damaged,
}

impl Saved {
    /// Nothing yet.
    pub fn empty() -> Self {
        Self { position: Position { epoch: 0, version: 0, digest: 0 }, rows: BTreeMap::new() }
    }

    /// Takes a change in. Rows refused for their size are not kept; the next start then begins
    /// with a snapshot.
    pub fn apply(&mut self, change: &Applied) {
        if change.snapshot {
            self.rows.clear();
        }
        for key in &change.removed {
            self.rows.remove(key);
        }
        self.rows.extend(change.changed.iter().cloned());
        self.position = change.position;
    }

    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let size: usize = self.rows.iter().map(|(key, body)| key.len() + body.len() + 8).sum();
        let mut out = Vec::with_capacity(size + 80);
        out.put_slice(MAGIC);
        out.put_u64(self.position.epoch);
        out.put_u64(self.position.version);
        out.put_u128(self.position.digest);
        out.put_u64(self.rows.len() as u64);
        for (key, body) in &self.rows {
            put(&mut out, key.as_bytes());
            put(&mut out, body);
        }
        let sum = Sha256::digest(&out);
        out.put_slice(&sum);
        out
    }

    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, SavedError> {
        if bytes.len() < MAGIC.len() {
            return Err(SavedError::Truncated);
        }
        if &bytes[..MAGIC.len()] != MAGIC {
            return Err(SavedError::Foreign);
        }
        let body = bytes.len().checked_sub(CHECKSUM).ok_or(SavedError::Truncated)?;
        let (body, sum) = bytes.split_at(body);
        if body.len() < MAGIC.len() + 40 {
            return Err(SavedError::Truncated);
        }
        if Sha256::digest(body).as_slice() != sum {
            return Err(SavedError::Damaged);
        }
        let mut rest = &body[MAGIC.len()..];
        let position = Position { epoch: rest.get_u64(), version: rest.get_u64(), digest: rest.get_u128() };
        let count = rest.get_u64();
        let mut rows = BTreeMap::new();
        for _ in 0..count {
            let key = take(&mut rest)?;
            let key = std::str::from_utf8(key).map_err(|_| SavedError::Damaged)?.to_owned();
            rows.insert(key, Bytes::copy_from_slice(take(&mut rest)?));
        }
        if rest.is_empty() { Ok(Self { position, rows }) } else { Err(SavedError::Damaged) }
    }
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    // A row is at most a few MiB (the limit of a message), so its length fits.
    out.put_u32(bytes.len() as u32);
    out.put_slice(bytes);
}

fn take<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], SavedError> {
    if rest.len() < 4 {
        return Err(SavedError::Truncated);
    }
    let length = rest.get_u32() as usize;
    if rest.len() < length {
        return Err(SavedError::Truncated);
    }
    let (bytes, more) = rest.split_at(length);
    *rest = more;
    Ok(bytes)
}
