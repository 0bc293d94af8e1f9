//! UDP sockets of several shards on one port. The kernel gives each of them the packets of some of the
//! peers' addresses; when a peer's address changes (a NAT forgot it), its packets may come up at the
//! wrong shard, and are handed to the one their connection id names.
//!
//! Made by `transport` for every listening address with more than one shard. It keeps no connection and
//! never sends.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use futures::task::AtomicWaker;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use super::cid::Generator;

/// Buffers of up to 64 KiB that wait to be taken by their shard; more are dropped, as a full socket does.
const MOST: usize = 64;

/// What the other shards received for one.
#[derive(Debug, Default)]
pub(crate) struct Strays {
    waiting: Mutex<VecDeque<(Vec<u8>, RecvMeta)>>,
    waker: AtomicWaker,
}

impl Strays {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(Vec<u8>, RecvMeta)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give(&self, datagrams: &[u8], meta: RecvMeta) {
        let mut waiting = self.lock();
        if waiting.len() < MOST {
            waiting.push_back((datagrams.to_vec(), meta));
            drop(waiting);
            self.waker.wake();
        }
    }

    fn take(&self, buffer: &mut [u8], meta: &mut RecvMeta) -> bool {
        let Some((datagrams, of)) = self.lock().pop_front() else { return false };
        let length = datagrams.len().min(buffer.len());
        buffer[..length].copy_from_slice(&datagrams[..length]);
        *meta = RecvMeta { len: length, ..of };
        true
    }
}

/// One shard's socket.
#[derive(Debug)]
pub(crate) struct Steered {
    pub(crate) inner: Arc<dyn AsyncUdpSocket>,
    pub(crate) ids: Generator,
    /// For every shard, by number; all sockets of one port share them.
    pub(crate) strays: Arc<[Strays]>,
}

impl Steered {
    fn own(&self) -> &Strays {
        &self.strays[usize::from(self.ids.shard)]
    }

    /// Hands over what belongs to other shards, and says how many of the `count` buffers are left.
    fn sort(&self, buffers: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta], count: usize) -> usize {
        let own = usize::from(self.ids.shard);
        let mut kept = 0;
        for index in 0..count {
            let datagrams = &buffers[index][..metas[index].len];
            // Datagrams that came in one buffer have one sender, and almost always one connection.
            let shard = self.ids.shard_of(datagrams).unwrap_or(own);
            match self.strays.get(shard).filter(|_| shard != own) {
                Some(strays) => strays.give(datagrams, metas[index]),
                None => {
                    buffers.swap(kept, index);
                    metas.swap(kept, index);
                    kept += 1;
                }
            }
        }
        kept
    }
}

impl AsyncUdpSocket for Steered {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.own().waker.register(cx.waker());
        if let (Some(buffer), Some(meta)) = (buffers.first_mut(), metas.first_mut())
            && self.own().take(buffer, meta)
        {
            return Poll::Ready(Ok(1));
        }
        loop {
            let count = ready!(self.inner.poll_recv(cx, buffers, metas))?;
            let kept = self.sort(buffers, metas, count);
            if kept > 0 || count == 0 {
                return Poll::Ready(Ok(kept));
            }
        }
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
    use std::future::poll_fn;

    use quinn::{ConnectionIdGenerator as _, Runtime as _, TokioRuntime};

    use super::*;

    #[tokio::test]
    async fn a_datagram_reaches_the_shard_that_its_id_names() {
        let strays: Arc<[Strays]> = [Strays::default(), Strays::default()].into();
        let socket = |shard| {
            let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            let inner = TokioRuntime.wrap_udp_socket(udp).unwrap();
            Steered { inner, ids: Generator { server: None, shard }, strays: strays.clone() }
        };
        let (zero, one) = (socket(0), socket(1));
        let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let datagram = |first: u8, shard: u8, tail: &[u8]| {
            let mut ids = Generator { server: None, shard };
            [&[first][..], &ids.generate_cid()[..], tail].concat()
        };
        let read = async |socket: &Steered| {
            let mut bytes = [0; 2_048];
            let mut meta = [RecvMeta::default()];
            let got = poll_fn(|cx| socket.poll_recv(cx, &mut [IoSliceMut::new(&mut bytes)], &mut meta));
            let got = tokio::time::timeout(std::time::Duration::from_secs(20), got).await;
            assert_eq!(got.unwrap().unwrap(), 1);
            assert_eq!(meta[0].addr, client.local_addr().unwrap());
            bytes[meta[0].len - 1]
        };
        // All of it comes up at the first socket.
        for (first, shard, tail) in [(0x40, 1, b"b"), (0x40, 0, b"a"), (0xc0, 1, b"c"), (0x40, 9, b"d")] {
            let to = zero.local_addr().unwrap();
            client.send_to(&datagram(first, shard, tail), to).await.unwrap();
        }
        // Of the own shard, of no known one, and of a shard that there is not.
        for own in *b"acd" {
            assert_eq!(read(&zero).await, own);
        }
        assert_eq!(read(&one).await, b'b');
    }
}
