//! The feed: how rows of any type get from one publisher to its followers.
//!
//! [`publish`] and [`serve`] are used by the controller, [`follow()`] by gateways, DNS servers and
//! the controllers of peers. Nothing here knows what a row means, and nothing here spawns a task of
//! its own: futures and streams are handed to the caller.

use std::fmt;
use std::time::Duration;

use hansa_core::table::Digest;

use crate::convert::Reason;
use crate::wire::feed::v1 as pb;

mod assemble;
pub mod follow;
mod handle;
pub mod publish;
pub mod saved;
pub mod serve;

pub(crate) use assemble::assemble_law;

pub use follow::{Config, FollowEvent, LinkError, Question, follow};
pub use handle::{Handle, Status};
pub use publish::Publisher;
pub use saved::Saved;
pub use serve::{Ack, AskError, Event, EventBody, Follower, Hello, hello, serve};

/// The newest protocol spoken.
pub const PROTOCOL: u32 = 1;
/// The oldest protocol still spoken: two before the newest.
pub const OLDEST_PROTOCOL: u32 = if PROTOCOL > 2 { PROTOCOL - 2 } else { 1 };

/// A state of a publisher's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    /// Grows whenever another controller begins to make versions.
    pub epoch: u64,
    /// Grows with every change.
    pub version: u64,
    /// Digest of all rows.
    pub digest: Digest,
}

impl Position {
    /// True if this position was reached before `other`.
    pub fn is_before(&self, other: &Self) -> bool {
        (self.epoch, self.version) < (other.epoch, other.version)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.version)
    }
}

impl From<Position> for pb::Position {
    fn from(position: Position) -> Self {
        let digest = position.digest.to_be_bytes().to_vec().into();
        Self { epoch: position.epoch, version: position.version, digest }
    }
}

impl TryFrom<pb::Position> for Position {
    type Error = Reason;
    fn try_from(wire: pb::Position) -> Result<Self, Reason> {
        let digest: [u8; 16] =
            wire.digest.as_ref().try_into().map_err(|_| Reason::new("a digest has 16 bytes"))?;
        Ok(Self { epoch: wire.epoch, version: wire.version, digest: Digest::from_be_bytes(digest) })
    }
}

/// Which rows are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// What a cluster offers to a peer.
    Catalog,
    /// What a gateway needs.
    Routes,
    /// What a DNS server needs.
    Zone,
}

impl Kind {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Catalog => "catalog",
            Self::Routes => "routes",
            Self::Zone => "zone",
        }
    }

    fn from_wire(text: &str) -> Option<Self> {
        [Self::Catalog, Self::Routes, Self::Zone].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// The times of a feed, the same on both sides.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Between heartbeats, and between acknowledgements without news.
    pub beat: Duration,
    /// Without any message for so long, the link is lost.
    pub silence: Duration,
    /// For connecting, and for the first message.
    pub connect: Duration,
    /// Between two snapshots that one follower asks for, and for acknowledging one change.
    pub settle: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            beat: Duration::from_secs(1),
            silence: Duration::from_secs(5),
            connect: Duration::from_secs(5),
            settle: Duration::from_secs(60),
        }
    }
}

/// Most bytes of rows in one message; a larger row travels alone.
const CHUNK_BYTES: usize = 1024 * 1024;
/// Most rows and removed keys in one message.
const CHUNK_ROWS: usize = 10_000;
