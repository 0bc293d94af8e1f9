//! HTTP datagrams (RFC 9297 section 2): the quarter stream id in front, and a
//! bounded queue per stream behind it. The driver dispatches what arrives, the
//! application holds the two halves. Never waits for a slow reader: what does
//! not fit is dropped and counted.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::sync::mpsc;

use crate::code::Code;
use crate::error::{ConnectionError, Violation};
use crate::shared::Shared;
use crate::varint;

/// The largest quarter stream id: stream ids have 62 bits.
pub const MAX_QUARTER: u64 = varint::MAX / 4;

/// How long a datagram may wait for its stream to appear.
const EARLY_AGE: Duration = Duration::from_secs(1);

/// Splits a QUIC datagram into quarter stream id and payload.
pub fn decode(mut datagram: Bytes) -> Result<(u64, Bytes), Violation> {
    match varint::decode(&datagram) {
        Some((quarter, length)) if quarter <= MAX_QUARTER => {
            datagram.advance(length);
            Ok((quarter, datagram))
        }
        _ => {
            let code = Code::H3_DATAGRAM_ERROR;
            Err(Violation::connection(code, "bad quarter stream id"))
        }
    }
}

/// Puts the quarter stream id in front of a payload. Copies the payload once.
pub fn encode(quarter: u64, payload: impl Buf) -> Bytes {
    let mut out = BytesMut::with_capacity(varint::size(quarter) + payload.remaining());
    varint::encode(quarter, &mut out);
    out.put(payload);
    out.freeze()
}

/// Why a datagram was not sent. All but the last concern this one alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatagramError {
    /// One of the sides does not do HTTP datagrams.
    #[error("peer does not take HTTP datagrams")]
    Disabled,
    /// Larger than the path takes now; never fragmented.
    #[error("datagram exceeds {max} bytes")]
    TooLarge {
        /// What would fit, in bytes.
        max: usize,
    },
    /// The send buffer is full; dropped, as a busy link does.
    #[error("datagram send buffer is full")]
    Busy,
    /// The whole connection is gone.
    #[error(transparent)]
    Connection(ConnectionError),
}

/// Received datagrams that were thrown away, by cause.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DatagramDrops {
    /// No stream with that id took them in time.
    pub unknown: u64,
    /// The stream's queue was full.
    pub overflow: u64,
}

#[derive(Debug, Default)]
struct Routes {
    open: HashMap<u64, mpsc::Sender<Bytes>>,
    /// Datagrams that overtook their request, oldest first.
    early: VecDeque<(Instant, u64, Bytes)>,
    closed: bool,
}

/// Routes received datagrams to the streams' queues.
#[derive(Debug)]
pub(crate) struct Demux {
    routes: Mutex<Routes>,
    queue: usize,
    early: usize,
    unknown: AtomicU64,
    overflow: AtomicU64,
}

impl Demux {
    /// `queue` datagrams per stream, `early` for streams not yet seen.
    pub(crate) fn new(queue: usize, early: usize) -> Self {
        Self {
            routes: Mutex::default(),
            queue: queue.max(1),
            early,
            unknown: AtomicU64::new(0),
            overflow: AtomicU64::new(0),
        }
    }

    pub(crate) fn drops(&self) -> DatagramDrops {
        DatagramDrops {
            unknown: self.unknown.load(Ordering::Relaxed),
            overflow: self.overflow.load(Ordering::Relaxed),
        }
    }

    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a received datagram to its stream.
    pub(crate) fn dispatch(&self, datagram: Bytes) -> Result<(), Violation> {
        let (quarter, payload) = decode(datagram)?;
        let mut routes = self.routes();
        match routes.open.get(&quarter) {
            Some(queue) => self.push(queue, payload),
            None => self.keep_early(&mut routes, quarter, payload),
        }
        Ok(())
    }

    fn push(&self, queue: &mpsc::Sender<Bytes>, payload: Bytes) {
        let cause = match queue.try_send(payload) {
            Ok(()) => return,
            Err(mpsc::error::TrySendError::Full(_)) => &self.overflow,
            Err(mpsc::error::TrySendError::Closed(_)) => &self.unknown,
        };
        cause.fetch_add(1, Ordering::Relaxed);
    }

    fn keep_early(&self, routes: &mut Routes, quarter: u64, payload: Bytes) {
        let now = Instant::now();
        routes.early.push_back((now, quarter, payload));
        while let Some((born, ..)) = routes.early.front() {
            if routes.early.len() <= self.early && now.duration_since(*born) < EARLY_AGE {
                break;
            }
            routes.early.pop_front();
            self.unknown.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Opens the queue of a stream; a second one replaces the first.
    fn register(&self, quarter: u64) -> mpsc::Receiver<Bytes> {
        let (sender, receiver) = mpsc::channel(self.queue);
        let mut routes = self.routes();
        if routes.closed {
            return receiver;
        }
        let waiting = std::mem::take(&mut routes.early);
        for (born, id, payload) in waiting {
            match id == quarter {
                true => self.push(&sender, payload),
                false => routes.early.push_back((born, id, payload)),
            }
        }
        routes.open.insert(quarter, sender);
        receiver
    }

    /// Nothing will arrive any more: every receiver sees the end.
    pub(crate) fn close(&self) {
        let mut routes = self.routes();
        routes.closed = true;
        routes.open.clear();
        routes.early.clear();
    }

    fn unregister(&self, quarter: u64) {
        self.routes().open.remove(&quarter);
    }
}

/// Sends HTTP datagrams of one stream. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DatagramSender {
    shared: Arc<Shared>,
    quarter: u64,
}

impl DatagramSender {
    /// Sends one datagram, unreliably and at once. The payload is copied once,
    /// so a caller chains its own prefix (a context id) in front for free.
    pub fn send(&self, payload: impl Buf) -> Result<(), DatagramError> {
        let max = self.max_len().ok_or(DatagramError::Disabled)?;
        if payload.remaining() > max {
            return Err(DatagramError::TooLarge { max });
        }
        let datagram = encode(self.quarter, payload);
        let quic = self.shared.quic();
        if quic.datagram_send_buffer_space() < datagram.len() {
            return Err(DatagramError::Busy);
        }
        quic.send_datagram(datagram).map_err(|error| match error {
            quinn::SendDatagramError::TooLarge => DatagramError::TooLarge { max },
            quinn::SendDatagramError::ConnectionLost(error) => {
                DatagramError::Connection(self.shared.explain(error))
            }
            quinn::SendDatagramError::UnsupportedByPeer | quinn::SendDatagramError::Disabled => {
                DatagramError::Disabled
            }
        })
    }

    /// The largest payload the path takes now in bytes, or `None` when
    /// datagrams are off on either side or the peer's SETTINGS are not here yet.
    pub fn max_len(&self) -> Option<usize> {
        if !self.shared.datagrams_enabled() {
            return None;
        }
        let whole = self.shared.quic().max_datagram_size()?;
        whole.checked_sub(varint::size(self.quarter))
    }
}

/// Receives HTTP datagrams of one stream. Dropping it closes the queue.
#[derive(Debug)]
pub struct DatagramReceiver {
    shared: Arc<Shared>,
    quarter: u64,
    queue: mpsc::Receiver<Bytes>,
}

impl DatagramReceiver {
    /// The next payload; `None` when the connection has ended. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Bytes> {
        self.queue.recv().await
    }

    /// A payload that is already here.
    pub fn try_recv(&mut self) -> Option<Bytes> {
        self.queue.try_recv().ok()
    }
}

impl Drop for DatagramReceiver {
    fn drop(&mut self) {
        self.shared.datagrams.unregister(self.quarter);
    }
}

/// Opens both halves for the stream with this index.
pub(crate) fn open(shared: &Arc<Shared>, quarter: u64) -> (DatagramSender, DatagramReceiver) {
    let queue = shared.datagrams.register(quarter);
    let shared = shared.clone();
    let sender = DatagramSender { shared: shared.clone(), quarter };
    let receiver = DatagramReceiver { shared, quarter, queue };
    (sender, receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_or_huge_quarter_id_is_an_error() {
        let bad = |bytes: &'static [u8]| decode(Bytes::from_static(bytes)).unwrap_err().code;
        assert_eq!(bad(&[]), Code::H3_DATAGRAM_ERROR);
        assert_eq!(bad(&[0x40]), Code::H3_DATAGRAM_ERROR);
        assert_eq!(bad(&[0xd0, 0, 0, 0, 0, 0, 0, 0]), Code::H3_DATAGRAM_ERROR);
    }

    #[test]
    fn early_datagrams_wait_for_their_stream_and_are_bounded() {
        let demux = Demux::new(2, 3);
        for (quarter, payload) in [(9u64, "lost"), (7, "a"), (8, "b"), (7, "c")] {
            demux.dispatch(encode(quarter, payload.as_bytes())).unwrap();
        }
        let mut seven = demux.register(7);
        assert_eq!(seven.try_recv().unwrap(), "a");
        assert_eq!(seven.try_recv().unwrap(), "c");
        assert_eq!(demux.register(8).try_recv().unwrap(), "b");
        for _ in 0..5 {
            demux.dispatch(encode(7, &b"x"[..])).unwrap();
        }
        let (unknown, overflow) = (1, 3);
        assert_eq!(demux.drops(), DatagramDrops { unknown, overflow });
    }

    proptest::proptest! {
        #[test]
        fn decode_undoes_encode(quarter in 0..=MAX_QUARTER, payload: Vec<u8>) {
            let wire = encode(quarter, &payload[..]);
            assert_eq!(decode(wire).unwrap(), (quarter, Bytes::from(payload)));
        }
    }
}
