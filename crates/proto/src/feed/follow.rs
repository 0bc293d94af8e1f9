//! A follower's link: connect, follow, lose, wait, connect again.
//!
//! Called by gateways, DNS servers and controllers (towards peers). [`follow()`] returns a future
//! that the caller runs; it never ends by a fault of the other side. What is held outlives the link.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use hansa_core::backoff::Backoff;
use hansa_core::code::{self, Code, control};
use hansa_core::policy::Refusal;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use self::session::{End, Session};
use super::assemble::Copy;
use super::handle::{Ends, Handle};
use super::{Kind, Position, Saved, Timing};
use crate::transport;

mod session;

/// What a follower takes at most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Rows held.
    pub rows: usize,
    /// Bytes of one change.
    pub bytes: usize,
    /// Bytes of all rows held, with their keys.
    pub total_bytes: usize,
    /// Bytes of one key; a row with a longer one is refused, the others are applied.
    pub key_bytes: usize,
    /// Bytes of one row; a larger one is refused, the others are applied.
    pub row_bytes: usize,
    /// The same for rows whose key begins with `service/`, which carry endpoints.
    pub service_row_bytes: usize,
}

impl Limits {
    /// What is taken of another member, which nobody here looks after.
    #[must_use]
    pub fn of_peer() -> Self {
        Self { bytes: 64 << 20, total_bytes: 64 << 20, ..Self::default() }
    }

    /// Why a row with a body of `size` bytes is not taken.
    pub(super) fn refuse(&self, key: &str, size: usize) -> Option<String> {
        if key.len() > self.key_bytes {
            let (has, most) = (key.len(), self.key_bytes);
            return Some(format!("the key has {has} bytes, at most {most} are taken"));
        }
        let most = if key.starts_with("service/") { self.service_row_bytes } else { self.row_bytes };
        (size > most).then(|| format!("the row has {size} bytes, at most {most} are taken"))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            rows: 100_000,
            bytes: 256 << 20,
            total_bytes: 256 << 20,
            key_bytes: 512,
            row_bytes: 64 << 10,
            service_row_bytes: 1 << 20,
        }
    }
}

/// Who follows what.
#[derive(Debug, Clone)]
pub struct Config {
    /// Own id: node id, or cluster id towards a peer.
    pub follower: String,
    /// Which rows.
    pub kind: Kind,
    /// What else this side can do.
    pub capabilities: Vec<String>,
    /// What is taken at most.
    pub limits: Limits,
    /// Times.
    pub timing: Timing,
}

impl Config {
    /// With default limits and times.
    pub fn new(follower: impl Into<String>, kind: Kind) -> Self {
        let (limits, timing) = (Limits::default(), Timing::default());
        Self { follower: follower.into(), kind, capabilities: Vec::new(), limits, timing }
    }
}

/// Why a link was lost, or could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// No connection, or no first message, in time.
    #[error("no connection within {0:?}")]
    ConnectTimeout(Duration),
    /// The publisher refused the follower.
    #[error("refused by the publisher: {0}")]
    Refused(String),
    /// The connection ended.
    #[error("the connection ended: {0}")]
    Closed(String),
    /// Nothing was heard for too long.
    #[error("nothing heard for {0:?}")]
    Silent(Duration),
    /// The publisher is older than what is held. What is held is kept.
    #[error("the publisher is at {published}, which is before {held} that is held")]
    Behind {
        /// Held.
        held: Position,
        /// Published.
        published: Position,
    },
    /// More rows than are taken. What is held is kept.
    #[error("more than {limit} rows")]
    TooManyRows {
        /// The limit.
        limit: usize,
    },
    /// One change with more bytes than are taken. What is held is kept.
    #[error("a change of more than {limit} bytes")]
    TooManyBytes {
        /// The limit.
        limit: usize,
    },
    /// Rows with more bytes in all than are taken. What is held is kept.
    #[error("rows of more than {limit} bytes in all")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// A snapshot whose own digest is wrong.
    #[error("the snapshot at {at} does not match its digest")]
    Digest {
        /// Where it leads.
        at: Position,
    },
    /// The publisher breaks the protocol.
    #[error("protocol error: {0}")]
    Protocol(String),
}

impl LinkError {
    /// The code for messages. `None`: the publisher could simply not be reached.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::TooManyRows { .. } | Self::TooManyBytes { .. } | Self::TooLarge { .. } => {
                Some(control::ROWS_TOO_MANY)
            }
            Self::Digest { .. } => Some(control::FEED_DIGEST),
            Self::Behind { .. } | Self::Protocol(_) => Some(control::FEED_FROM_THE_FUTURE),
            // Whoever refused, or whichever certificate was refused, said why.
            Self::Refused(text) | Self::Connect(text) | Self::Closed(text) => code::named_in(text),
            Self::ConnectTimeout(_) | Self::Silent(_) => None,
        }
    }

    /// Trying again soon cannot help: the publisher itself must change first.
    fn is_slow(&self) -> bool {
        matches!(
            self,
            Self::TooManyRows { .. }
                | Self::TooManyBytes { .. }
                | Self::TooLarge { .. }
                | Self::Digest { .. }
                | Self::Protocol(_)
        )
    }
}

/// A change that was taken into the copy; the owner puts it in use and says so
/// ([`Handle::applied`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Where it leads.
    pub position: Position,
    /// True: what is not in `changed` (or refused) is gone.
    pub snapshot: bool,
    /// New and changed rows.
    pub changed: Vec<(String, Bytes)>,
    /// Removed keys.
    pub removed: Vec<String>,
    /// Rows refused for their size; told to the publisher by the handle.
    pub refused: Vec<Refusal>,
}

/// A question of the publisher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// For [`Handle::reply`].
    pub id: u64,
    /// `explain`, `check`, `snapshot`; an unknown kind is answered with an error.
    pub kind: String,
    /// The question.
    pub json: Bytes,
}

/// What a link tells its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FollowEvent {
    /// The publisher answered.
    Connected {
        /// The protocol spoken.
        protocol: u32,
        /// The publisher's software.
        software: String,
    },
    /// Rows changed.
    Applied(Box<Applied>),
    /// The publisher lives, and is there. Left out while the owner does not read.
    Heartbeat {
        /// Where it is.
        position: Position,
    },
    /// The publisher asks.
    Question(Question),
    /// The link was lost; it is tried again after `retry_in`.
    Lost {
        /// Why.
        error: LinkError,
        /// The wait.
        retry_in: Duration,
    },
}

/// For publishers that must change before another try can succeed.
const SLOW: Backoff = Backoff { floor: 5_000, ceiling: 60_000, jitter: 0.25 };

/// Follows a publisher over connections made by `connect`, which may try several addresses.
/// Returns the owner's handle, the events, and the future to run: it ends only when the handle and
/// all its clones, or the events, are dropped.
pub fn follow<C, F, T, E>(
    config: Config,
    connect: C,
    resume: Option<&Saved>,
) -> (Handle, mpsc::Receiver<FollowEvent>, impl Future<Output = ()> + Send + use<C, F, T, E>)
where
    C: Fn() -> F + Send + Sync,
    F: Future<Output = Result<T, E>> + Send,
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    E: std::fmt::Display + Send,
{
    let copy = resume.map(Copy::resume).unwrap_or_default();
    let (handle, ends) = Handle::new(copy.position());
    let (events, receiver) = mpsc::channel(64);
    (handle, receiver, run(config, connect, Driver { copy, ends, events }))
}

struct Driver {
    copy: Copy,
    ends: Ends,
    events: mpsc::Sender<FollowEvent>,
}

async fn run<C, F, T, E>(config: Config, connect: C, mut driver: Driver)
where
    C: Fn() -> F + Send + Sync,
    F: Future<Output = Result<T, E>> + Send,
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    E: std::fmt::Display + Send,
{
    let mut attempt = 0;
    loop {
        let (error, worked) = match timeout(config.timing.connect, connect()).await {
            Err(_) => (LinkError::ConnectTimeout(config.timing.connect), false),
            Ok(Err(error)) => (LinkError::Connect(error.to_string()), false),
            Ok(Ok(io)) => match session(&config, io, &mut driver).await {
                (End::Dropped, _) => return,
                (End::Lost(error), worked) => (error, worked),
            },
        };
        driver.copy.interrupt();
        attempt = if worked && !error.is_slow() { 0 } else { attempt + 1 };
        let backoff = if error.is_slow() { SLOW } else { Backoff::CONTROL };
        let wait = backoff.wait(attempt, rand::random());
        let retry_in = Duration::from_millis(wait);
        driver.ends.status.send_modify(|status| {
            status.connected = false;
            status.error = Some(error.clone());
        });
        if driver.events.send(FollowEvent::Lost { error, retry_in }).await.is_err() {
            return;
        }
        tokio::select! {
            () = sleep(retry_in) => {}
            () = driver.events.closed() => return,
            () = driver.ends.dropped() => return,
        }
    }
}

async fn session<T>(config: &Config, io: T, driver: &mut Driver) -> (End, bool)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let channel = match timeout(config.timing.connect, transport::client(io)).await {
        Ok(Ok(channel)) => channel,
        Ok(Err(error)) => return (End::Lost(LinkError::Connect(error.to_string())), false),
        Err(_) => return (End::Lost(LinkError::ConnectTimeout(config.timing.connect)), false),
    };
    match Session::open(config, channel, driver).await {
        Ok(session) => (session.run().await, true),
        Err(error) => (End::Lost(error), false),
    }
}
