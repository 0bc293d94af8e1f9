//! Questions over UDP: several sockets on one address, each with its own loop.
//!
//! Run by the server. Packets are read in batches; answers leave from the address that was asked.
//! An answer the kernel will not take now is dropped: the client asks again.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::sync::Arc;

use hansa_runtime::tasks::Tasks;
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::answer::{Outcome, Responder, Via};

/// Most sockets on one address; one per processor up to that.
const MAX_SOCKETS: usize = 8;
/// Batches before other tasks get their turn.
const TURN: usize = 16;
/// Receive buffer asked of the kernel: a burst of some ten thousand questions.
const BUFFER: usize = 4 << 20;

/// A bound socket.
pub(crate) struct Udp {
    socket: Arc<UdpSocket>,
    state: Arc<UdpSocketState>,
}

fn open(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    // Best effort: the kernel caps it at net.core.rmem_max.
    let _ = socket.set_recv_buffer_size(BUFFER);
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Binds an address, one socket per processor. Port 0 takes the same free port for all.
pub(crate) fn bind(address: SocketAddr) -> io::Result<Vec<Udp>> {
    // Sockets that share a port would also share it, silently, with another server's: the first is
    // tried alone.
    let alone = open(address, false)?;
    let local = alone.local_addr()?.as_socket().unwrap_or(address);
    drop(alone);
    let count = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_SOCKETS);
    let sockets = (0..count).map(|_| {
        let socket: std::net::UdpSocket = open(local, true)?.into();
        let state = Arc::new(UdpSocketState::new((&socket).into())?);
        Ok(Udp { socket: Arc::new(UdpSocket::from_std(socket)?), state })
    });
    sockets.collect()
}

impl Udp {
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Answers until the token of `tasks` ends it.
    pub(crate) async fn run(self, responder: Responder, tasks: Tasks) -> io::Result<()> {
        let segment = 64 * 1024;
        let mut memory = vec![0u8; segment * BATCH_SIZE];
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        let mut out = Vec::with_capacity(2_048);
        let mut draw: u32 = rand::random();
        let stop = tasks.token();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                ready = self.socket.readable() => ready?,
            }
            for _ in 0..TURN {
                let mut buffers: Vec<IoSliceMut<'_>> =
                    memory.chunks_mut(segment).map(IoSliceMut::new).collect();
                let received = self.socket.try_io(Interest::READABLE, || {
                    self.state.recv((&self.socket).into(), &mut buffers, &mut metas)
                });
                drop(buffers);
                let count = match received {
                    Ok(count) => count,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // An ICMP error of an earlier answer; the next packet is another one.
                    Err(_) => continue,
                };
                for (bytes, meta) in memory.chunks(segment).zip(&metas).take(count) {
                    let all = &bytes[..meta.len.min(bytes.len())];
                    for packet in all.chunks(meta.stride.max(1)) {
                        draw = step(draw);
                        self.answer(packet, meta, (draw, &mut out), (&responder, &tasks));
                    }
                }
            }
            tokio::task::yield_now().await;
        }
    }

    fn answer(
        &self,
        packet: &[u8],
        meta: &RecvMeta,
        (draw, out): (u32, &mut Vec<u8>),
        (responder, tasks): (&Responder, &Tasks),
    ) {
        match responder.respond(packet, meta.addr.ip(), (Via::Udp, draw), out) {
            Outcome::Silence => {}
            Outcome::Answered => self.send(out, meta, responder),
            Outcome::Forward(forward) => {
                let (this, meta, responder) = (self.share(), *meta, responder.clone());
                // As many as the forwarder gives tickets.
                tasks.spawn_until_shutdown("forward", async move {
                    let mut out = Vec::with_capacity(512);
                    responder.forward(forward, &mut out).await;
                    this.send(&out, &meta, &responder);
                });
            }
        }
    }

    fn share(&self) -> Self {
        Self { socket: self.socket.clone(), state: self.state.clone() }
    }

    fn send(&self, contents: &[u8], meta: &RecvMeta, responder: &Responder) {
        if contents.is_empty() {
            return;
        }
        let transmit =
            Transmit { destination: meta.addr, ecn: None, contents, segment_size: None, src_ip: meta.dst_ip };
        let sent =
            self.socket.try_io(Interest::WRITABLE, || self.state.try_send((&self.socket).into(), &transmit));
        if sent.is_err() {
            responder.metrics().unsent();
        }
    }
}

/// The next number of a cheap sequence (xorshift): it spreads load, it guards nothing.
pub(crate) fn step(mut draw: u32) -> u32 {
    draw ^= draw << 13;
    draw ^= draw >> 17;
    draw ^= draw << 5;
    if draw == 0 { 0x9e37_79b9 } else { draw }
}
