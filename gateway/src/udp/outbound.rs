//! Clients' UDP flows: one socket for each virtual address and port, one flow for each client.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use hansa_core::catalog::Protocol;
use hansa_core::name::ClusterId;
use hansa_core::reach::Event;
use http::{HeaderMap, HeaderValue};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::inbound::Connected;
use super::{Bounds, Carrier, Near, dropped};
use crate::outcome::Outcome;
use crate::plane::{Plane, Record, Tenant, What};
use crate::splice::Moved;
use crate::tunnel::{CONNECT_UDP, Open};

/// Datagrams that wait in one flow; more are dropped.
const QUEUE: usize = 128;
/// Datagrams read in one go before others get a turn.
const BURST: usize = 64;

/// A socket, which stays open as long as one of its flows needs it to answer.
struct Socket {
    udp: UdpSocket,
    /// Counts as a listener on its address.
    tenant: Tenant,
}

/// A client of one socket as the near side of a flow.
struct Client {
    socket: Arc<Socket>,
    address: SocketAddr,
    queue: mpsc::Receiver<Bytes>,
}

impl Near for Client {
    async fn recv(&mut self) -> Option<Bytes> {
        self.queue.recv().await
    }

    async fn send(&mut self, datagram: &[u8]) -> bool {
        // A full buffer or a client that is gone: UDP may lose datagrams.
        let _ = self.socket.udp.send_to(datagram, self.address).await;
        true
    }
}

struct Flows {
    plane: Arc<Plane>,
    what: Arc<What>,
    socket: Arc<Socket>,
    /// Only flows that run are served.
    leaving: bool,
    open: HashMap<SocketAddr, mpsc::Sender<Bytes>>,
    sources: HashMap<IpAddr, u32>,
}

/// Serves one socket until `stop`. In a drain, flows that run are served on until they end or the drain closes
/// them; else they end with the socket, whose address is somebody else's from then on.
pub(crate) async fn serve(
    plane: Arc<Plane>,
    (udp, tenant): (UdpSocket, Tenant),
    what: Arc<What>,
    stop: CancellationToken,
) {
    let (begun, closing) = (plane.drain.begun(), plane.drain.closing());
    let socket = Arc::new(Socket { udp, tenant });
    let (ended, mut over) = mpsc::channel::<SocketAddr>(QUEUE);
    let (open, sources) = (HashMap::new(), HashMap::new());
    let mut flows = Flows { plane, what, socket: socket.clone(), leaving: false, open, sources };
    while !(flows.leaving && flows.open.is_empty()) {
        tokio::select! {
            biased;
            () = stop.cancelled(), if !flows.leaving => match begun.is_cancelled() {
                true => flows.leaving = true,
                false => return,
            },
            () = closing.cancelled(), if flows.leaving => return,
            Some(client) = over.recv() => flows.forget(client),
            readable = socket.udp.readable() => {
                if readable.is_err() {
                    return;
                }
                flows.read(&ended);
            }
        }
        tokio::task::yield_now().await;
    }
}

impl Flows {
    fn read(&mut self, ended: &mpsc::Sender<SocketAddr>) {
        // One buffer for the burst, none while the socket is quiet.
        let mut buffer = vec![0; 1 << 16];
        for _ in 0..BURST {
            match self.socket.udp.try_recv_from(&mut buffer) {
                Ok((n, client)) => self.take(client, Bytes::copy_from_slice(&buffer[..n]), ended),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                // An ICMP answer to something sent before.
                Err(_) => {}
            }
        }
    }

    fn take(&mut self, client: SocketAddr, datagram: Bytes, ended: &mpsc::Sender<SocketAddr>) {
        let datagram = match self.open.get(&client) {
            None => datagram,
            Some(queue) => match queue.try_send(datagram) {
                Ok(()) => return,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    return dropped(&self.plane.metrics, "queue_full");
                }
                // The flow has just ended: this datagram begins the next one.
                Err(mpsc::error::TrySendError::Closed(datagram)) => {
                    self.forget(client);
                    datagram
                }
            },
        };
        if self.leaving {
            return dropped(&self.plane.metrics, "draining");
        }
        let limits = &self.plane.limits;
        let of_source = self.sources.get(&client.ip()).copied().unwrap_or(0);
        if of_source >= limits.udp_flows_per_source {
            return dropped(&self.plane.metrics, "flows_per_source");
        }
        if self.plane.metrics.udp_flows.get() >= i64::from(limits.udp_flows) {
            return dropped(&self.plane.metrics, "flows");
        }
        let (queue, receiver) = mpsc::channel(QUEUE);
        // It is empty, so there is room.
        let _ = queue.try_send(datagram);
        self.open.insert(client, queue);
        *self.sources.entry(client.ip()).or_default() += 1;
        let near = Client { socket: self.socket.clone(), address: client, queue: receiver };
        let (plane, what, ended) = (self.plane.clone(), self.what.clone(), ended.clone());
        let tenant = self.socket.tenant.connection();
        self.plane.tasks.spawn("udp-flow", async move {
            plane.metrics.udp_flows.inc();
            flow(&plane, &what, near).await;
            plane.metrics.udp_flows.dec();
            drop(tenant);
            // The socket may be closed already.
            let _ = ended.send(client).await;
        });
    }

    fn forget(&mut self, client: SocketAddr) {
        if self.open.get(&client).is_some_and(|queue| !queue.is_closed()) {
            // A new flow of the same client is already under way.
            return;
        }
        if self.open.remove(&client).is_some()
            && let Some(count) = self.sources.get_mut(&client.ip())
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.sources.remove(&client.ip());
            }
        }
    }
}

async fn flow(plane: &Plane, what: &What, mut near: Client) {
    let _hold = plane.drain.hold();
    let mut record = Record::new("outbound", what.authority(), near.address.to_string());
    let table = plane.table();
    let bounds = Bounds { idle: plane.limits.udp_idle_timeout.get(), closing: plane.drain.closing() };
    let choice = plane.choose(&table, what, Protocol::Udp, near.address.ip());
    let mut outcome = if choice.is_some() { Outcome::NoEndpoint } else { Outcome::NoSuchService };
    record.service = if choice.is_some() { what.service.to_string() } else { String::new() };
    for cluster in choice.into_iter().flat_map(|choice| choice.order) {
        record.attempts += 1;
        record.peer = cluster.to_string();
        let tried = match cluster == table.cluster {
            true => local(plane, what, &mut near, &mut record, &bounds).await,
            false => remote(plane, what, &cluster, (&mut near, &mut record), &bounds).await,
        };
        match tried {
            Ok(ended) => {
                outcome = ended;
                break;
            }
            Err(refused) => outcome = refused,
        }
    }
    record.finish(&plane.metrics, outcome);
}

/// An endpoint of the own cluster; an error says that nothing was sent.
async fn local(
    plane: &Plane,
    what: &What,
    client: &mut Client,
    record: &mut Record,
    bounds: &Bounds,
) -> Result<Outcome, Outcome> {
    let table = plane.table();
    let local = table.services.get(&what.service).and_then(|row| row.local.as_ref());
    let host = what.host.as_ref().map(|(host, _)| host);
    let endpoint = local.and_then(|local| plane.dialer.choose(local, what.port, host));
    let endpoint = endpoint.ok_or(Outcome::NoEndpoint)?;
    let mut service = Connected::new(endpoint).await.map_err(|_| Outcome::NoEndpoint)?;
    record.endpoint = Some(endpoint);
    let load = plane.dialer.take(endpoint);
    let moved: Arc<Moved> = record.moved.clone();
    let count = |counter: &std::sync::atomic::AtomicU64, n: usize| {
        counter.fetch_add(n as u64, std::sync::atomic::Ordering::Relaxed);
    };
    let outcome = loop {
        tokio::select! {
            datagram = client.recv() => match datagram {
                Some(datagram) => {
                    count(&moved.up, datagram.len());
                    if !service.send(&datagram).await {
                        break Outcome::ServiceReset;
                    }
                }
                None => break Outcome::Done,
            },
            datagram = service.recv() => match datagram {
                Some(datagram) => {
                    count(&moved.down, datagram.len());
                    client.send(&datagram).await;
                }
                None => break Outcome::ServiceReset,
            },
            () = tokio::time::sleep(bounds.idle) => break Outcome::Idle,
            () = bounds.closing.cancelled() => break Outcome::DrainDeadline,
        }
    };
    drop(load);
    Ok(outcome)
}

/// A peer; an error says that nothing was sent.
async fn remote(
    plane: &Plane,
    what: &What,
    cluster: &ClusterId,
    (client, record): (&mut Client, &mut Record),
    bounds: &Bounds,
) -> Result<Outcome, Outcome> {
    let mut headers = HeaderMap::new();
    headers.insert("capsule-protocol", HeaderValue::from_static("?1"));
    let head = Open {
        authority: what.authority(),
        protocol: Some(CONNECT_UDP),
        headers,
        via: None,
        first: Bytes::new(),
    };
    let mut stream = plane.tunnels.open(cluster, head).await.map_err(|error| {
        record.detail = error.to_string();
        Outcome::Unreachable
    })?;
    record.gateway = stream.gateway.to_string();
    record.transport = stream.transport.as_str();
    let path = what.path(cluster, Protocol::Udp);
    // The datagrams wait in their queue: lost ones would be lost without a count.
    let answer = tokio::time::timeout(plane.limits.answer_timeout.get(), stream.recv.response()).await;
    match answer {
        Ok(Ok(response)) if response.status.is_success() => plane.tracks.record(&path, Event::Succeeded),
        Ok(Ok(response)) => {
            let why: String = response.proxy_status().unwrap_or_default().chars().take(300).collect();
            record.detail = format!("{} {why}", response.status.as_u16());
            return Err(match response.status.as_u16() {
                403 => Outcome::Denied,
                404 => Outcome::NoSuchService,
                _ => {
                    plane.tracks.record(&path, Event::Failed);
                    Outcome::NoEndpoint
                }
            });
        }
        Ok(Err(error)) => {
            record.detail = error.to_string();
            return Err(Outcome::PathLost);
        }
        Err(_) => {
            plane.tracks.record(&path, Event::Failed);
            return Err(Outcome::Timeout);
        }
    }
    let moved = record.moved.clone();
    let carrier = Carrier {
        send: stream.send,
        recv: stream.recv,
        outbound: true,
        metrics: &plane.metrics,
        moved: &moved,
    };
    Ok(carrier.run(client, bounds).await)
}
