//! One dial to one gateway of a peer, over one lane: all its addresses, staggered, and proof that
//! the other side took us before the tunnel counts.
//!
//! Called by `slot`. Never retries and never chooses a lane.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use hansa_core::code::{self, Code, control, gateway};
use hansa_core::spiffe::{Role as Holder, SpiffeId};
use hansa_http3 as http3;
use hansa_identity::tls::{self, ALPN_H2, ALPN_H3, ALPN_REV_H2, ALPN_REV_H3};
use hansa_identity::verify::describe;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::accept::quic_chain;
use super::error::plain;
use super::h2link::{self, Handle, Heard};
use super::hub::Hub;
use super::link::{Facts, Link, PeerId, Wire};
use super::live::{self, Early, Run};
use super::peer::Lane;
use super::transport;

/// The next address is tried when the one before was silent for so long.
const STAGGER: Duration = Duration::from_millis(150);
/// Most addresses of one gateway that are tried.
const MAX_ADDRESSES: usize = 8;

/// Whom to dial, and who shall ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) peer: PeerId,
    /// `host:port`, name or address.
    pub(crate) addresses: Vec<String>,
    /// They ask and we answer: for a member that cannot be dialled.
    pub(crate) turned: bool,
}

/// Why a dial failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DialError {
    #[error("cannot resolve {0}")]
    Resolve(String),
    #[error("no answer in time")]
    Timeout,
    #[error("{code} the address leads to ourselves", code = gateway::RESOLVES_TO_SELF)]
    Ourselves,
    #[error("{0}")]
    Refused(String),
}

impl DialError {
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Resolve(_) => "unresolved",
            Self::Timeout => "timeout",
            Self::Ourselves => "ourselves",
            Self::Refused(_) => "refused",
        }
    }

    /// The code an operator looks up; a certificate that was refused brings its own.
    pub(crate) fn message(&self) -> Code {
        match self {
            Self::Ourselves => gateway::RESOLVES_TO_SELF,
            Self::Refused(why) => code::named_in(why).unwrap_or(control::PEER_UNREACHABLE),
            Self::Resolve(_) | Self::Timeout => control::PEER_UNREACHABLE,
        }
    }
}

/// A tunnel just made, not yet registered, and what drives it.
pub(crate) struct Fresh {
    pub(crate) link: Arc<Link>,
    pub(crate) run: Run,
}

/// Dials `target` over `lane`.
pub(crate) async fn dial(hub: Arc<Hub>, target: Target, lane: Lane) -> Result<Fresh, DialError> {
    let limit = hub.config.timing.handshake;
    let dialled = tokio::time::timeout(limit, attempt(&hub, &target, lane)).await;
    let dialled = dialled.unwrap_or(Err(DialError::Timeout));
    hub.metrics.dialled(lane, dialled.as_ref().err());
    dialled
}

async fn attempt(hub: &Arc<Hub>, target: &Target, lane: Lane) -> Result<Fresh, DialError> {
    let addresses = resolve(&target.addresses).await?;
    let made = match lane {
        Lane::Quic => {
            let connection = race(addresses, |address| quic(hub, target, address)).await?;
            h3(hub, target, connection).await
        }
        Lane::Http2 => {
            let stream = race(addresses, |address| tcp(hub, target, address)).await?;
            h2(hub, target, stream).await
        }
    };
    made.map_err(|why| explain(hub, &why))
}

/// Looks all names up, every time: an address may have moved. Families alternate (RFC 8305).
pub(crate) async fn resolve(names: &[String]) -> Result<Vec<SocketAddr>, DialError> {
    let (mut v6, mut v4) = (Vec::new(), Vec::new());
    for name in names {
        // One name that does not resolve leaves the others.
        let Ok(found) = tokio::net::lookup_host(name.as_str()).await else { continue };
        for address in found {
            let family = if address.is_ipv6() { &mut v6 } else { &mut v4 };
            if !family.contains(&address) {
                family.push(address);
            }
        }
    }
    let (mut v6, mut v4) = (v6.into_iter(), v4.into_iter());
    let mut all = Vec::new();
    loop {
        let pair = [v6.next(), v4.next()];
        if pair.iter().all(Option::is_none) || all.len() >= MAX_ADDRESSES {
            break;
        }
        all.extend(pair.into_iter().flatten());
    }
    match all.is_empty() {
        true => Err(DialError::Resolve(names.join(", "))),
        false => Ok(all),
    }
}

/// Happy eyeballs: the first address that answers wins; the next starts after a pause or a failure.
async fn race<T, F>(addresses: Vec<SocketAddr>, attempt: impl Fn(SocketAddr) -> F) -> Result<T, DialError>
where
    F: Future<Output = Result<T, DialError>>,
{
    let mut waiting = addresses.into_iter();
    let mut running = FuturesUnordered::new();
    let mut last = DialError::Timeout;
    if let Some(first) = waiting.next() {
        running.push(attempt(first));
    }
    while !running.is_empty() {
        let next = tokio::select! {
            done = running.next() => match done {
                Some(Ok(made)) => return Ok(made),
                Some(Err(error)) => {
                    last = error;
                    waiting.next()
                }
                None => None,
            },
            () = tokio::time::sleep(STAGGER), if waiting.len() > 0 => waiting.next(),
        };
        running.extend(next.map(&attempt));
    }
    Err(last)
}

fn client_config(hub: &Hub, target: &Target, alpn: [&[u8]; 2]) -> rustls::ClientConfig {
    let id = SpiffeId::of(&target.peer.trust_domain, &Holder::Gateway(target.peer.gateway.clone()));
    let [straight, turned] = alpn;
    hub.identity.client_to(id, &[if target.turned { turned } else { straight }])
}

/// Our own certificate at the other end means that the address is wrong.
fn explain(hub: &Hub, why: &str) -> DialError {
    let own = hub.identity.keys().id().to_string();
    match why.contains(&format!("{own} may not be")) {
        true => DialError::Ourselves,
        false => DialError::Refused(plain(why)),
    }
}

async fn quic(hub: &Hub, target: &Target, address: SocketAddr) -> Result<quinn::Connection, DialError> {
    let config = client_config(hub, target, [ALPN_H3, ALPN_REV_H3]);
    let config = transport::quic_client(hub.transport.clone(), config).map_err(DialError::Refused)?;
    let endpoint = hub.diallers.towards(address);
    let endpoint = endpoint.ok_or_else(|| DialError::Refused(format!("no socket for {address}")))?;
    let connecting = endpoint.connect_with(config, address, tls::SERVER_NAME);
    let connecting = connecting.map_err(|error| DialError::Refused(error.to_string()))?;
    connecting.await.map_err(|error| match error {
        quinn::ConnectionError::TimedOut => DialError::Timeout,
        other => explain(hub, &other.to_string()),
    })
}

fn facts(
    target: &Target,
    chain: Vec<rustls::pki_types::CertificateDer<'static>>,
    remote: Option<SocketAddr>,
) -> Facts {
    Facts { peer: target.peer.clone(), remote, dialled: true, asks: !target.turned, chain }
}

/// Waits for the peer's SETTINGS: our own handshake ends before the peer has judged our certificate. Who
/// has no other tunnel may ask on this one meanwhile: a peer that refuses us reads nothing of it.
async fn h3(hub: &Arc<Hub>, target: &Target, connection: quinn::Connection) -> Result<Fresh, String> {
    let chain = quic_chain(&connection);
    let role = if target.turned { http3::Role::Responder } else { http3::Role::Requester };
    let (connection, driver, requests) = http3::start(connection, role, transport::http3());
    let mut settings = connection.peer_settings();
    let mut driver = Box::pin(driver.run());
    let remote = Some(connection.quic().remote_address());
    let link = Link::new(facts(target, chain, remote), Wire::H3(connection));
    let early = Early::enter(hub, &link);
    tokio::select! {
        ended = &mut driver => return Err(ended.to_string()),
        _ = settings.wait_for(Option::is_some) => {}
    }
    early.keep();
    let run = live::run_h3(hub.clone(), link.clone(), driver, requests);
    Ok(Fresh { link, run: Box::pin(run) })
}

async fn tcp(hub: &Hub, target: &Target, address: SocketAddr) -> Result<TlsStream<TcpStream>, DialError> {
    let refused = |error: io::Error| match error.get_ref().and_then(|e| e.downcast_ref()) {
        Some(error) => explain(hub, &describe(error)),
        None => explain(hub, &error.to_string()),
    };
    let tcp = TcpStream::connect(address).await.map_err(refused)?;
    transport::tune(&tcp, &hub.config);
    let config = client_config(hub, target, [ALPN_H2, ALPN_REV_H2]);
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(tls::server_name(), tcp).await.map_err(refused)
}

/// Waits for a word of the peer (a PONG, or its preface where it asks), for the same reason.
async fn h2(hub: &Arc<Hub>, target: &Target, stream: TlsStream<TcpStream>) -> Result<Fresh, String> {
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let chain = certificates.iter().map(|c| c.clone().into_owned()).collect();
    let facts = facts(target, chain, stream.get_ref().0.peer_addr().ok());
    let (io, state) = Heard::new(stream);
    let text = |error: h2::Error| error.to_string();
    if target.turned {
        let connection = h2link::server(io, &hub.config).await.map_err(text)?;
        let link = Link::new(facts, Wire::H2(Handle::new(None, state.clone())));
        let run = live::run_h2_server(hub, &link, connection, state);
        return Ok(Fresh { link, run });
    }
    let (ask, mut connection) = h2link::client(io, &hub.config).await.map_err(text)?;
    h2link::proof(&mut connection, &state).await.map_err(text)?;
    let link = Link::new(facts, Wire::H2(Handle::new(Some(ask), state.clone())));
    let run = live::run_h2_client(hub, connection, state);
    Ok(Fresh { link, run })
}
