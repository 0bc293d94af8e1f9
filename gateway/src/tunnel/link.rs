//! One live tunnel: who is at the other end, how it is, and opening requests on it.
//!
//! Made by `dial` and `accept`, kept in the `registry`, watched by `watch`. Knows nothing of other
//! tunnels and never dials.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use hansa_core::Millis;
use hansa_core::name::{ClusterId, NodeId};
use hansa_core::spiffe::TrustDomain;
use hansa_http3 as http3;
use hansa_http3::RequestHead;
use hansa_identity::verify::Side;
use hansa_runtime::shards;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use super::budget::Share;
use super::error::{Cut, OpenError, StreamError};
use super::h2link;
use super::inuse::{InUse, Roster};
use super::peer::Lane;
use super::stream::{RecvHalf, SendHalf, Stream};

/// Who is at the other end, by its verified certificate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId {
    /// Its cluster, as our table knows its trust domain.
    pub cluster: ClusterId,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// The gateway.
    pub gateway: NodeId,
}

/// How a tunnel is, as far as new requests care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Fine.
    Good,
    /// Silent; may recover.
    Suspect,
    /// Finishes what runs and takes nothing new.
    GoingAway,
    /// Over.
    Closed,
}

/// What carries the tunnel.
#[derive(Debug)]
pub(crate) enum Wire {
    H3(http3::Connection),
    H2(h2link::Handle),
}

/// Everything known of a tunnel when it is made.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) peer: PeerId,
    /// The address we dialled.
    pub(crate) remote: Option<SocketAddr>,
    /// We dialled it.
    pub(crate) dialled: bool,
    /// We make the requests on it.
    pub(crate) asks: bool,
    /// Their certificates as verified.
    pub(crate) chain: Vec<CertificateDer<'static>>,
}

/// A live tunnel.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: u64,
    pub(crate) facts: Facts,
    pub(crate) wire: Wire,
    /// The shard that drives it.
    pub(crate) shard: usize,
    pub(crate) made: SystemTime,
    born: Instant,
    condition: watch::Sender<Condition>,
    /// Why we cut it, if we did.
    cut: OnceLock<Cut>,
    /// Replaced: ends with its last request.
    retired: AtomicBool,
    /// The other side has shown that it took our certificate.
    proven: AtomicBool,
    /// Stands beside another one and takes no requests yet.
    trial: AtomicBool,
    pub(super) streams: AtomicUsize,
    pub(super) roster: Roster,
    /// What its peer's purse lent it, once it is registered.
    share: OnceLock<Share>,
    heard: AtomicU64,
}

/// What [`Link::open`] could not do, and whether another tunnel may be tried.
#[derive(Debug)]
pub(crate) enum Missed {
    /// Nothing was sent: take another tunnel.
    Nothing,
    /// Say so to the caller.
    Final(OpenError),
}

impl Link {
    pub(crate) fn new(facts: Facts, wire: Wire) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            facts,
            wire,
            shard: shards::here(),
            made: SystemTime::now(),
            born: Instant::now(),
            condition: watch::Sender::new(Condition::Good),
            cut: OnceLock::new(),
            retired: AtomicBool::new(false),
            proven: AtomicBool::new(true),
            trial: AtomicBool::new(false),
            streams: AtomicUsize::new(0),
            roster: Roster::default(),
            share: OnceLock::new(),
            heard: AtomicU64::new(unix_millis()),
        })
    }

    pub(crate) fn lane(&self) -> Lane {
        match self.wire {
            Wire::H3(_) => Lane::Quic,
            Wire::H2(_) => Lane::Http2,
        }
    }

    /// Which side showed us its certificate.
    pub(crate) fn side(&self) -> Side {
        if self.facts.dialled { Side::Server } else { Side::Client }
    }

    pub(crate) fn age(&self) -> Duration {
        self.born.elapsed()
    }

    pub(crate) fn condition(&self) -> Condition {
        *self.condition.borrow()
    }

    pub(crate) fn conditions(&self) -> watch::Receiver<Condition> {
        self.condition.subscribe()
    }

    /// Sets the condition; a closed tunnel stays closed, and one that is going away does not come
    /// back. Says whether anything changed.
    pub(crate) fn set(&self, next: Condition) -> bool {
        self.condition.send_if_modified(|now| {
            let stays = match *now {
                Condition::Closed => true,
                Condition::GoingAway => next != Condition::Closed,
                _ => *now == next,
            };
            if !stays {
                *now = next;
            }
            !stays
        })
    }

    pub(crate) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// Replaced by another: no new requests; the watch closes it after the last one.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Our handshake is over, theirs may not be: they may still refuse our certificate.
    pub(crate) fn set_proven(&self, proven: bool) {
        self.proven.store(proven, Ordering::Relaxed);
    }

    pub(crate) fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    pub(crate) fn set_trial(&self, trial: bool) {
        self.trial.store(trial, Ordering::Relaxed);
    }

    /// Whether it may be given requests at all, however it is.
    pub(crate) fn is_used(&self) -> bool {
        self.facts.asks && !self.is_retired() && !self.trial.load(Ordering::Relaxed)
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// When the last authenticated packet came, since the Unix epoch.
    pub(crate) fn last_heard(&self) -> Millis {
        self.heard.load(Ordering::Relaxed)
    }

    pub(crate) fn heard_now(&self) {
        self.heard.store(unix_millis(), Ordering::Relaxed);
    }

    /// A number that grows with everything authenticated that comes in.
    pub(crate) fn received(&self) -> u64 {
        match &self.wire {
            Wire::H3(connection) => {
                let seen = connection.quic().stats().frame_rx;
                let control = seen.acks + seen.ping + seen.max_data + seen.max_stream_data;
                control + seen.stream + seen.datagram + seen.path_challenge
            }
            Wire::H2(handle) => handle.received(),
        }
    }

    pub(crate) fn rtt(&self) -> Duration {
        match &self.wire {
            Wire::H3(connection) => connection.quic().rtt(),
            Wire::H2(handle) => handle.rtt(),
        }
    }

    /// The other side said that it takes nothing new.
    pub(crate) fn told_to_leave(&self) -> bool {
        match &self.wire {
            Wire::H3(connection) => connection.is_going_away(),
            Wire::H2(handle) => handle.is_going_away(),
        }
    }

    /// Says GOAWAY: what runs goes on.
    pub(crate) fn goaway(&self) {
        match &self.wire {
            Wire::H3(connection) => connection.goaway(),
            Wire::H2(handle) => handle.goaway(),
        }
    }

    /// Ends it at once, with all its requests.
    pub(crate) fn close(&self, cut: Cut) {
        let first = self.cut.get_or_init(|| cut);
        match &self.wire {
            Wire::H3(connection) => connection.close(first.code(), &first.to_string()),
            Wire::H2(handle) => handle.close(),
        }
        self.set(Condition::Closed);
    }

    /// Takes the share it was lent; a second one is given back.
    pub(crate) fn lend(&self, share: Share) {
        // It was set before: then the first one stands.
        let _ = self.share.set(share);
        self.apply_windows();
    }

    pub(crate) fn share(&self) -> Option<&Share> {
        self.share.get()
    }

    /// Puts the windows and the streams of its share in force.
    pub(crate) fn apply_windows(&self) {
        let Some(share) = self.share() else { return };
        let receive = u32::try_from(share.receive()).unwrap_or(u32::MAX).min(i32::MAX as u32);
        match &self.wire {
            Wire::H3(connection) => {
                let quic = connection.quic();
                quic.set_receive_window(quinn::VarInt::from_u32(receive));
                quic.set_send_window(share.send());
                let streams = u32::try_from(share.streams()).unwrap_or(u32::MAX);
                quic.set_max_concurrent_bi_streams(quinn::VarInt::from_u32(streams));
            }
            Wire::H2(handle) => handle.set_window(receive),
        }
    }

    /// Why it ended, if we ended it.
    pub(crate) fn cut(&self) -> Option<&Cut> {
        self.cut.get()
    }

    /// Opens a request. `first` leaves with its head.
    pub(crate) async fn open(
        self: &Arc<Self>,
        head: &RequestHead,
        first: &Bytes,
        limit: Duration,
    ) -> Result<Stream, Missed> {
        let in_use = InUse::new(self, None);
        let (send, recv) = match &self.wire {
            Wire::H3(connection) => open_h3(connection, head, first, limit)
                .await
                .map_err(|missed| self.refused(missed))
                .map(|(send, recv)| (SendHalf::h3(send, in_use.clone()), RecvHalf::h3(recv, in_use.clone()))),
            Wire::H2(handle) => handle.open(head, first, limit).await.map(|(answer, stream)| {
                let recv = RecvHalf::h2_answer(answer, stream.clone(), in_use.clone());
                (SendHalf::h2(stream, in_use.clone(), false), recv)
            }),
        }?;
        let gateway = self.facts.peer.gateway.clone();
        Ok(Stream { send, recv, gateway, transport: self.lane() })
    }

    /// What a peer that refused our certificate was sent, it never read.
    fn refused(&self, missed: Missed) -> Missed {
        match missed {
            Missed::Final(OpenError::Stream(StreamError::Lost(Cut::Refused(_)))) if !self.is_proven() => {
                Missed::Nothing
            }
            missed => missed,
        }
    }
}

async fn open_h3(
    connection: &http3::Connection,
    head: &RequestHead,
    first: &Bytes,
    limit: Duration,
) -> Result<(http3::SendStream, http3::RecvStream), Missed> {
    let mut placing = Box::pin(connection.place(head));
    let placed = match futures::poll!(&mut placing) {
        Poll::Ready(placed) => placed,
        Poll::Pending => match tokio::time::timeout(limit, placing).await {
            Ok(placed) => placed,
            // Full: another tunnel may have room.
            Err(_) => return Err(Missed::Nothing),
        },
    };
    let place = placed.map_err(|error| match error {
        http3::OpenError::GoingAway | http3::OpenError::WrongRole | http3::OpenError::Connection(_) => {
            Missed::Nothing
        }
        other => Missed::Final(OpenError::Invalid(other.to_string())),
    })?;
    let mut sending = Box::pin(place.send(first.clone()));
    // What fails without ever having waited has written nothing. Later, part of `first` may be on
    // its way.
    let (outcome, waited) = match futures::poll!(&mut sending) {
        Poll::Ready(outcome) => (outcome, false),
        Poll::Pending => match tokio::time::timeout(limit, sending).await {
            Ok(outcome) => (outcome, true),
            Err(_) if first.is_empty() => return Err(Missed::Nothing),
            Err(_) => return Err(lost("no room in the tunnel in time")),
        },
    };
    outcome.map_err(|error| match error {
        http3::OpenError::GoingAway | http3::OpenError::WrongRole => Missed::Nothing,
        http3::OpenError::Connection(_) if !waited || first.is_empty() => Missed::Nothing,
        http3::OpenError::Connection(error) => Missed::Final(StreamError::Lost(error.into()).into()),
        http3::OpenError::Stream(http3::StreamError::Rejected) => Missed::Nothing,
        http3::OpenError::Stream(http3::StreamError::Stopped(code))
            if code == http3::Code::H3_REQUEST_REJECTED =>
        {
            Missed::Nothing
        }
        http3::OpenError::Stream(error) => Missed::Final(StreamError::from(error).into()),
        other => Missed::Final(OpenError::Invalid(other.to_string())),
    })
}

pub(crate) fn lost(why: &str) -> Missed {
    Missed::Final(StreamError::Lost(Cut::Path(why.to_owned())).into())
}

/// Milliseconds since the Unix epoch.
pub(crate) fn unix_millis() -> Millis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}
