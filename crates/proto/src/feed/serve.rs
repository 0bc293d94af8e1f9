//! One follower's session, seen from the publisher.
//!
//! Called by the controller's gRPC handler: [`hello`] reads the first message, [`serve`] turns the
//! rest into the stream that is sent back. Never has more than one change on the way.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use hansa_core::policy::Refusal;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tonic::Status;

use self::session::Session;
use super::{Kind, OLDEST_PROTOCOL, PROTOCOL, Position, Publisher, Timing};
use crate::convert::report::{self, GatewayReport, NodeInfo, ServiceConflict};
use crate::wire::feed::v1 as pb;

mod session;

/// Longest id and software name taken from a follower.
const MAX_NAME: usize = 253;
/// Questions waiting for one follower.
const MAX_QUESTIONS: usize = 16;

/// The first message of a follower, checked.
#[derive(Debug, Clone)]
pub struct Hello {
    /// Node id, or cluster id of a peer. The caller compares it with the certificate.
    pub follower: String,
    /// Which rows it wants.
    pub kind: Kind,
    /// What it holds already.
    pub held: Option<Position>,
    /// The protocol both speak.
    pub protocol: u32,
    /// What else it can do.
    pub capabilities: Vec<String>,
    /// Name and version of its software.
    pub software: String,
    /// About itself: gateways and DNS servers.
    pub node: Option<NodeInfo>,
}

/// An acknowledgement, checked.
#[derive(Debug, Clone, Default)]
pub struct Ack {
    /// What is in use there.
    pub applied: Option<Position>,
    /// All rows it refuses now.
    pub refusals: Vec<Refusal>,
    /// What a gateway sees; `None` also where the report breaks a rule.
    pub report: Option<GatewayReport>,
    /// Conflicts it found in our exports.
    pub conflicts: Vec<ServiceConflict>,
    /// About itself.
    pub node: Option<NodeInfo>,
}

/// What happened in a session.
#[derive(Debug, Clone)]
pub struct Event {
    /// The session; a follower that reconnects has a new one.
    pub session: u64,
    /// The follower's id.
    pub follower: Arc<str>,
    /// What.
    pub body: EventBody,
}

/// See [`Event`].
#[derive(Debug, Clone)]
pub enum EventBody {
    /// It came. Keep the handle to ask it questions.
    Hello(Box<Hello>, Follower),
    /// It acknowledged.
    Ack(Box<Ack>),
    /// The session ended. Always the last event, never lost.
    Gone,
}

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The session ended.
    #[error("the follower is gone")]
    Gone,
    /// Too many questions wait already.
    #[error("too many questions wait")]
    Busy,
    /// No answer in time.
    #[error("no answer in time")]
    Late,
    /// It could not answer.
    #[error("{0}")]
    Refused(String),
}

pub(super) struct Ask {
    kind: String,
    json: Bytes,
    answer: oneshot::Sender<Result<Bytes, AskError>>,
}

/// A connected follower that can be asked.
#[derive(Debug, Clone)]
pub struct Follower {
    asks: mpsc::Sender<Ask>,
}

impl std::fmt::Debug for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ask").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Follower {
    /// Asks and waits for the answer, at most `limit`. Kinds: `explain`, `check`, `snapshot`.
    pub async fn ask(&self, kind: &str, json: Bytes, limit: Duration) -> Result<Bytes, AskError> {
        let (answer, wait) = oneshot::channel();
        let ask = Ask { kind: kind.to_owned(), json, answer };
        self.asks.try_send(ask).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => AskError::Busy,
            mpsc::error::TrySendError::Closed(_) => AskError::Gone,
        })?;
        match timeout(limit, wait).await {
            Err(_) => Err(AskError::Late),
            Ok(Err(_)) => Err(AskError::Gone),
            Ok(Ok(answer)) => answer,
        }
    }

    /// True once the session ended.
    pub fn is_gone(&self) -> bool {
        self.asks.is_closed()
    }
}

/// Reads and checks the first message; the caller then chooses the publisher.
pub async fn hello<S>(inbound: &mut S, timing: &Timing) -> Result<Hello, Status>
where
    S: Stream<Item = Result<pb::FollowerMessage, Status>> + Unpin,
{
    let first = timeout(timing.connect, inbound.next()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no hello in time"))?;
    let first = first.ok_or_else(|| Status::cancelled("closed before the hello"))??;
    let Some(pb::follower_message::Body::Hello(wire)) = first.body else {
        return Err(Status::failed_precondition("the first message must be a hello"));
    };
    let protocol = wire.protocol.min(PROTOCOL);
    if protocol < wire.oldest_protocol || protocol < OLDEST_PROTOCOL {
        let (theirs, old) = (wire.protocol, wire.oldest_protocol);
        return Err(Status::failed_precondition(format!(
            "{} no common feed protocol: the follower speaks {old} to {theirs}, this side {OLDEST_PROTOCOL} to {PROTOCOL}",
            hansa_core::code::control::FEED_FROM_THE_FUTURE
        )));
    }
    let Some(kind) = Kind::from_wire(&wire.kind) else {
        return Err(Status::invalid_argument("the kind of rows is not known"));
    };
    if wire.follower.len() > MAX_NAME || wire.software.len() > MAX_NAME || wire.capabilities.len() > 64 {
        return Err(Status::invalid_argument("the hello is too long"));
    }
    let bad = |error| Status::invalid_argument(format!("hello: {error}"));
    Ok(Hello {
        follower: wire.follower,
        kind,
        held: wire.held.map(Position::try_from).transpose().map_err(bad)?,
        protocol,
        capabilities: wire.capabilities,
        software: wire.software,
        node: wire.node.map(report::node).transpose().map_err(bad)?,
    })
}

/// The messages for one follower.
pub type Outbound = Pin<Box<dyn Stream<Item = Result<pb::PublisherMessage, Status>> + Send>>;

/// Serves one follower until either side ends it. Events arrive in order: hello, then
/// acknowledgements, then gone.
///
/// Errors: the event channel is closed, or has no room within the connect deadline. Each session
/// keeps one place of it for its last event, so it must be larger than the number of followers.
pub async fn serve<S>(
    publisher: &Publisher,
    hello: Hello,
    inbound: S,
    events: &mpsc::Sender<Event>,
    timing: Timing,
) -> Result<Outbound, Status>
where
    S: Stream<Item = Result<pb::FollowerMessage, Status>> + Send + Unpin + 'static,
{
    let busy = |_| Status::resource_exhausted("too many followers");
    let gone = timeout(timing.connect, events.clone().reserve_owned()).await.map_err(busy)?;
    let gone = gone.map_err(|_| Status::unavailable("shutting down"))?;
    let (asks, questions) = mpsc::channel(MAX_QUESTIONS);
    let last = session::LastWords {
        gone: Some(gone),
        session: publisher.session(),
        follower: hello.follower.as_str().into(),
    };
    let first = Event {
        session: last.session,
        follower: last.follower.clone(),
        body: EventBody::Hello(Box::new(hello.clone()), Follower { asks }),
    };
    let told = timeout(timing.connect, events.send(first)).await;
    told.map_err(|_| Status::resource_exhausted("too many events"))?
        .map_err(|_| Status::unavailable("shutting down"))?;
    let session =
        Session::new(publisher.clone(), &hello, (inbound, questions), (events.clone(), last), timing);
    let messages = stream::unfold(session, |mut session| async move {
        let message = session.next().await?;
        Some((message, session))
    });
    Ok(Box::pin(messages))
}
