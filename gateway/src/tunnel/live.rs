//! The life of one tunnel: registered, driven, watched, and taken out when it ends.
//!
//! Spawned by `accept` and `slot` for every tunnel, with the future that drives its connection.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hansa_core::Millis;
use hansa_core::code::gateway::LIMIT_REACHED;
use hansa_http3 as http3;
use http::{HeaderMap, StatusCode};
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::error::Cut;
use super::h2link;
use super::hub::{Hub, SETTLE};
use super::inuse::InUse;
use super::link::{Condition, Link};
use super::pulse::{Health, Patience, Pulse};
use super::request::{self, Request, Responder};
use super::stream::RecvHalf;
use super::tend::Tender;

/// Drives a connection until it ends, and says why it did.
pub(crate) type Run = Pin<Box<dyn Future<Output = Cut> + Send>>;

/// How often a tunnel is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Registers a tunnel: from here on it is given requests. False where its peer has too many. Doing so
/// again changes nothing.
pub(crate) fn enter(hub: &Hub, link: &Arc<Link>) -> bool {
    if hub.registry.has(link.id) {
        hub.registry.refresh();
        return true;
    }
    if !hub.registry.add(link, hub.config.limits.tunnels_per_peer) {
        tracing::warn!(code = %LIMIT_REACHED, peer = %link.facts.peer.cluster, "too many tunnels from one peer");
        link.close(Cut::Limit("too many tunnels".to_owned()));
        return false;
    }
    link.lend(hub.budgets.share(&link.facts.peer.cluster));
    hub.metrics.born(link);
    // The peer may have been removed since its certificate was judged; from here on every audit sees it.
    hub.judge(link, &hub.table.borrow().clone(), &hub.identity.trust().current());
    true
}

/// A tunnel that took part before the other side had shown that it takes us. Leaves again unless kept.
pub(crate) struct Early<'a> {
    hub: &'a Hub,
    link: Option<Arc<Link>>,
}

impl<'a> Early<'a> {
    pub(crate) fn enter(hub: &'a Hub, link: &Arc<Link>) -> Self {
        link.set_proven(false);
        Self { hub, link: enter(hub, link).then(|| link.clone()) }
    }

    pub(crate) fn keep(mut self) {
        if let Some(link) = self.link.take() {
            link.set_proven(true);
        }
    }
}

impl Drop for Early<'_> {
    fn drop(&mut self) {
        let Some(link) = self.link.take() else { return };
        link.close(Cut::Path("it was not taken".to_owned()));
        self.hub.registry.remove(link.id);
        self.hub.gone(&link);
    }
}

/// Runs a tunnel that has entered, to its end.
pub(crate) async fn live(hub: Arc<Hub>, link: Arc<Link>, run: Run) {
    let peer = &link.facts.peer;
    tracing::info!(peer = %peer.cluster, gateway = %peer.gateway, transport = link.lane().as_str(),
        dialled = link.facts.dialled, asks = link.facts.asks, "tunnel up");
    let ended = tokio::select! {
        ended = run => ended,
        never = watch(&hub, &link) => match never {},
    };
    link.set(Condition::Closed);
    hub.registry.remove(link.id);
    hub.dialled(&peer.cluster);
    hub.gone(&link);
    let why = link.cut().cloned().unwrap_or(ended);
    tracing::info!(peer = %peer.cluster, gateway = %peer.gateway, transport = link.lane().as_str(),
        code = %why.message(), %why, "tunnel ended");
}

async fn watch(hub: &Hub, link: &Arc<Link>) -> std::convert::Infallible {
    let millis = |duration: Duration| Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX);
    let timing = &hub.config.timing;
    let patience =
        Patience { suspect: millis(timing.suspect), dead: millis(timing.dead), look: millis(LOOK) };
    let born = Instant::now();
    let mut pulse = Pulse::new(link.received(), 0);
    let mut tender = Tender::default();
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut idle, mut lost, mut looks) = (0u32, 0, 0u32);
    loop {
        tick.tick().await;
        let now = millis(born.elapsed());
        let health = pulse.look(link.received(), millis(link.rtt()), &patience, now);
        if pulse.last() == now {
            link.heard_now();
        }
        let next = match health {
            Health::Dead => {
                link.close(Cut::Path("silent for too long".to_owned()));
                Condition::Closed
            }
            Health::Suspect => Condition::Suspect,
            Health::Good if link.facts.asks && link.told_to_leave() => Condition::GoingAway,
            Health::Good => Condition::Good,
        };
        if link.set(next) {
            hub.registry.refresh();
        }
        idle = if link.is_retired() && link.streams() == 0 { idle + 1 } else { 0 };
        // In a drain, what the peer sent before it knew may still be on its way.
        let patience = if hub.draining.is_cancelled() { SETTLE } else { 2 * LOOK };
        if LOOK * idle > patience {
            link.close(Cut::Drain);
        }
        tender.look(link, &hub.config, now);
        if looks.is_multiple_of(10) {
            hub.metrics.sample(link, &mut lost);
        }
        looks = looks.wrapping_add(1);
    }
}

/// Drives an HTTP/3 connection and takes its requests.
pub(crate) async fn run_h3(
    hub: Arc<Hub>,
    link: Arc<Link>,
    driver: Pin<Box<dyn Future<Output = http3::ConnectionError> + Send>>,
    mut requests: http3::Requests,
) -> Cut {
    let take = async {
        while let Some((head, respond, recv)) = requests.next().await {
            let Some(in_use) = admit(&hub, &link) else {
                respond.reject();
                continue;
            };
            let path = head.path.as_deref();
            let (protocol, authority) = (head.protocol.as_deref(), head.authority.as_deref());
            let target = request::target(&head.method, protocol, authority, path);
            let recv = RecvHalf::h3(recv, in_use.clone());
            let responder = Responder::h3(respond, in_use);
            let head = Head { target, protocol: head.protocol, headers: head.headers };
            deliver(&hub, &link, head, (responder, recv)).await;
        }
        std::future::pending::<std::convert::Infallible>().await
    };
    tokio::select! {
        ended = driver => ended.into(),
        never = take => match never {},
    }
}

/// Takes one request of an HTTP/2 connection.
pub(crate) fn take_h2(
    hub: &Arc<Hub>,
    link: &Arc<Link>,
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<bytes::Bytes>,
) {
    let Some(in_use) = admit(hub, link) else {
        respond.send_reset(h2::Reason::REFUSED_STREAM);
        return;
    };
    let (parts, body) = request.into_parts();
    let protocol = parts.extensions.get::<h2::ext::Protocol>().map(|p| p.as_str().to_owned());
    let authority = parts.uri.authority().map(|authority| authority.as_str());
    let path = parts.uri.path_and_query().map(|path| path.as_str());
    let target = request::target(&parts.method, protocol.as_deref(), authority, path);
    let recv = RecvHalf::h2_request(body, in_use.clone());
    let responder = Responder::h2(respond, in_use);
    let head = Head { target, protocol, headers: parts.headers };
    // Only a refusal waits, and on HTTP/2 it never does.
    let mut delivery = Box::pin(deliver(hub, link, head, (responder, recv)));
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let _ = delivery.as_mut().poll(&mut cx);
}

struct Head {
    target: Result<String, StatusCode>,
    protocol: Option<String>,
    headers: HeaderMap,
}

/// Counts one more request of this peer, up to its limit.
fn admit(hub: &Hub, link: &Arc<Link>) -> Option<Arc<InUse>> {
    let running: Arc<AtomicUsize> = hub.registry.inbound(&link.facts.peer.cluster);
    let in_use = |running| InUse::new(link, Some(running));
    let before = running.fetch_add(1, Ordering::Relaxed);
    let in_use = in_use(running);
    (before < hub.config.limits.streams_per_peer).then_some(in_use)
}

async fn deliver(hub: &Hub, link: &Link, head: Head, (responder, recv): (Responder, RecvHalf)) {
    let authority = match head.target {
        Ok(authority) => authority,
        Err(status) => {
            // The peer learns no more from a failed refusal.
            let _ = responder.refuse(status, HeaderMap::new(), recv).await;
            return;
        }
    };
    let peer = link.facts.peer.clone();
    let Head { protocol, headers, .. } = head;
    let request = Request { peer, authority, protocol, headers, responder, recv };
    let queue = &hub.incoming[link.shard];
    if let Err(TrySendError::Full(request) | TrySendError::Closed(request)) = queue.try_send(request) {
        request.responder.reject();
    }
}

/// Drives the asking side of an HTTP/2 connection.
pub(crate) fn run_h2_client<T>(
    hub: &Hub,
    connection: h2::client::Connection<h2link::Heard<T>>,
    state: Arc<h2link::State>,
) -> Run
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    Box::pin(h2link::run_client(connection, state, hub.config.timing.keep_alive))
}

/// Drives the answering side of an HTTP/2 connection and takes its requests.
pub(crate) fn run_h2_server<T>(
    hub: &Arc<Hub>,
    link: &Arc<Link>,
    connection: h2::server::Connection<h2link::Heard<T>, bytes::Bytes>,
    state: Arc<h2link::State>,
) -> Run
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (hub, link) = (hub.clone(), link.clone());
    let every = hub.config.timing.keep_alive;
    Box::pin(h2link::run_server(connection, state, every, move |request, respond| {
        take_h2(&hub, &link, request, respond);
    }))
}
