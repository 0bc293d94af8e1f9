//! A peer's request: judged, dialled, answered, spliced.
//!
//! Called with every request the tunnels bring. It reaches endpoints of the own cluster and the
//! own controller, nothing else: a loop cannot be expressed.

use std::sync::Arc;
use std::time::Duration;

use hansa_core::catalog::{LocalService, Protocol};
use hansa_core::mesh::RouteTable;
use hansa_core::name::Target;
use hansa_core::policy;
use hansa_core::spiffe::{SpiffeId, TrustDomain};
use hansa_runtime::source;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};

use crate::dial::DialError;
use crate::metrics::Flow;
use crate::outcome::{Outcome, Refusal};
use crate::plane::{Places, Plane, Record};
use crate::splice::{self, Moved, TcpSink, TcpSource};
use crate::tunnel::{CONNECT_UDP, RecvHalf, Request, SendHalf};

/// The authority that leads to the controller of the cluster asked.
pub(crate) const CONTROLLER: &str = "controller.hansa.internal:443";
/// Strangers that are led to the controller at once, to join.
const JOINS: usize = 16;
/// Of them, from one address or one /64 of IPv6.
const JOINS_EACH: usize = 4;
/// Joining is one exchange; who stays longer is not joining.
const JOINING: Duration = Duration::from_secs(30);
/// Marks a probe: the endpoint is dialled and the connection closed without a byte.
pub(crate) const PROBE: HeaderName = HeaderName::from_static("hansa-probe");
/// The calling workload, believed only within the trust domain of the gateway that says it.
const CALLER: &str = "hansa-caller";

/// Serves requests until the tunnels bring no more.
pub(crate) async fn run(plane: Arc<Plane>, mut incoming: mpsc::Receiver<Request>) {
    while let Some(request) = incoming.recv().await {
        let each = plane.clone();
        plane.tasks.spawn("inbound", serve(each, request));
    }
}

async fn serve(plane: Arc<Plane>, request: Request) {
    // A controller's link is as long as its life: the drain does not wait for it.
    let _hold = (request.authority != CONTROLLER).then(|| plane.drain.hold());
    let peer = request.peer.clone();
    let client = format!("{}/{}", peer.cluster, peer.gateway);
    let mut record = Record::new("inbound", shown(&request.authority), client);
    record.peer = peer.cluster.to_string();
    record.detail = caller(&request.headers, &peer.trust_domain);
    let outcome = match request.protocol.as_deref() {
        _ if request.authority == CONTROLLER => Box::pin(controller(&plane, request, &mut record)).await,
        None => tcp(&plane, request, &mut record).await,
        Some(CONNECT_UDP) => Box::pin(crate::udp::inbound::serve(&plane, request, &mut record)).await,
        Some(_) => {
            let refusal = Refusal::bad_request("this :protocol is not supported".to_owned());
            Box::pin(refuse(&plane, request, &refusal, &mut record)).await
        }
    };
    record.finish(&plane.metrics, outcome);
}

/// The workload a peer's gateway speaks for: only ever one of its own trust domain.
fn caller(headers: &HeaderMap, domain: &TrustDomain) -> String {
    let Some(Ok(text)) = headers.get(CALLER).map(HeaderValue::to_str) else {
        return String::new();
    };
    match text.parse::<SpiffeId>() {
        Ok(id) if *id.trust_domain() == *domain => format!("caller {id}"),
        _ => "a caller of another trust domain was claimed and ignored".to_owned(),
    }
}

fn shown(authority: &str) -> String {
    authority.chars().take(260).flat_map(char::escape_debug).collect()
}

/// Answers a refusal and counts it.
pub(crate) async fn refuse(
    plane: &Plane,
    request: Request,
    refusal: &Refusal,
    record: &mut Record,
) -> Outcome {
    record.detail.clone_from(&refusal.details);
    let mut headers = HeaderMap::new();
    let proxy = format!("{}-{}", plane.table.borrow().cluster, plane.id).replace('.', "-");
    if let Ok(value) = HeaderValue::from_str(&refusal.proxy_status(&proxy)) {
        headers.insert("proxy-status", value);
    }
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    // Whoever asked may be gone; the outcome is the same.
    let refused = request.responder.refuse(status, headers, request.recv);
    let _ = tokio::time::timeout(Duration::from_secs(1), refused).await;
    refusal.outcome
}

/// What a request asks for, once it was found to be allowed.
pub(crate) struct Admitted<'a> {
    /// The target.
    pub(crate) target: Target,
    /// Our side of the service.
    pub(crate) local: &'a LocalService,
}

/// Whether the peer may have what it asks for.
pub(crate) fn admit<'a>(
    table: &'a RouteTable,
    request: &Request,
    protocol: Protocol,
) -> Result<Admitted<'a>, Refusal> {
    let target: Target =
        request.authority.parse().map_err(|e| Refusal::bad_request(format!("authority: {e}")))?;
    let row = table.services.get(&target.service);
    let Some((row, local)) = row.and_then(|row| Some((row, row.local.as_ref()?))) else {
        return Err(Refusal::not_exported(format!("{} is not exported here", target.service)));
    };
    if !policy::may_see(local, &request.peer.cluster) {
        return Err(Refusal::denied(format!(
            "rule hansa.dev/export-to of {} does not name {}",
            target.service, request.peer.cluster
        )));
    }
    if let Some((host, cluster)) = &target.host {
        let known =
            *cluster == table.cluster && local.endpoints.iter().any(|e| e.hostname.as_ref() == Some(host));
        if !known {
            return Err(Refusal::not_exported(format!("host {host} of {cluster} is not here")));
        }
    } else if !row.ports.iter().any(|p| p.port == target.port && p.protocol == protocol) {
        let port = target.port;
        return Err(Refusal::not_exported(format!("{} has no port {port}/{protocol}", target.service)));
    }
    Ok(Admitted { target, local })
}

async fn tcp(plane: &Plane, request: Request, record: &mut Record) -> Outcome {
    let table = plane.table();
    let admitted = match admit(&table, &request, Protocol::Tcp) {
        Ok(admitted) => admitted,
        Err(refusal) => return Box::pin(refuse(plane, request, &refusal, record)).await,
    };
    let Admitted { target, local } = admitted;
    record.service = target.service.to_string();
    let host = target.host.as_ref().map(|(host, _)| host);
    // Boxed: what is over soon must not take room for the connection's whole life.
    let dialed = match Box::pin(plane.dialer.dial(local, target.port, host)).await {
        Ok(dialed) => dialed,
        Err(error) => return Box::pin(refuse(plane, request, &failed(&error), record)).await,
    };
    drop(table);
    record.endpoint = Some(dialed.endpoint);
    record.attempts = 1;
    let probe = request.headers.contains_key(PROBE);
    let respond = request.responder.respond(StatusCode::OK, HeaderMap::new());
    let Ok(send) = Box::pin(respond).await else {
        splice::reset_on_drop(&dialed.stream);
        return Outcome::PathLost;
    };
    if probe {
        return finish_probe(send).await;
    }
    let moved = record.moved.clone();
    let outcome = join(plane, dialed.stream, send, request.recv, (&record.peer, &moved)).await;
    drop(dialed.load);
    outcome
}

/// The refusal that says why no endpoint was had.
fn failed(error: &DialError) -> Refusal {
    match error {
        DialError::Timeout(_) => Refusal::dial_timeout("no endpoint answered the dial".to_owned()),
        DialError::None => Refusal::no_endpoint("no ready endpoint".to_owned()),
        // Addresses of endpoints never leave the cluster.
        DialError::Refused(..) => Refusal::no_endpoint("every endpoint refused".to_owned()),
        DialError::Own(_) => Refusal::no_endpoint("the gateway has no room".to_owned()),
    }
}

/// A probe's end: answered, and no byte.
pub(crate) async fn finish_probe(mut send: SendHalf) -> Outcome {
    let _ = tokio::time::timeout(Duration::from_secs(1), send.finish()).await;
    Outcome::Probe
}

async fn join(
    plane: &Plane,
    stream: TcpStream,
    mut send: SendHalf,
    mut recv: RecvHalf,
    (peer, moved): (&str, &Moved),
) -> Outcome {
    let open = Flow { direction: "inbound", peer: peer.to_owned() };
    let open = plane.metrics.open.get_or_create(&open).clone();
    open.inc();
    let stream = Arc::new(stream);
    let (mut source, mut sink) = (TcpSource::new(stream.clone()), TcpSink::new(stream));
    let (client, service) = ((&mut recv, &mut send), (&mut source, &mut sink));
    let outcome = splice::splice(client, service, moved, &plane.bounds()).await;
    open.dec();
    outcome
}

/// Splices a peer's controller to our own; an inner TLS runs end to end between them.
async fn controller(plane: &Plane, request: Request, record: &mut Record) -> Outcome {
    let Some(_place) = plane.calls.enter(request.peer.cluster.clone()) else {
        let refusal = Refusal::no_endpoint("too many links of this peer to the controller".to_owned());
        return refuse(plane, request, &refusal, record).await;
    };
    let stream = match dial_controller(plane).await {
        Ok(stream) => stream,
        Err(cause) => {
            let refusal = Refusal::no_endpoint(format!("controller: {cause}"));
            return refuse(plane, request, &refusal, record).await;
        }
    };
    let Ok(send) = request.responder.respond(StatusCode::OK, HeaderMap::new()).await else {
        return Outcome::PathLost;
    };
    let moved = record.moved.clone();
    join(plane, stream, send, request.recv, (&record.peer, &moved)).await
}

/// The first of our controllers that answers.
pub(crate) async fn dial_controller(plane: &Plane) -> Result<TcpStream, &'static str> {
    let limit = plane.limits.dial_timeout.get();
    for address in &plane.controllers {
        if let Ok(Ok(stream)) = tokio::time::timeout(limit, TcpStream::connect(address.as_str())).await {
            let _ = stream.set_nodelay(true);
            return Ok(stream);
        }
    }
    Err("it does not answer")
}

/// Takes those who want to join to the own controller, as they are.
pub(crate) async fn joins(plane: Arc<Plane>, mut streams: crate::tunnel::JoinStreams) {
    let (room, each_from) = (Arc::new(Semaphore::new(JOINS)), Places::new(JOINS_EACH));
    while let Some(join) = streams.recv().await {
        // Strangers may come this far: they take a few places for a while, and no more.
        let place = each_from.enter(source::of(join.from.ip()));
        let (Some(place), Ok(of_all)) = (place, room.clone().try_acquire_owned()) else {
            tracing::debug!(from = %join.from, "no place for one more join");
            continue;
        };
        let each = plane.clone();
        plane.tasks.spawn_until_shutdown("join", async move {
            let _held = (place, of_all);
            let controller = match dial_controller(&each).await {
                Ok(controller) => Arc::new(controller),
                Err(cause) => {
                    tracing::warn!(from = %join.from, cause, "a join found no controller");
                    return;
                }
            };
            let mut client = splice::IoEnd::new(join.stream);
            let (mut source, mut sink) = (TcpSource::new(controller.clone()), TcpSink::new(controller));
            let (client, service) = ((&mut client.source, &mut client.sink), (&mut source, &mut sink));
            let (moved, bounds) = (Moved::default(), each.bounds());
            let exchange = splice::splice(client, service, &moved, &bounds);
            let outcome = tokio::time::timeout(JOINING, exchange).await.unwrap_or(Outcome::Timeout);
            tracing::info!(from = %join.from, outcome = outcome.label(), "join");
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, F>(_: fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_spoofed_caller_is_not_believed() {
        let domain: TrustDomain = "b.test".parse().unwrap();
        let said = |text: &str| {
            let value = HeaderValue::from_str(text).unwrap();
            caller(&HeaderMap::from_iter([(HeaderName::from_static(CALLER), value)]), &domain)
        };
        assert_eq!(said("spiffe://b.test/ns/x/sa/y"), "caller spiffe://b.test/ns/x/sa/y");
        for spoofed in
            ["spiffe://a.test/ns/x/sa/y", "spiffe://a.test/hansa/controller", "root", "spiffe://b.test"]
        {
            assert!(said(spoofed).ends_with("was claimed and ignored"), "{spoofed}");
        }
        assert_eq!(caller(&HeaderMap::new(), &domain), "");
    }

    #[test]
    fn a_connections_task_is_small() {
        let bytes = size(serve);
        assert!(bytes <= 4 << 10, "{bytes}");
    }
}
