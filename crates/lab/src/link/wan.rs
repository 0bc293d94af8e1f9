//! A long way with loss: every datagram of a link is late by the same time, in order, and some never come.
//! Used by the UDP side of a link; a way without delay and loss costs nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::Instant;

/// Datagrams on their way at one time in one direction of a flow; more are lost, as in a full queue.
const MOST: usize = 8192;

/// How far it is, one way, and how much is lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wan {
    /// Milliseconds.
    pub delay: u16,
    /// Lost datagrams in a thousand.
    pub loss: u16,
}

/// One direction of one flow.
pub(super) struct Lane {
    socket: Arc<UdpSocket>,
    /// Where to, if the socket is not connected.
    to: Option<SocketAddr>,
    queue: Sender<(Instant, Vec<u8>)>,
    dice: StdRng,
}

impl Lane {
    pub(super) fn new(socket: Arc<UdpSocket>, to: Option<SocketAddr>, seed: u64) -> Self {
        let (queue, waiting) = channel(MOST);
        tokio::spawn(late(Arc::clone(&socket), to, waiting));
        Self { socket, to, queue, dice: StdRng::seed_from_u64(seed) }
    }

    /// Sends a datagram on its way; whether it was not lost.
    pub(super) async fn send(&mut self, wan: Wan, packet: &[u8]) -> bool {
        if self.dice.random_range(0..1000) < wan.loss {
            return false;
        }
        if wan.delay == 0 {
            put(&self.socket, self.to, packet).await;
            return true;
        }
        let due = Instant::now() + Duration::from_millis(wan.delay.into());
        self.queue.try_send((due, packet.to_vec())).is_ok()
    }
}

async fn late(socket: Arc<UdpSocket>, to: Option<SocketAddr>, mut waiting: Receiver<(Instant, Vec<u8>)>) {
    while let Some((due, packet)) = waiting.recv().await {
        tokio::time::sleep_until(due).await;
        put(&socket, to, &packet).await;
    }
}

/// Who is not there drops it, as a network would.
async fn put(socket: &UdpSocket, to: Option<SocketAddr>, packet: &[u8]) {
    let _ = match to {
        Some(to) => socket.send_to(packet, to).await,
        None => socket.send(packet).await,
    };
}
