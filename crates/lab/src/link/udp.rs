//! UDP through a link: one socket towards the gateway for every sender, so that answers find their way.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::{Ends, Links, Pair, Transport};

/// A sender that is silent for so long is forgotten.
const IDLE: Duration = Duration::from_secs(120);
/// Senders remembered at one time; more are not served.
const MOST: usize = 4096;

struct Flow {
    socket: Arc<UdpSocket>,
    pair: Arc<Pair>,
    task: tokio::task::JoinHandle<()>,
}

pub(crate) async fn run(links: Arc<Links>, ends: Ends) -> Result<()> {
    let outer = Arc::new(UdpSocket::bind(ends.listen).await.with_context(|| ends.listen.to_string())?);
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
        let Some(flow) = flows.get(&source) else { continue };
        if links.passes(Transport::Udp, &flow.pair, len) {
            // A gateway that is not there drops it, as a network would.
            let _ = flow.socket.send(packet).await;
        }
    }
}

async fn open(links: &Arc<Links>, ends: Ends, outer: &Arc<UdpSocket>, source: SocketAddr) -> Result<Flow> {
    let pair = Arc::new(Pair::new(links, Transport::Udp, source.port(), ends.member));
    let socket = Arc::new(UdpSocket::bind((ends.listen.ip(), 0)).await?);
    socket.connect(ends.to).await?;
    let (links, outer, inner) = (Arc::clone(links), Arc::clone(outer), Arc::clone(&socket));
    let both = Arc::clone(&pair);
    let task = tokio::spawn(async move {
        let mut buffer = vec![0_u8; 65_536];
        while let Ok(received) = timeout(IDLE, inner.recv(&mut buffer)).await {
            // Refused: the gateway is down just now.
            let Ok(len) = received else { continue };
            let packet = buffer.get(..len).unwrap_or_default();
            if links.passes(Transport::Udp, &both, len) {
                let _ = outer.send_to(packet, source).await;
            }
        }
    });
    Ok(Flow { socket, pair, task })
}
