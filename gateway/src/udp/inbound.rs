//! A peer's UDP flow: one socket towards one of our endpoints.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;
use hansa_core::catalog::Protocol;
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::net::UdpSocket;

use super::{Bounds, Carrier, Near};
use crate::inbound::{PROBE, admit, finish_probe, refuse};
use crate::outcome::{Outcome, Refusal};
use crate::plane::{Plane, Record};
use crate::tunnel::Request;

/// A connected socket as the near side of a flow.
pub(super) struct Connected {
    socket: UdpSocket,
    buffer: Vec<u8>,
}

impl Connected {
    /// A socket that talks to one endpoint alone.
    pub(super) async fn new(endpoint: SocketAddr) -> std::io::Result<Self> {
        let any: SocketAddr = match endpoint {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(endpoint).await?;
        Ok(Self { socket, buffer: Vec::new() })
    }
}

impl Near for Connected {
    async fn recv(&mut self) -> Option<Bytes> {
        loop {
            self.socket.readable().await.ok()?;
            // The buffer is there only between "readable" and the copy.
            self.buffer.resize(1 << 16, 0);
            let read = self.socket.try_recv(&mut self.buffer);
            let datagram = read.as_ref().map(|n| Bytes::copy_from_slice(&self.buffer[..*n])).ok();
            self.buffer = Vec::new();
            match (datagram, read) {
                (Some(datagram), _) => return Some(datagram),
                (None, Err(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                // Refused: nobody is there any more; the client's next datagram begins a new flow.
                _ => return None,
            }
        }
    }

    async fn send(&mut self, datagram: &[u8]) -> bool {
        match self.socket.send(datagram).await {
            Ok(_) => true,
            Err(error) => error.kind() != std::io::ErrorKind::ConnectionRefused,
        }
    }
}

/// Serves one flow of a peer.
pub(crate) async fn serve(plane: &Plane, request: Request, record: &mut Record) -> Outcome {
    let table = plane.table();
    let admitted = match admit(&table, &request, Protocol::Udp) {
        Ok(admitted) => admitted,
        Err(refusal) => return refuse(plane, request, &refusal, record).await,
    };
    record.service = admitted.target.service.to_string();
    let host = admitted.target.host.as_ref().map(|(host, _)| host);
    let endpoint = plane.dialer.choose(admitted.local, admitted.target.port, host);
    drop(table);
    let none = || Refusal::no_endpoint("no ready endpoint".to_owned());
    let Some(endpoint) = endpoint else {
        return refuse(plane, request, &none(), record).await;
    };
    let mut near = match Connected::new(endpoint).await {
        Ok(near) => near,
        Err(error) => {
            tracing::debug!(%error, %endpoint, "flow");
            return refuse(plane, request, &none(), record).await;
        }
    };
    record.endpoint = Some(endpoint);
    let load = plane.dialer.take(endpoint);
    let mut headers = HeaderMap::new();
    headers.insert("capsule-protocol", HeaderValue::from_static("?1"));
    let Ok(send) = request.responder.respond(StatusCode::OK, headers).await else {
        return Outcome::PathLost;
    };
    if request.headers.contains_key(PROBE) {
        return finish_probe(send).await;
    }
    let moved = record.moved.clone();
    let carrier =
        Carrier { send, recv: request.recv, outbound: false, metrics: &plane.metrics, moved: &moved };
    let bounds = Bounds { idle: plane.limits.udp_idle_timeout.get(), closing: plane.drain.closing() };
    plane.metrics.udp_flows.inc();
    let outcome = carrier.run(&mut near, &bounds).await;
    plane.metrics.udp_flows.dec();
    drop(load);
    outcome
}
