//! The state of one served follower: what it holds, what is on its way, what it was asked.
//!
//! Called by the stream in [`super`] only.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::vec;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};
use tonic::Status;

use super::{Ack, Ask, AskError, Event, EventBody, Hello, MAX_QUESTIONS};
use crate::convert::report;
use crate::feed::publish::Lack;
use crate::feed::{CHUNK_BYTES, CHUNK_ROWS, Position, Publisher, Timing};
use crate::wire::feed::v1 as pb;

/// Tells that the session ended, however it ended.
pub(super) struct LastWords {
    pub(super) gone: Option<mpsc::OwnedPermit<Event>>,
    pub(super) session: u64,
    pub(super) follower: Arc<str>,
}

impl Drop for LastWords {
    fn drop(&mut self) {
        if let Some(permit) = self.gone.take() {
            let follower = self.follower.clone();
            permit.send(Event { session: self.session, follower, body: EventBody::Gone });
        }
    }
}

/// A change on its way.
struct Sending {
    from: Option<Position>,
    to: Position,
    rows: vec::IntoIter<(String, Bytes)>,
    removed: vec::IntoIter<String>,
    part: u32,
}

impl Sending {
    fn new(lack: Lack) -> Self {
        let Lack { from, to, changed, removed } = lack;
        Self { from, to, rows: changed.into_iter(), removed: removed.into_iter(), part: 0 }
    }

    /// The next part, and whether it is the last.
    fn part(&mut self) -> pb::Delta {
        let (mut rows, mut removed, mut bytes) = (Vec::new(), Vec::new(), 0);
        while rows.len() + removed.len() < CHUNK_ROWS && bytes < CHUNK_BYTES {
            let next = self.rows.as_slice().first().map(|(key, body)| key.len() + body.len());
            if let Some(size) = next {
                if bytes > 0 && bytes + size > CHUNK_BYTES {
                    break;
                }
                bytes += size;
                rows.extend(self.rows.next().map(|(key, body)| pb::Row { key, body }));
            } else if let Some(key) = self.removed.next() {
                bytes += key.len();
                removed.push(key);
            } else {
                break;
            }
        }
        let last = self.rows.len() == 0 && self.removed.len() == 0;
        let part = self.part;
        self.part += 1;
        pb::Delta { from: self.from.map(Into::into), to: Some(self.to.into()), rows, removed, part, last }
    }
}

type Answers = BTreeMap<u64, oneshot::Sender<Result<Bytes, AskError>>>;

pub(super) struct Session<S> {
    publisher: Publisher,
    position: watch::Receiver<Position>,
    inbound: S,
    questions: mpsc::Receiver<Ask>,
    answers: Answers,
    next_question: u64,
    events: mpsc::Sender<Event>,
    last: LastWords,
    timing: Timing,
    beat: Interval,
    heard: Instant,
    welcome: Option<pb::Welcome>,
    held: Option<Position>,
    sending: Option<Sending>,
    /// Sent whole, not yet acknowledged, since when.
    on_the_way: Option<(Position, Instant)>,
    /// The follower asked for everything.
    snapshot: bool,
    snapshot_sent: Option<Instant>,
    done: bool,
}

enum Woken {
    Message(Option<Result<pb::FollowerMessage, Status>>),
    Moved(bool),
    Beat,
    Asked(Ask),
    Silent,
}

fn message(body: pb::publisher_message::Body) -> pb::PublisherMessage {
    pb::PublisherMessage { body: Some(body) }
}

impl<S> Session<S>
where
    S: Stream<Item = Result<pb::FollowerMessage, Status>> + Send + Unpin + 'static,
{
    pub(super) fn new(
        publisher: Publisher,
        hello: &Hello,
        (inbound, questions): (S, mpsc::Receiver<Ask>),
        (events, last): (mpsc::Sender<Event>, LastWords),
        timing: Timing,
    ) -> Self {
        let mut position = publisher.watch();
        let epoch = position.borrow_and_update().epoch;
        let mut beat = interval(timing.beat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let software = concat!("hansa/", env!("CARGO_PKG_VERSION")).to_owned();
        Self {
            welcome: Some(pb::Welcome {
                protocol: hello.protocol,
                capabilities: Vec::new(),
                epoch,
                software,
            }),
            held: hello.held,
            position,
            publisher,
            inbound,
            questions,
            answers: BTreeMap::new(),
            next_question: 1,
            events,
            last,
            timing,
            beat,
            heard: Instant::now(),
            sending: None,
            on_the_way: None,
            snapshot: false,
            snapshot_sent: None,
            done: false,
        }
    }

    /// The next message for the follower; `None` after the end.
    pub(super) async fn next(&mut self) -> Option<Result<pb::PublisherMessage, Status>> {
        if self.done {
            return None;
        }
        let next = self.step().await.transpose();
        self.done = !matches!(next, Some(Ok(_)));
        next
    }

    async fn step(&mut self) -> Result<Option<pb::PublisherMessage>, Status> {
        loop {
            if let Some(welcome) = self.welcome.take() {
                return Ok(Some(message(pb::publisher_message::Body::Welcome(welcome))));
            }
            self.begin()?;
            if let Some(sending) = &mut self.sending {
                let part = sending.part();
                if part.last {
                    self.on_the_way = Some((sending.to, Instant::now()));
                    self.sending = None;
                }
                return Ok(Some(message(pb::publisher_message::Body::Delta(part))));
            }
            match self.wait().await {
                Woken::Message(Some(message)) => self.take(message?).await?,
                Woken::Message(None) => return Ok(None),
                Woken::Moved(true) => {}
                Woken::Moved(false) => return Err(Status::unavailable("shutting down")),
                Woken::Beat => {
                    let position = Some(self.publisher.position().into());
                    let beat = pb::Heartbeat { position };
                    return Ok(Some(message(pb::publisher_message::Body::Heartbeat(beat))));
                }
                Woken::Asked(ask) => {
                    if let Some(question) = self.ask(ask) {
                        return Ok(Some(message(pb::publisher_message::Body::Question(question))));
                    }
                }
                Woken::Silent => return Err(Status::deadline_exceeded("the follower is silent")),
            }
        }
    }

    async fn wait(&mut self) -> Woken {
        tokio::select! {
            // What was said counts before what was not: reading comes first.
            biased;
            message = self.inbound.next() => Woken::Message(message),
            moved = self.position.changed() => Woken::Moved(moved.is_ok()),
            _ = self.beat.tick() => Woken::Beat,
            Some(ask) = self.questions.recv() => Woken::Asked(ask),
            () = sleep_until(self.heard + self.timing.silence) => Woken::Silent,
        }
    }

    /// Begins to send what the follower lacks, if nothing is on its way.
    fn begin(&mut self) -> Result<(), Status> {
        if let Some((_, since)) = self.on_the_way
            && since.elapsed() > self.timing.settle
        {
            return Err(Status::deadline_exceeded("a change was not acknowledged"));
        }
        if self.sending.is_some() || self.on_the_way.is_some() {
            return Ok(());
        }
        let held = if self.snapshot { None } else { self.held };
        let lack = self.publisher.lack(held);
        let Some(lack) = lack.map_err(|_| Status::out_of_range("the follower is ahead of this publisher"))?
        else {
            return Ok(());
        };
        if lack.from.is_none() {
            // The first snapshot goes at once; one that keeps asking waits a beat.
            if self.snapshot_sent.is_some_and(|sent| sent.elapsed() < self.timing.beat) {
                return Ok(());
            }
            self.snapshot_sent = Some(Instant::now());
            self.snapshot = false;
        }
        self.sending = Some(Sending::new(lack));
        Ok(())
    }

    async fn take(&mut self, message: pb::FollowerMessage) -> Result<(), Status> {
        self.heard = Instant::now();
        match message.body {
            Some(pb::follower_message::Body::Ack(ack)) => self.acknowledged(ack).await,
            Some(pb::follower_message::Body::Reply(reply)) => {
                if let Some(answer) = self.answers.remove(&reply.id) {
                    let refused = !reply.error.is_empty();
                    let text = reply.error.chars().take(1_000).collect();
                    // Who asked may have stopped waiting.
                    let _ = answer.send(if refused { Err(AskError::Refused(text)) } else { Ok(reply.json) });
                }
                Ok(())
            }
            Some(pb::follower_message::Body::Hello(_)) => Err(Status::failed_precondition("a second hello")),
            None => Ok(()),
        }
    }

    async fn acknowledged(&mut self, wire: pb::Ack) -> Result<(), Status> {
        let applied = wire.applied.map(Position::try_from).transpose();
        let applied = applied.map_err(|error| Status::invalid_argument(format!("ack: {error}")))?;
        if self.on_the_way.is_some_and(|(to, _)| applied == Some(to)) {
            self.on_the_way = None;
        }
        self.held = applied;
        if wire.want_snapshot {
            self.snapshot = true;
            self.sending = None;
            self.on_the_way = None;
        }
        let ack = Ack {
            applied,
            refusals: report::refusals(wire.refusals),
            report: wire.report.and_then(|wire| report::report(wire).ok()),
            conflicts: report::conflicts(wire.conflicts),
            node: wire.node.and_then(|wire| report::node(wire).ok()),
        };
        let (session, follower) = (self.last.session, self.last.follower.clone());
        let event = Event { session, follower, body: EventBody::Ack(Box::new(ack)) };
        self.events.send(event).await.map_err(|_| Status::unavailable("shutting down"))
    }

    fn ask(&mut self, ask: Ask) -> Option<pb::Question> {
        self.answers.retain(|_, answer| !answer.is_closed());
        if self.answers.len() >= MAX_QUESTIONS {
            let _ = ask.answer.send(Err(AskError::Busy));
            return None;
        }
        let id = self.next_question;
        self.next_question += 1;
        self.answers.insert(id, ask.answer);
        Some(pb::Question { id, kind: ask.kind, json: ask.json })
    }
}
