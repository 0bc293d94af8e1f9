//! Questions over TCP (RFC 7766): several on one connection, answered as they are ready.
//!
//! Run by the server. Bounded in connections, in questions under way per connection, and in time
//! without a question; a client that does not read its answers is closed.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use hansa_runtime::tasks::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::answer::{Outcome, Responder, Via};
use crate::config;
use crate::udp::step;

/// Forwarded questions under way on one connection; further ones wait unread.
const UNDER_WAY: usize = 32;
/// For one answer to leave.
const WRITE: Duration = Duration::from_secs(5);
/// After accept failed for want of descriptors.
const PAUSE: Duration = Duration::from_millis(50);
/// Bytes read ahead of one connection: a longest question and what comes behind it.
const AHEAD: usize = 128 * 1024;

pub(crate) struct Tcp {
    listener: TcpListener,
    places: Arc<Semaphore>,
    idle: Duration,
}

impl Tcp {
    pub(crate) async fn bind(
        address: SocketAddr,
        config: &config::Tcp,
        places: &Arc<Semaphore>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self { listener, places: places.clone(), idle: config.idle.0 })
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Accepts until the token of `tasks` ends it.
    pub(crate) async fn run(self, responder: Responder, tasks: Tasks) -> io::Result<()> {
        let stop = tasks.token();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                accepted = self.listener.accept() => accepted,
            };
            let Ok((stream, client)) = accepted else {
                sleep(PAUSE).await;
                continue;
            };
            let Ok(place) = self.places.clone().try_acquire_owned() else {
                responder.metrics().refused_connection();
                continue;
            };
            let (responder, idle) = (responder.clone(), self.idle);
            tasks.spawn_until_shutdown("tcp", async move {
                let _place = place;
                responder.metrics().opened();
                let connection = Connection::new(stream, client.ip(), responder.clone(), idle);
                // How a client leaves is its own affair.
                let _ = connection.run().await;
                responder.metrics().closed();
            });
        }
    }
}

struct Connection {
    reader: OwnedReadHalf,
    writer: tokio::net::tcp::OwnedWriteHalf,
    client: IpAddr,
    responder: Responder,
    idle: Duration,
    input: BytesMut,
    pending: FuturesUnordered<BoxFuture<'static, Vec<u8>>>,
    draw: u32,
}

enum Woken {
    Read(io::Result<usize>),
    Answer(Vec<u8>),
    Idle,
}

impl Connection {
    fn new(stream: TcpStream, client: IpAddr, responder: Responder, idle: Duration) -> Self {
        // Answers are small and complete: nothing is gained by waiting for more.
        let _ = stream.set_nodelay(true);
        let (reader, writer) = stream.into_split();
        let (input, pending) = (BytesMut::with_capacity(2_048), FuturesUnordered::new());
        Self { reader, writer, client, responder, idle, input, pending, draw: rand::random() }
    }

    async fn run(mut self) -> io::Result<()> {
        let (mut open, mut last) = (true, Instant::now());
        loop {
            self.drain().await?;
            if !open && self.pending.is_empty() {
                return Ok(());
            }
            let room = open && self.pending.len() < UNDER_WAY && self.input.len() < AHEAD;
            let deadline = last + self.idle;
            let woken = tokio::select! {
                read = self.reader.read_buf(&mut self.input), if room => Woken::Read(read),
                Some(answer) = self.pending.next() => Woken::Answer(answer),
                () = sleep_until(deadline), if self.pending.is_empty() => Woken::Idle,
            };
            match woken {
                Woken::Read(Ok(0)) => open = false,
                // Bytes that make no whole question do not keep a connection open.
                Woken::Read(Ok(_)) if self.whole().is_none() => {}
                Woken::Read(Ok(_)) => last = Instant::now(),
                Woken::Read(Err(error)) => return Err(error),
                Woken::Answer(answer) => {
                    last = Instant::now();
                    self.write(&answer).await?;
                }
                Woken::Idle => return Ok(()),
            }
        }
    }

    /// The length of the first question, if all of it is here.
    fn whole(&self) -> Option<usize> {
        let length = usize::from(u16::from_be_bytes([*self.input.first()?, *self.input.get(1)?]));
        (self.input.len() >= length + 2).then_some(length)
    }

    /// Answers every whole question that has come in, as far as there is room.
    async fn drain(&mut self) -> io::Result<()> {
        let mut out = Vec::new();
        while self.pending.len() < UNDER_WAY
            && let Some(length) = self.whole()
        {
            self.input.advance(2);
            let packet = self.input.split_to(length);
            self.draw = step(self.draw);
            match self.responder.respond(&packet, self.client, (Via::Tcp, self.draw), &mut out) {
                // What is no question has nothing to expect here.
                Outcome::Silence => return Err(io::ErrorKind::InvalidData.into()),
                Outcome::Answered => self.write(&out).await?,
                Outcome::Forward(forward) => {
                    let responder = self.responder.clone();
                    self.pending.push(Box::pin(async move {
                        let mut out = Vec::with_capacity(512);
                        responder.forward(forward, &mut out).await;
                        out
                    }));
                }
            }
        }
        Ok(())
    }

    async fn write(&mut self, answer: &[u8]) -> io::Result<()> {
        let length = u16::try_from(answer.len()).map_err(|_| io::ErrorKind::InvalidData)?;
        let mut framed = Vec::with_capacity(answer.len() + 2);
        framed.extend_from_slice(&length.to_be_bytes());
        framed.extend_from_slice(answer);
        timeout(WRITE, self.writer.write_all(&framed)).await?
    }
}
