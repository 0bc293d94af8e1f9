//! UDP flows: datagrams between a client and an endpoint, through a tunnel by connect-udp (RFC 9298).
//!
//! Over HTTP/3 they travel as QUIC datagrams, and what does not fit is dropped and counted; over
//! HTTP/2 as capsules in the stream. Nothing is ever sent twice, and order is not promised.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use hansa_http3::capsule::{self, Reader};
use hansa_http3::{DatagramError, DatagramSender};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::metrics::{Dropped, Metrics};
use crate::outcome::Outcome;
use crate::splice::{self, Broken, Moved};
use crate::tunnel::{RecvHalf, SendHalf};

pub(crate) mod inbound;
pub(crate) mod outbound;

/// The largest UDP payload over IPv4.
const MOST: usize = 65_507;
/// Context id 0: the payload is a UDP payload (RFC 9298 5).
const CONTEXT: &[u8] = &[0];

/// The side of a flow inside our cluster.
pub(crate) trait Near: Send {
    /// The next datagram towards the tunnel; none when the flow is over. Cancel-safe.
    fn recv(&mut self) -> impl Future<Output = Option<Bytes>> + Send;
    /// Sends a datagram from the tunnel; false when the flow is over.
    fn send(&mut self, datagram: &[u8]) -> impl Future<Output = bool> + Send;
}

/// The limits of one flow.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    /// Over after so long without a datagram.
    pub(crate) idle: Duration,
    /// The closing phase of the drain.
    pub(crate) closing: CancellationToken,
}

pub(crate) fn dropped(metrics: &Metrics, reason: &'static str) {
    metrics.datagrams_dropped.get_or_create(&Dropped { reason }).inc();
}

/// One flow through a tunnel.
pub(crate) struct Carrier<'a> {
    pub(crate) send: SendHalf,
    pub(crate) recv: RecvHalf,
    /// Whether `near` is the client: its datagrams then count as sent.
    pub(crate) outbound: bool,
    pub(crate) metrics: &'a Metrics,
    pub(crate) moved: &'a Moved,
}

impl Carrier<'_> {
    /// Moves datagrams until one side ends.
    pub(crate) async fn run(mut self, near: &mut impl Near, bounds: &Bounds) -> Outcome {
        let (sender, mut receiver) = self.recv.datagrams().unzip();
        let mut reader = Reader::new(MOST + 8);
        let mut deadline = Instant::now() + bounds.idle;
        loop {
            let datagrams = async {
                match &mut receiver {
                    Some(receiver) => receiver.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                datagram = near.recv() => {
                    let Some(datagram) = datagram else { return self.end().await };
                    if let Err(broken) = self.forward(sender.as_ref(), datagram).await {
                        return splice::outcome(!self.outbound, broken);
                    }
                }
                payload = datagrams => {
                    let Some(payload) = payload else { return Outcome::PathLost };
                    if !self.deliver(near, payload).await {
                        return Outcome::ServiceReset;
                    }
                }
                piece = self.recv.data() => match piece {
                    Ok(Some(piece)) => {
                        reader.feed(piece);
                        while let Some(next) = reader.next() {
                            let Ok(capsule) = next else { return Outcome::BadRequest };
                            if !self.deliver(near, capsule.value).await {
                                return Outcome::ServiceReset;
                            }
                        }
                    }
                    Ok(None) => return self.end().await,
                    Err(error) => return splice::outcome(!self.outbound, error.into()),
                },
                () = tokio::time::sleep_until(deadline) => {
                    self.end().await;
                    return Outcome::Idle;
                }
                () = bounds.closing.cancelled() => return Outcome::DrainDeadline,
            }
            deadline = Instant::now() + bounds.idle;
        }
    }

    async fn end(&mut self) -> Outcome {
        // Whether the other side still listens does not matter.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.send.finish()).await;
        Outcome::Done
    }

    fn count(&self, up: bool, n: usize) {
        let counter = if up { &self.moved.up } else { &self.moved.down };
        counter.fetch_add(n as u64, std::sync::atomic::Ordering::Relaxed);
    }

    async fn forward(&mut self, sender: Option<&DatagramSender>, datagram: Bytes) -> Result<(), Broken> {
        let n = datagram.len();
        match sender {
            Some(sender) => {
                let reason = match sender.send(CONTEXT.chain(datagram)) {
                    Ok(()) => None,
                    Err(DatagramError::TooLarge { .. }) => Some("too_large"),
                    Err(DatagramError::Busy) => Some("tunnel_busy"),
                    Err(DatagramError::Disabled) => Some("unsupported"),
                    Err(DatagramError::Connection(_)) => return Err(Broken::Lost),
                };
                if let Some(reason) = reason {
                    dropped(self.metrics, reason);
                    return Ok(());
                }
            }
            None => {
                let mut out = BytesMut::with_capacity(n + 16);
                capsule::encode_header(capsule::DATAGRAM, n as u64 + 1, &mut out);
                out.extend_from_slice(CONTEXT);
                out.extend_from_slice(&datagram);
                self.send.data(out.freeze()).await.map_err(Broken::from)?;
            }
        }
        self.count(self.outbound, n);
        Ok(())
    }

    async fn deliver(&self, near: &mut impl Near, payload: Bytes) -> bool {
        // Other contexts were never agreed upon (RFC 9298 4).
        let Some((0, datagram)) = payload.split_first() else {
            dropped(self.metrics, "unknown_context");
            return true;
        };
        self.count(!self.outbound, datagram.len());
        near.send(datagram).await
    }
}
