//! Whether our UDP sockets still send many packets in one call (segmentation offload, GSO).
//!
//! The kernel may refuse it on the first send over some card; QUIC then goes on without, at more
//! CPU for each byte. Looked at by the hub a few times a second; it changes nothing.

use std::sync::Arc;

use hansa_core::code::gateway::GSO_LOST;
use quinn::AsyncUdpSocket;

/// One socket under a QUIC endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Offload(Arc<dyn AsyncUdpSocket>);

impl Offload {
    pub(crate) fn new(socket: Arc<dyn AsyncUdpSocket>) -> Self {
        Self(socket)
    }

    fn is_lost(&self) -> bool {
        self.0.max_transmit_segments() <= 1
    }

    /// How many of these sockets have no offload; says so when one loses it.
    pub(crate) fn lost<'a>(all: impl Iterator<Item = &'a Offload>, before: i64) -> i64 {
        let lost: Vec<_> = all.filter(|socket| socket.is_lost()).collect();
        let count = i64::try_from(lost.len()).unwrap_or(i64::MAX);
        if count > before {
            let sockets: Vec<_> = lost.iter().filter_map(|socket| socket.0.local_addr().ok()).collect();
            tracing::warn!(code = %GSO_LOST, ?sockets, next = GSO_LOST.next, "{}", GSO_LOST.title);
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, IoSliceMut};
    use std::net::SocketAddr;
    use std::os::fd::AsRawFd;
    use std::path::PathBuf;
    use std::pin::Pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll};
    use std::time::{Duration, Instant};

    use hansa_runtime::logs::{Format, Options, Output, init};
    use quinn::UdpPoller;
    use quinn::udp::{RecvMeta, Transmit};

    use super::*;

    #[derive(Debug)]
    struct Socket(AtomicUsize);

    impl AsyncUdpSocket for Socket {
        fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
            unreachable!("nothing is sent")
        }
        fn try_send(&self, _: &Transmit<'_>) -> io::Result<()> {
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
            self.0.load(Ordering::Relaxed)
        }
    }

    /// What is logged from now on, in a file without a name that is open as long as the process lives.
    fn log() -> PathBuf {
        let file = Box::leak(Box::new(tempfile::tempfile().unwrap()));
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let output = Output::File(path.clone());
        init(&Options { output, format: Format::Json, ..Options::default() }).unwrap();
        path
    }

    #[test]
    fn a_socket_that_loses_its_offload_is_counted_and_told() {
        let log = log();
        let (one, two) = (Arc::new(Socket(64.into())), Arc::new(Socket(64.into())));
        let all = [Offload::new(one.clone()), Offload::new(two)];
        assert_eq!(Offload::lost(all.iter(), 0), 0);
        one.0.store(1, Ordering::Relaxed);
        assert_eq!(Offload::lost(all.iter(), 0), 1);
        let begun = Instant::now();
        while !std::fs::read_to_string(&log).unwrap().contains("HNS-5010") {
            assert!(begun.elapsed() < Duration::from_secs(15), "nobody said it");
            std::thread::yield_now();
        }
    }
}
