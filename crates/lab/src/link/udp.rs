//! UDP through a link: one socket towards the gateway for every sender, so that answers find their way.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::wan::Lane;
use super::{Ends, Links, Pair, Transport};

/// A sender that is silent for so long is forgotten.
const IDLE: Duration = Duration::from_secs(120);
/// Bytes that wait for a link that is busy.
const ROOM: usize = 4 << 20;
/// Senders remembered at one time; more are not served.
const MOST: usize = 4096;

struct Flow {
    lane: Lane,
    pair: Arc<Pair>,
    task: tokio::task::JoinHandle<()>,
}

pub(crate) async fn run(links: Arc<Links>, ends: Ends) -> Result<()> {
    let outer = Arc::new(bind(ends.listen).await.with_context(|| ends.listen.to_string())?);
    let mut flows: HashMap<SocketAddr, Flow> = HashMap::new();
    let mut buffer = vec![0_u8; 65_536];
    loop {
        let Ok((len, source)) = outer.recv_from(&mut buffer).await else { continue };
        let packet = buffer.get(..len).unwrap_or_default();
        flows.retain(|_, flow| !flow.task.is_finished());
        if !flows.contains_key(&source) && flows.len() < MOST {
            let Ok(flow) = open(&links, ends, &outer, source).await else { continue };
            flows.insert(source, flow);
        }
        let Some(flow) = flows.get_mut(&source) else { continue };
        if links.passes(Transport::Udp, &flow.pair, len) {
            links.lost(flow.lane.send(links.wan(), packet).await, len);
        }
    }
}

/// A socket with room for a burst: a link loses what it is told to lose, and no more than it must.
async fn bind(at: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind(at).await?;
    // As much as this machine allows.
    let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(ROOM);
    Ok(socket)
}

async fn open(links: &Arc<Links>, ends: Ends, outer: &Arc<UdpSocket>, source: SocketAddr) -> Result<Flow> {
    let pair = Arc::new(Pair::new(links, Transport::Udp, source.port(), ends.member));
    let socket = Arc::new(bind((ends.listen.ip(), 0).into()).await?);
    socket.connect(ends.to).await?;
    let (links, outer, inner) = (Arc::clone(links), Arc::clone(outer), Arc::clone(&socket));
    let both = Arc::clone(&pair);
    let seed = u64::from(source.port());
    let lane = Lane::new(Arc::clone(&socket), None, seed);
    let task = tokio::spawn(async move {
        let mut buffer = vec![0_u8; 65_536];
        let mut lane = Lane::new(outer, Some(source), !seed);
        while let Ok(received) = timeout(IDLE, inner.recv(&mut buffer)).await {
            // Refused: the gateway is down just now.
            let Ok(len) = received else { continue };
            let packet = buffer.get(..len).unwrap_or_default();
            if links.passes(Transport::Udp, &both, len) {
                links.lost(lane.send(links.wan(), packet).await, len);
            }
        }
    });
    Ok(Flow { lane, pair, task })
}
