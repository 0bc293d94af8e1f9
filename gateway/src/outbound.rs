//! A client's connection: chosen, carried to the first candidate that takes it, spliced.
//!
//! Called by the listeners for every accepted connection. First bytes leave with the request and
//! are repeated elsewhere only when the refusal proves that nobody got them; silence after bytes
//! were sent is a reset, never a second delivery.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hansa_core::catalog::Protocol;
use hansa_core::mesh::RouteTable;
use hansa_core::name::ClusterId;
use hansa_core::reach::Event;
use hansa_runtime::drain::Hold;
use hansa_runtime::shards::Load;
use http::{HeaderMap, StatusCode};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::metrics::{self, Flow};
use crate::outcome::Outcome;
use crate::plane::{Choice, Plane, Record, Tenant, What};
use crate::splice::{
    self, Broken, Half, Kept, Moved, Release, Sink, Source, TcpSink, TcpSource, both, pipe, reset_on_drop,
};
use crate::tunnel::{Open, RecvHalf, SendHalf, StreamError};

/// How long a request waits for the client's first bytes; one that lets the server speak first
/// loses no more than this.
const RIDE_ALONG: Duration = Duration::from_millis(1);

/// How long a connection waits for a path when none leads anywhere.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between the first two rounds over all candidates; doubled from round to round.
const BREATH: Duration = Duration::from_millis(20);

/// How one candidate answered.
enum Attempt {
    /// The connection is over.
    Ended(Outcome),
    /// Certainly nothing was delivered: try the next one.
    Next(&'static str, Outcome),
}

/// One client connection.
struct Client<'a> {
    plane: &'a Plane,
    what: &'a What,
    stream: Arc<TcpStream>,
    release: Release,
    record: &'a mut Record,
    from: SocketAddr,
}

/// What a connection holds as long as it lives.
#[derive(Debug)]
pub(crate) struct Held {
    /// Its place among all connections.
    pub(crate) _place: OwnedSemaphorePermit,
    /// Its place on the addresses of a gateway.
    pub(crate) _tenant: Tenant,
    /// Its weight on its shard.
    pub(crate) _load: Load,
    /// The drain waits for it.
    pub(crate) _hold: Hold,
}

/// Serves one client connection to its end.
pub(crate) async fn serve(
    plane: Arc<Plane>,
    what: Arc<What>,
    (stream, client): (TcpStream, SocketAddr),
    _held: Held,
) {
    let _ = stream.set_nodelay(true);
    let mut record = Record::new("outbound", what.authority(), client.to_string());
    let stream = Arc::new(stream);
    let outcome = run(&plane, &what, &stream, client, &mut record).await;
    if outcome != Outcome::Done {
        reset_on_drop(&stream);
    }
    drop(stream);
    record.finish(&plane.metrics, outcome);
}

async fn run(
    plane: &Plane,
    what: &What,
    stream: &Arc<TcpStream>,
    client: SocketAddr,
    record: &mut Record,
) -> Outcome {
    let end = Instant::now() + PATIENCE;
    let mut client =
        Client { plane, what, stream: stream.clone(), release: Release::default(), record, from: client };
    let mut breath = BREATH;
    loop {
        let table = plane.table();
        let Some(choice) = plane.choose(&table, what, Protocol::Tcp, client.from.ip()) else {
            return Outcome::NoSuchService;
        };
        client.record.service = what.service.to_string();
        let order = choice.order.clone();
        match client.round(&table, choice).await {
            Round::Ended(outcome) => return outcome,
            Round::NoPath(outcome) => {
                drop(table);
                match Box::pin(client.path(&order, breath, end)).await {
                    Ok(true) => breath *= 2,
                    Ok(false) => return outcome,
                    Err(broken) => return splice::outcome(true, broken),
                }
            }
        }
    }
}

/// How one round over all candidates ended.
enum Round {
    /// The connection is over.
    Ended(Outcome),
    /// No candidate took it: no path leads to any, or those asked vouch that they did not look at it.
    NoPath(Outcome),
}

impl Client<'_> {
    async fn round(&mut self, table: &RouteTable, choice: Choice) -> Round {
        let (mut last, mut asked) = (Outcome::NoEndpoint, choice.order.is_empty());
        for cluster in choice.order {
            self.record.attempts += 1;
            self.record.peer = cluster.to_string();
            // In panic, first bytes wait for the answer: something failed there. Where nothing was tried
            // yet, as right after the start, nothing failed.
            let path = self.what.path(&cluster, Protocol::Tcp);
            self.release.attempt(choice.panic && !self.plane.tracks.snapshot().is_new(&cluster, &path));
            self.record.moved.up.store(0, Ordering::Relaxed);
            let attempt =
                if cluster == table.cluster { self.local(table).await } else { self.remote(&cluster).await };
            match attempt {
                Attempt::Ended(outcome) => return Round::Ended(outcome),
                Attempt::Next(reason, outcome) => {
                    let moved = metrics::Moved { peer: cluster.to_string(), reason };
                    self.plane.metrics.failovers.get_or_create(&moved).inc();
                    asked |= !matches!(outcome, Outcome::Unreachable | Outcome::PathLost);
                    last = outcome;
                }
            }
        }
        if asked { Round::Ended(last) } else { Round::NoPath(last) }
    }

    /// Waits for a path to any of `order`: true if there is one before `end`.
    async fn path(&self, order: &[ClusterId], breath: Duration, end: Instant) -> Result<bool, Broken> {
        let mut turns = self.plane.tunnels.turns();
        let mut client = TcpSource::new(self.stream.clone());
        let leads = || order.iter().any(|cluster| self.plane.tunnels.leads_to(cluster));
        let up = async {
            if leads() {
                // What looks open may just be closing: never a busy loop.
                tokio::time::sleep(breath).await;
            }
            while !leads() {
                if turns.changed().await.is_err() {
                    return false;
                }
            }
            true
        };
        tokio::select! {
            found = tokio::time::timeout_at(end, up) => Ok(found.unwrap_or(false) && Instant::now() < end),
            broken = client.broken() => Err(broken),
        }
    }
}

/// What came of a request before its splice.
enum Answer {
    Accepted { up_ended: bool },
    Refused(StatusCode, String),
    Broken(StreamError),
    ClientGone(Broken),
    Late,
    Closing,
}

impl Client<'_> {
    fn kept(&self) -> Kept<'_, TcpSource> {
        Kept { client: TcpSource::new(self.stream.clone()), release: &self.release }
    }

    fn flow(&self) -> prometheus_client::metrics::gauge::Gauge {
        let flow = Flow { direction: "outbound", peer: self.record.peer.clone() };
        self.plane.metrics.open.get_or_create(&flow).clone()
    }

    /// The own cluster as the candidate.
    async fn local(&mut self, table: &RouteTable) -> Attempt {
        let local = table.services.get(&self.what.service).and_then(|row| row.local.as_ref());
        let Some(local) = local else { return Attempt::Next("no-endpoint", Outcome::NoEndpoint) };
        let host = self.what.host.as_ref().map(|(host, _)| host);
        // Boxed, as below: what is over soon must not take room for the connection's whole life.
        let dialed = match Box::pin(self.plane.dialer.dial(local, self.what.port, host)).await {
            Ok(dialed) => dialed,
            Err(error) => {
                self.record.detail = error.to_string();
                return match error {
                    crate::dial::DialError::Timeout(_) => Attempt::Next("timeout", Outcome::Timeout),
                    crate::dial::DialError::Own(_) => Attempt::Next("limit", Outcome::Limit),
                    _ => Attempt::Next("refused", Outcome::NoEndpoint),
                };
            }
        };
        self.record.endpoint = Some(dialed.endpoint);
        self.release.release();
        let open = self.flow();
        open.inc();
        let service = Arc::new(dialed.stream);
        let (mut kept, mut client) = (self.kept(), TcpSink::new(self.stream.clone()));
        let (mut source, mut sink) = (TcpSource::new(service.clone()), TcpSink::new(service));
        let moved = self.record.moved.clone();
        let bounds = self.plane.bounds();
        let outcome =
            splice::splice((&mut kept, &mut client), (&mut source, &mut sink), &moved, &bounds).await;
        open.dec();
        drop(dialed.load);
        Attempt::Ended(outcome)
    }

    /// A peer as the candidate.
    async fn remote(&mut self, cluster: &ClusterId) -> Attempt {
        // A client that speaks first mostly does so at once: then one packet carries both.
        if let Ok(Err(broken)) = tokio::time::timeout(RIDE_ALONG, self.kept().prime()).await {
            return Attempt::Ended(splice::outcome(true, broken));
        }
        let (authority, first) = (self.what.authority(), self.release.take_first());
        let sent = first.len() as u64;
        let head = Open { authority, protocol: None, headers: HeaderMap::new(), via: None, first };
        let stream = match Box::pin(self.plane.tunnels.open(cluster, head)).await {
            Ok(stream) => stream,
            Err(error) => {
                self.record.detail = error.to_string();
                return match error.sent_nothing() || sent == 0 {
                    true => Attempt::Next("unreachable", Outcome::Unreachable),
                    false => Attempt::Ended(Outcome::PathLost),
                };
            }
        };
        self.record.moved.up.store(sent, Ordering::Relaxed);
        self.record.gateway = stream.gateway.to_string();
        self.record.transport = stream.transport.as_str();
        let (mut send, mut recv) = (stream.send, stream.recv);
        let moved = self.record.moved.clone();
        let attempt = self.exchange(cluster, &mut send, &mut recv, &moved).await;
        if !matches!(attempt, Attempt::Ended(Outcome::Done)) {
            Sink::reset(&mut send);
            Source::stop(&mut recv);
        }
        attempt
    }

    async fn exchange(
        &mut self,
        cluster: &ClusterId,
        send: &mut SendHalf,
        recv: &mut RecvHalf,
        moved: &Moved,
    ) -> Attempt {
        let answer = {
            let mut kept = self.kept();
            let mut up = pin!(pipe(&mut kept, send, &moved.up));
            match Box::pin(self.answer(up.as_mut(), recv)).await {
                Answer::Accepted { up_ended } => {
                    self.release.release();
                    self.plane.tracks.record(&self.what.path(cluster, Protocol::Tcp), Event::Succeeded);
                    let open = self.flow();
                    open.inc();
                    let mut sink = TcpSink::new(self.stream.clone());
                    let down = pin!(pipe(recv, &mut sink, &moved.down));
                    let outcome = both(up, up_ended, down, moved, &self.plane.bounds()).await;
                    open.dec();
                    return Attempt::Ended(outcome);
                }
                other => other,
            }
        };
        self.refused(cluster, answer)
    }

    /// Sends first bytes while it waits for the head of the answer.
    async fn answer<U>(&self, mut up: std::pin::Pin<&mut U>, recv: &mut RecvHalf) -> Answer
    where
        U: Future<Output = Result<(), (Half, Broken)>>,
    {
        let mut up_ended = false;
        let mut head = pin!(recv.response());
        let mut late = pin!(tokio::time::sleep(self.plane.limits.answer_timeout.get()));
        let closing = self.plane.drain.closing();
        loop {
            tokio::select! {
                biased;
                answered = &mut head => return match answered {
                    Ok(response) if response.status.is_success() => Answer::Accepted { up_ended },
                    Ok(response) => {
                        let why = response.proxy_status().unwrap_or_default().chars().take(300).collect();
                        Answer::Refused(response.status, why)
                    }
                    Err(error) => Answer::Broken(error),
                },
                end = &mut up, if !up_ended => {
                    up_ended = true;
                    if let Err((Half::Source, broken)) = end {
                        return Answer::ClientGone(broken);
                    }
                }
                () = &mut late => return Answer::Late,
                () = closing.cancelled() => return Answer::Closing,
            }
        }
    }

    /// The replay rule: what may be tried again, and what counts against the candidate.
    fn refused(&mut self, cluster: &ClusterId, answer: Answer) -> Attempt {
        let path = self.what.path(cluster, Protocol::Tcp);
        let tracks = &self.plane.tracks;
        match answer {
            Answer::Accepted { .. } => Attempt::Ended(Outcome::Done),
            Answer::Closing => Attempt::Ended(Outcome::DrainDeadline),
            Answer::ClientGone(broken) => Attempt::Ended(splice::outcome(true, broken)),
            Answer::Refused(status, why) => {
                self.record.detail = format!("{} {why}", status.as_u16());
                match status.as_u16() {
                    403 => Attempt::Next("denied", Outcome::Denied),
                    404 => Attempt::Next("not-exported", Outcome::NoSuchService),
                    504 => {
                        tracks.record(&path, Event::Failed);
                        Attempt::Next("timeout", Outcome::Timeout)
                    }
                    503 => {
                        tracks.record(&path, Event::Failed);
                        Attempt::Next("refused", Outcome::NoEndpoint)
                    }
                    _ => Attempt::Next("refused", Outcome::BadRequest),
                }
            }
            Answer::Broken(error) => {
                self.record.detail = error.to_string();
                // Rejected unprocessed, it may be taken by another tunnel of the same peer.
                let outcome = match error.sent_nothing() {
                    true => Outcome::Unreachable,
                    false => splice::outcome(false, error.clone().into()),
                };
                match error.sent_nothing() || !self.release.gave() {
                    true => Attempt::Next("lost", outcome),
                    false => Attempt::Ended(outcome),
                }
            }
            Answer::Late => {
                "no answer in time".clone_into(&mut self.record.detail);
                tracks.record(&path, Event::Failed);
                match self.release.gave() {
                    true => Attempt::Ended(Outcome::Timeout),
                    false => Attempt::Next("timeout", Outcome::Timeout),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, C, D, F>(_: fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connections_task_is_small() {
        let bytes = size(serve);
        assert!(bytes <= 3 << 10, "{bytes}");
    }
}
