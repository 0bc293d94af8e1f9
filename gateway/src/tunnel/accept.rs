//! Accepting tunnels: QUIC and TCP, handshakes in bounded tasks with a deadline.
//!
//! Run once per listener. Nothing of a stranger goes further than its handshake; joining
//! connections are handed over as they are.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use hansa_core::code::{gateway as limits, trust as codes};
use hansa_core::spiffe::Role as Holder;
use hansa_http3 as http3;
use hansa_identity::tls::{ALPN_JOIN, ALPN_REV_H2, ALPN_REV_H3, peer_leaf};
use hansa_identity::verify::{describe, describe_text};
use hansa_runtime::source;
use quinn::crypto::rustls::HandshakeData;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::JoinStream;
use super::error::Cut;
use super::h2link::{self, Handle, Heard};
use super::hub::{Hub, per_second};
use super::link::{Facts, Link, PeerId, Wire};
use super::live::{self, live};
use super::peer::Lane;
use super::transport;

/// Guards of one listener and lane. Clones, one for each shard, count together: more shards let nobody in
/// more often.
#[derive(Clone)]
pub(crate) struct Gate {
    handshakes: Arc<Semaphore>,
    limit: usize,
    per_address: Arc<DefaultKeyedRateLimiter<IpAddr>>,
    swept: Instant,
}

impl Gate {
    pub(crate) fn new(hub: &Hub) -> Self {
        let limits = &hub.config.limits;
        Self {
            handshakes: Arc::new(Semaphore::new(limits.handshakes)),
            limit: limits.handshakes,
            per_address: Arc::new(RateLimiter::keyed(Quota::per_second(per_second(&hub.config)))),
            swept: Instant::now(),
        }
    }

    /// More than a quarter of the places are taken: strangers prove their address first.
    fn busy(&self) -> bool {
        self.handshakes.available_permits() < self.limit - self.limit / 4
    }

    fn enter(&mut self, from: IpAddr) -> Option<OwnedSemaphorePermit> {
        if self.swept.elapsed() > Duration::from_secs(10) {
            self.swept = Instant::now();
            self.per_address.retain_recent();
            self.per_address.shrink_to_fit();
        }
        self.per_address.check_key(&source::of(from)).ok()?;
        self.handshakes.clone().try_acquire_owned().ok()
    }
}

/// Accepts QUIC tunnels until draining.
pub(crate) async fn quic(hub: Arc<Hub>, endpoint: quinn::Endpoint, mut gate: Gate) {
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            () = hub.draining.cancelled() => return,
        };
        let Some(incoming) = incoming else { return };
        if gate.busy() && incoming.may_retry() {
            // Fails only where no retry is possible, which was asked just now.
            let _ = incoming.retry();
            hub.metrics.handshake("server", Lane::Quic, "retry");
            continue;
        }
        let Some(permit) = gate.enter(incoming.remote_address().ip()) else {
            hub.metrics.handshake("server", Lane::Quic, "limited");
            incoming.refuse();
            continue;
        };
        let task = quic_handshake(hub.clone(), incoming, permit);
        hub.tasks.spawn_until_shutdown("QUIC handshake", task);
    }
}

async fn quic_handshake(hub: Arc<Hub>, incoming: quinn::Incoming, permit: OwnedSemaphorePermit) {
    let from = incoming.remote_address();
    let deadline = hub.config.timing.handshake;
    let shaken = tokio::time::timeout(deadline, async { incoming.accept()?.await }).await;
    let connection = match shaken {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return hub.refused(Lane::Quic, from, describe_text(&error.to_string())),
        Err(_) => return hub.refused(Lane::Quic, from, "the handshake took too long"),
    };
    let alpn = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    let turned = alpn.and_then(|data| data.protocol).as_deref() == Some(ALPN_REV_H3);
    let chain = quic_chain(&connection);
    let facts = match admit(&hub, chain, turned) {
        Ok(facts) => facts,
        Err(why) => {
            let cut = Cut::Refused(why.clone());
            connection.close(cut.code().quic(), cut.to_string().as_bytes());
            return hub.refused(Lane::Quic, from, &why);
        }
    };
    hub.metrics.handshake("server", Lane::Quic, "ok");
    drop(permit);
    let (link, run) = h3(&hub, connection, facts);
    if live::enter(&hub, &link) {
        live(hub, link, run).await;
    }
}

/// The certificates of the other side.
pub(crate) fn quic_chain(connection: &quinn::Connection) -> Vec<CertificateDer<'static>> {
    let identity = connection.peer_identity();
    identity.and_then(|any| any.downcast().ok()).map(|chain| *chain).unwrap_or_default()
}

/// Begins HTTP/3 on a connection.
fn h3(hub: &Arc<Hub>, connection: quinn::Connection, facts: Facts) -> (Arc<Link>, live::Run) {
    let role = if facts.asks { http3::Role::Requester } else { http3::Role::Responder };
    let (connection, driver, requests) = http3::start(connection, role, transport::http3());
    let link = Link::new(facts, Wire::H3(connection));
    let run = live::run_h3(hub.clone(), link.clone(), Box::pin(driver.run()), requests);
    (link, Box::pin(run))
}

/// Who is that, by a verified certificate? The peer is found by its trust domain alone.
fn admit(hub: &Hub, chain: Vec<CertificateDer<'static>>, turned: bool) -> Result<Facts, String> {
    let leaf = peer_leaf(&chain).map_err(|error| error.to_string())?;
    let Some(Holder::Gateway(gateway)) = leaf.id.role() else {
        return Err(format!("{} {} is no gateway", codes::CERT_WRONG_ROLE, leaf.id));
    };
    let trust_domain = leaf.trust_domain().clone();
    let table = hub.table.borrow().clone();
    let peer = table.peers.values().find(|peer| peer.trust_domain == trust_domain);
    let unknown = || format!("{} {trust_domain} is no peer of ours", codes::CERT_DOMAIN_UNKNOWN);
    let peer = peer.ok_or_else(unknown)?;
    let cluster = peer.cluster.clone();
    // Its gateways may come from many addresses.
    if hub.made.check_key(&cluster).is_err() {
        return Err(format!("{} tunnels per second of {cluster}", limits::LIMIT_REACHED));
    }
    Ok(Facts {
        peer: PeerId { cluster, trust_domain, gateway },
        remote: None,
        dialled: false,
        asks: turned,
        chain,
    })
}

/// Accepts TCP tunnels and joining connections until draining.
pub(crate) async fn tcp(hub: Arc<Hub>, index: usize) {
    let mut gate = Gate::new(&hub);
    let Some(listener) = hub.listeners.get(index) else { return };
    let configs = transport::tcp_servers(&hub.identity);
    let mut next = 0_usize;
    loop {
        let accepted = tokio::select! {
            accepted = listener.tcp.accept() => accepted,
            () = hub.draining.cancelled() => return,
        };
        let (tcp, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: others must get the chance to end first.
                tracing::warn!(%error, "cannot accept a TCP connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(permit) = gate.enter(from.ip()) else {
            hub.metrics.handshake("server", Lane::Http2, "limited");
            continue;
        };
        // Such tunnels are few: they go round.
        let shard = next % hub.config.shards.count();
        next = next.wrapping_add(1);
        let Ok(tcp) = tcp.into_std() else { continue };
        let task = tcp_handshake(hub.clone(), (tcp, from), configs.clone(), permit);
        hub.spawn_on(shard, "TLS handshake", task);
    }
}

type Configs = (Arc<rustls::ServerConfig>, Arc<rustls::ServerConfig>);

async fn tcp_handshake(
    hub: Arc<Hub>,
    (tcp, from): (std::net::TcpStream, SocketAddr),
    configs: Configs,
    permit: OwnedSemaphorePermit,
) {
    // From here on it belongs to this shard.
    let Ok(tcp) = TcpStream::from_std(tcp) else { return };
    transport::tune(&tcp, &hub.config);
    let shaken = tokio::time::timeout(hub.config.timing.handshake, tls(tcp, configs)).await;
    let tls = match shaken {
        Ok(Ok(tls)) => tls,
        Ok(Err(why)) => return hub.refused(Lane::Http2, from, &why),
        Err(_) => return hub.refused(Lane::Http2, from, "the handshake took too long"),
    };
    let alpn = tls.get_ref().1.alpn_protocol();
    if alpn == Some(ALPN_JOIN) {
        hub.metrics.handshake("server", Lane::Http2, "join");
        // Where nobody takes it in time, the connection closes and the other side tries again.
        let _ = hub.joins.try_send(JoinStream { stream: tls, from });
        return;
    }
    let turned = alpn == Some(ALPN_REV_H2);
    let chain: Vec<_> = tls
        .get_ref()
        .1
        .peer_certificates()
        .unwrap_or_default()
        .iter()
        .map(|c| c.clone().into_owned())
        .collect();
    let facts = match admit(&hub, chain, turned) {
        Ok(facts) => facts,
        Err(why) => return hub.refused(Lane::Http2, from, &why),
    };
    let opened = tokio::time::timeout(hub.config.timing.handshake, h2(&hub, tls, facts)).await;
    let (link, run) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => return hub.refused(Lane::Http2, from, &error.to_string()),
        Err(_) => return hub.refused(Lane::Http2, from, "no HTTP/2 in time"),
    };
    hub.metrics.handshake("server", Lane::Http2, "ok");
    drop(permit);
    if live::enter(&hub, &link) {
        live(hub, link, run).await;
    }
}

/// TLS with the configuration that the client's ALPN asks for.
async fn tls(tcp: TcpStream, (tunnels, join): Configs) -> Result<TlsStream<TcpStream>, String> {
    let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), tcp).await;
    let hello = hello.map_err(|error| error.to_string())?;
    let offered = hello.client_hello().alpn();
    let joins = offered.is_some_and(|mut names| names.any(|name| name == ALPN_JOIN));
    let stream = hello.into_stream(if joins { join } else { tunnels }).await;
    stream.map_err(|error| match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
        Some(error) => describe(error),
        None => error.to_string(),
    })
}

async fn h2(
    hub: &Arc<Hub>,
    tls: TlsStream<TcpStream>,
    facts: Facts,
) -> Result<(Arc<Link>, live::Run), h2::Error> {
    let (io, state) = Heard::new(tls);
    if facts.asks {
        let (ask, connection) = h2link::client(io, &hub.config).await?;
        let link = Link::new(facts, Wire::H2(Handle::new(Some(ask), state.clone())));
        let run = live::run_h2_client(hub, connection, state);
        return Ok((link, run));
    }
    let connection = h2link::server(io, &hub.config).await?;
    let link = Link::new(facts, Wire::H2(Handle::new(None, state.clone())));
    let run = live::run_h2_server(hub, &link, connection, state);
    Ok((link, run))
}
