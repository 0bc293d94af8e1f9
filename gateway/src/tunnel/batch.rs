//! Sends in one call what QUIC hands over in several. quinn makes batches of ten packets; the kernel takes
//! as many as fit into 64 KiB, and a call costs nearly the same for ten as for forty.
//!
//! Under every UDP socket that `transport` makes. A full batch waits for the next one until the tasks that
//! are ready now have run, so an idle moment sends it; a packet that is no full batch never waits, and
//! none overtakes another.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;
use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

/// Packets of a batch that is full: behind it more of the same are likely.
const FULL: usize = 10;
/// Most bytes of one call: to the kernel a batch is one datagram until it is cut (65,535 less the headers
/// of IPv4 and UDP).
const MOST: usize = 65_507;

/// What the packets of one call have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Way {
    destination: SocketAddr,
    source: Option<IpAddr>,
    ecn: Option<EcnCodepoint>,
    /// Length of each packet; the last may be shorter.
    segment: usize,
}

impl Way {
    fn of(transmit: &Transmit<'_>) -> Self {
        Self {
            destination: transmit.destination,
            source: transmit.src_ip,
            ecn: transmit.ecn,
            segment: transmit.segment_size.unwrap_or(transmit.contents.len()),
        }
    }
}

/// A full batch, or several.
#[derive(Default)]
struct Waiting {
    way: Option<Way>,
    packets: Vec<u8>,
    /// How long it was when the receiver last looked.
    seen: usize,
    /// While the socket is full.
    poller: Option<Pin<Box<dyn UdpPoller>>>,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").field("way", &self.way).field("bytes", &self.packets.len()).finish()
    }
}

impl Waiting {
    fn clear(&mut self) {
        self.way = None;
        self.packets.clear();
        self.seen = 0;
        self.poller = None;
    }
}

/// A socket that waits for more.
#[derive(Debug)]
pub(crate) struct Batched {
    inner: Arc<dyn AsyncUdpSocket>,
    waiting: Mutex<Waiting>,
    /// The task that receives, which also sends what nothing was added to.
    receiver: AtomicWaker,
}

impl Batched {
    pub(crate) fn new(inner: Arc<dyn AsyncUdpSocket>) -> Self {
        Self { inner, waiting: Mutex::default(), receiver: AtomicWaker::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Most bytes of one call with packets of `segment` bytes.
    fn most(&self, segment: usize) -> usize {
        self.inner.max_transmit_segments().saturating_mul(segment).min(MOST)
    }

    /// Sends what waits. What the system refuses for another reason than a full socket is lost, as on
    /// the network: it may not be the sender of this moment whose packets they were.
    fn flush(&self, waiting: &mut Waiting) -> io::Result<()> {
        let Some(way) = waiting.way else { return Ok(()) };
        let transmit = Transmit {
            destination: way.destination,
            ecn: way.ecn,
            contents: &waiting.packets,
            segment_size: Some(way.segment),
            src_ip: way.source,
        };
        match self.inner.try_send(&transmit) {
            Err(full) if full.kind() == io::ErrorKind::WouldBlock => Err(full),
            Err(error) => {
                tracing::debug!(%error, to = %way.destination, "packets were not sent");
                waiting.clear();
                Ok(())
            }
            Ok(()) => {
                waiting.clear();
                Ok(())
            }
        }
    }

    /// Sends what nothing was added to since the last look.
    fn look(&self, cx: &mut Context<'_>) {
        let mut waiting = self.lock();
        if waiting.packets.len() != waiting.seen {
            waiting.seen = waiting.packets.len();
            cx.waker().wake_by_ref();
            return;
        }
        while self.flush(&mut waiting).is_err() {
            let inner = &self.inner;
            let poller = waiting.poller.get_or_insert_with(|| inner.clone().create_io_poller());
            match poller.as_mut().poll_writable(cx) {
                Poll::Pending => return,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => waiting.clear(),
            }
        }
    }
}

impl AsyncUdpSocket for Batched {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let (way, length) = (Way::of(transmit), transmit.contents.len());
        let mut waiting = self.lock();
        let most = self.most(way.segment);
        let joins = waiting.way == Some(way) && waiting.packets.len() + length <= most;
        let whole = transmit.segment_size.is_some() && length.is_multiple_of(way.segment);
        let full = whole && length >= FULL * way.segment;
        if !joins {
            self.flush(&mut waiting)?;
            if !full || length * 2 > most {
                return self.inner.try_send(transmit);
            }
            waiting.way = Some(way);
        }
        waiting.packets.extend_from_slice(transmit.contents);
        let more = full && waiting.packets.len() + length <= most;
        if more || self.flush(&mut waiting).is_err() {
            drop(waiting);
            self.receiver.wake();
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.receiver.register(cx.waker());
        self.look(cx);
        self.inner.poll_recv(cx, buffers, metas)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Waker;

    use proptest::prelude::*;

    use super::*;

    /// A socket that keeps what it was given, and may be full.
    #[derive(Debug, Default)]
    struct Socket {
        sent: Mutex<Vec<(SocketAddr, usize, Vec<u8>)>>,
        full: AtomicBool,
    }

    #[derive(Debug)]
    struct Writable(Arc<Socket>);

    impl UdpPoller for Writable {
        fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            if self.0.full.load(Ordering::Relaxed) { Poll::Pending } else { Poll::Ready(Ok(())) }
        }
    }

    impl AsyncUdpSocket for Socket {
        fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
            Box::pin(Writable(self))
        }
        fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
            if self.full.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let segment = transmit.segment_size.unwrap_or(transmit.contents.len());
            self.sent.lock().unwrap().push((transmit.destination, segment, transmit.contents.to_vec()));
            Ok(())
        }
        fn poll_recv(
            &self,
            _: &mut Context<'_>,
            _: &mut [IoSliceMut<'_>],
            _: &mut [RecvMeta],
        ) -> Poll<io::Result<usize>> {
            Poll::Pending
        }
        fn local_addr(&self) -> io::Result<SocketAddr> {
            Ok(([127, 0, 0, 1], 1).into())
        }
        fn max_transmit_segments(&self) -> usize {
            64
        }
    }

    impl Socket {
        fn calls(&self) -> Vec<usize> {
            self.sent
                .lock()
                .unwrap()
                .iter()
                .map(|(_, segment, bytes)| bytes.len().div_ceil(*segment))
                .collect()
        }

        /// Each packet as it goes out on the wire.
        fn packets(&self) -> Vec<(SocketAddr, Vec<u8>)> {
            let sent = self.sent.lock().unwrap();
            let each = sent
                .iter()
                .flat_map(|(to, segment, bytes)| bytes.chunks(*segment).map(|b| (*to, b.to_vec())));
            each.collect()
        }
    }

    fn pair() -> (Arc<Socket>, Batched) {
        let socket = Arc::new(Socket::default());
        (socket.clone(), Batched::new(socket))
    }

    /// `packets` of them, `segment` bytes each, all of the octet `fill`; to the host of that number.
    fn give(socket: &Batched, host: u8, packets: usize, segment: usize, fill: u8) -> io::Result<()> {
        let contents = vec![fill; packets * segment];
        socket.try_send(&Transmit {
            destination: ([10, 0, 0, host], 15_443).into(),
            ecn: None,
            contents: &contents,
            segment_size: (packets > 1).then_some(segment),
            src_ip: None,
        })
    }

    /// The receiver's task runs once.
    fn turn(socket: &Batched) {
        let mut cx = Context::from_waker(Waker::noop());
        let _ = socket.poll_recv(&mut cx, &mut [], &mut []);
    }

    #[test]
    fn full_batches_leave_in_one_call() {
        let (wire, socket) = pair();
        for fill in 0..4 {
            assert!(wire.calls().is_empty());
            give(&socket, 1, 10, 1_452, fill).unwrap();
        }
        // A fifth would not fit into 64 KiB.
        assert_eq!(wire.calls(), [40]);
        give(&socket, 1, 10, 1_452, 4).unwrap();
        give(&socket, 1, 3, 1_452, 5).unwrap();
        assert_eq!(wire.calls(), [40, 13], "what is no full batch is the end");
    }

    #[test]
    fn a_batch_that_nothing_follows_leaves_with_the_second_look() {
        let (wire, socket) = pair();
        give(&socket, 1, 10, 1_452, 0).unwrap();
        turn(&socket);
        assert!(wire.calls().is_empty());
        give(&socket, 1, 10, 1_452, 1).unwrap();
        turn(&socket);
        assert!(wire.calls().is_empty(), "it grew");
        turn(&socket);
        assert_eq!(wire.calls(), [20]);
    }

    #[test]
    fn single_packets_and_large_ones_never_wait() {
        let (wire, socket) = pair();
        give(&socket, 1, 1, 1_200, 0).unwrap();
        give(&socket, 1, 9, 1_452, 1).unwrap();
        give(&socket, 1, 10, 6_000, 2).unwrap();
        assert_eq!(wire.calls(), [1, 9, 10]);
    }

    #[test]
    fn a_full_socket_keeps_what_waits_and_takes_no_more_than_a_call() {
        let (wire, socket) = pair();
        wire.full.store(true, Ordering::Relaxed);
        for fill in 0..4 {
            give(&socket, 1, 10, 1_452, fill).unwrap();
        }
        let refused = give(&socket, 1, 10, 1_452, 4).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(give(&socket, 2, 1, 1_200, 5).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        turn(&socket);
        turn(&socket);
        assert!(wire.calls().is_empty());
        wire.full.store(false, Ordering::Relaxed);
        turn(&socket);
        assert_eq!(wire.calls(), [40]);
    }

    proptest! {
        /// Whatever comes in which order, the wire carries the same packets in that order.
        #[test]
        fn the_wire_carries_what_was_given(
            given in prop::collection::vec((1_u8..3, 1_usize..12, prop::sample::select(vec![1_200, 1_452]), any::<bool>()), 0..40),
        ) {
            let (wire, socket) = pair();
            let mut expected = Vec::new();
            for (number, (host, packets, segment, looks)) in given.into_iter().enumerate() {
                let fill = u8::try_from(number).unwrap();
                give(&socket, host, packets, segment, fill).unwrap();
                let to = ([10, 0, 0, host], 15_443).into();
                expected.extend((0..packets).map(|_| (to, vec![fill; segment])));
                if looks {
                    turn(&socket);
                }
            }
            turn(&socket);
            turn(&socket);
            prop_assert!(wire.calls().into_iter().all(|packets| packets <= 45));
            prop_assert_eq!(wire.packets(), expected);
        }
    }
}
