//! One connection of a follower: hello, then changes in, acknowledgements out.
//!
//! Called by the loop in [`super`] only.

use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::{Applied, Config, Driver, FollowEvent, LinkError, Question};
use crate::convert::{report, short};
use crate::feed::assemble::Taken;
use crate::feed::handle::Ends;
use crate::feed::{OLDEST_PROTOCOL, PROTOCOL, Position};
use crate::wire::feed::v1::feed_client::FeedClient;
use crate::wire::feed::v1::{self as pb, follower_message, publisher_message};

/// Largest message taken: one chunk of rows, or one row, with room to spare.
const MAX_MESSAGE: usize = 4 << 20;
/// Messages to the publisher that may wait for the connection.
const OUT: usize = 8;

/// How a session ended.
pub(super) enum End {
    /// The owner has gone.
    Dropped,
    /// The link was lost.
    Lost(LinkError),
}

impl From<LinkError> for End {
    fn from(error: LinkError) -> Self {
        Self::Lost(error)
    }
}

pub(super) struct Session<'a> {
    config: &'a Config,
    driver: &'a mut Driver,
    out: mpsc::Sender<pb::FollowerMessage>,
    inbound: Streaming<pb::PublisherMessage>,
    beat: Interval,
    heard: Instant,
    want_snapshot: bool,
}

enum Woken {
    Message(Result<Option<pb::PublisherMessage>, Status>),
    News,
    Dropped,
    Beat,
    Reply(pb::Reply),
    Silent,
}

fn lost(status: &Status) -> LinkError {
    let text = short(status.message());
    match status.code() {
        Code::FailedPrecondition | Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument => {
            LinkError::Refused(text)
        }
        _ => LinkError::Closed(format!("{}: {text}", status.code())),
    }
}

impl<'a> Session<'a> {
    /// Says hello and waits for the welcome.
    pub(super) async fn open(
        config: &'a Config,
        channel: Channel,
        driver: &'a mut Driver,
    ) -> Result<Self, LinkError> {
        let late = |_| LinkError::ConnectTimeout(config.timing.connect);
        let (out, messages) = mpsc::channel(OUT);
        let hello = hello(config, driver);
        let hello = pb::FollowerMessage { body: Some(follower_message::Body::Hello(hello)) };
        out.try_send(hello).map_err(|_| LinkError::Closed("no room for the hello".into()))?;
        let mut client = FeedClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        let call = timeout(config.timing.connect, client.follow(ReceiverStream::new(messages)));
        let mut inbound = call.await.map_err(late)?.map_err(|status| lost(&status))?.into_inner();
        let first = timeout(config.timing.connect, inbound.message()).await.map_err(late)?;
        let first = first.map_err(|status| lost(&status))?;
        let Some(publisher_message::Body::Welcome(welcome)) = first.and_then(|first| first.body) else {
            return Err(LinkError::Protocol("the first message is no welcome".into()));
        };
        if !(OLDEST_PROTOCOL..=PROTOCOL).contains(&welcome.protocol) {
            let theirs = welcome.protocol;
            let code = hansa_core::code::control::FEED_FROM_THE_FUTURE;
            return Err(LinkError::Refused(format!("{code} feed protocol {theirs} is not spoken here")));
        }
        let heard = Instant::now();
        driver.ends.status.send_modify(|status| {
            status.connected = true;
            status.error = None;
            status.heard = Some(heard);
        });
        let software = short(&welcome.software);
        let connected = FollowEvent::Connected { protocol: welcome.protocol, software };
        // A receiver that is gone ends the session at its next step.
        let _ = driver.events.send(connected).await;
        let mut beat = interval(config.timing.beat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { config, driver, out, inbound, beat, heard, want_snapshot: false })
    }

    /// Follows until the link is lost.
    pub(super) async fn run(mut self) -> End {
        loop {
            let step = match self.wait().await {
                Woken::Message(Ok(Some(message))) => self.take(message).await,
                Woken::Message(Ok(None)) => Err(LinkError::Closed("by the publisher".into()).into()),
                Woken::Message(Err(status)) => Err(lost(&status).into()),
                Woken::News | Woken::Beat => self.acknowledge().await,
                Woken::Reply(reply) => self.send(follower_message::Body::Reply(reply)).await,
                Woken::Dropped => Err(End::Dropped),
                Woken::Silent => Err(LinkError::Silent(self.config.timing.silence).into()),
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    async fn wait(&mut self) -> Woken {
        let Ends { mine, replies, .. } = &mut self.driver.ends;
        tokio::select! {
            biased;
            message = self.inbound.message() => Woken::Message(message),
            news = mine.changed() => if news.is_ok() { Woken::News } else { Woken::Dropped },
            () = self.driver.events.closed() => Woken::Dropped,
            Some(reply) = replies.recv() => Woken::Reply(reply),
            _ = self.beat.tick() => Woken::Beat,
            () = sleep_until(self.heard + self.config.timing.silence) => Woken::Silent,
        }
    }

    async fn send(&mut self, body: follower_message::Body) -> Result<(), End> {
        let message = pb::FollowerMessage { body: Some(body) };
        let sent = timeout(self.config.timing.silence, self.out.send(message)).await;
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(LinkError::Closed("by the publisher".into()).into()),
            Err(_) => Err(LinkError::Silent(self.config.timing.silence).into()),
        }
    }

    async fn acknowledge(&mut self) -> Result<(), End> {
        let ack = self.driver.ends.mine.borrow_and_update().ack(self.want_snapshot);
        self.want_snapshot = false;
        self.send(follower_message::Body::Ack(ack)).await
    }

    async fn take(&mut self, message: pb::PublisherMessage) -> Result<(), End> {
        self.heard = Instant::now();
        match message.body {
            Some(publisher_message::Body::Delta(delta)) => {
                match self.driver.copy.take(delta, &self.config.limits)? {
                    Taken::Partly => Ok(()),
                    Taken::Misfit => self.ask_for_everything().await,
                    Taken::Whole(applied) => self.changed(applied).await,
                }
            }
            Some(publisher_message::Body::Heartbeat(beat)) => self.heartbeat(beat).await,
            Some(publisher_message::Body::Question(question)) => {
                let pb::Question { id, kind, json } = question;
                self.tell(FollowEvent::Question(Question { id, kind, json })).await
            }
            // A kind of message from a newer publisher, or a repeated welcome.
            Some(publisher_message::Body::Welcome(_)) | None => Ok(()),
        }
    }

    async fn tell(&mut self, event: FollowEvent) -> Result<(), End> {
        self.driver.events.send(event).await.map_err(|_| End::Dropped)
    }

    async fn ask_for_everything(&mut self) -> Result<(), End> {
        self.driver.copy.interrupt();
        self.want_snapshot = true;
        self.acknowledge().await
    }

    async fn changed(&mut self, applied: Box<Applied>) -> Result<(), End> {
        let heard = self.heard;
        self.driver.ends.status.send_modify(|status| {
            status.heard = Some(heard);
            status.published = Some(applied.position);
        });
        self.tell(FollowEvent::Applied(applied)).await
    }

    async fn heartbeat(&mut self, beat: pb::Heartbeat) -> Result<(), End> {
        let position =
            beat.position.ok_or_else(|| LinkError::Protocol("a heartbeat without position".into()))?;
        let position =
            Position::try_from(position).map_err(|error| LinkError::Protocol(error.to_string()))?;
        let differs = self.driver.copy.differs(&position)?;
        let heard = self.heard;
        self.driver.ends.status.send_modify(|status| {
            status.heard = Some(heard);
            status.published = Some(position);
            if status.applied == Some(position) {
                status.current = Some(heard);
            }
        });
        // An owner that does not read misses beats, never changes.
        let _ = self.driver.events.try_send(FollowEvent::Heartbeat { position });
        if differs { self.ask_for_everything().await } else { Ok(()) }
    }
}

fn hello(config: &Config, driver: &Driver) -> pb::Hello {
    let mine = driver.ends.mine.borrow();
    pb::Hello {
        protocol: PROTOCOL,
        oldest_protocol: OLDEST_PROTOCOL,
        capabilities: config.capabilities.clone(),
        follower: config.follower.clone(),
        kind: config.kind.as_str().to_owned(),
        held: driver.copy.position().map(Into::into),
        software: concat!("hansa/", env!("CARGO_PKG_VERSION")).to_owned(),
        node: mine.node.as_ref().map(report::node_to),
    }
}
