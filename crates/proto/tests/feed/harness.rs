//! A publisher behind gRPC on in-memory streams, and followers that connect to it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hansa_core::policy::Refusal;
use hansa_proto::convert::Rows;
use hansa_proto::feed::follow::Applied;
use hansa_proto::feed::{
    self, Ack, Config, Event, EventBody, FollowEvent, Follower, Handle, Kind, LinkError, Position, Publisher,
    Question, Saved, Timing,
};
use hansa_proto::transport::{self, Known};
use hansa_proto::wire::feed::v1::FollowerMessage;
use hansa_proto::wire::feed::v1::feed_server::{Feed, FeedServer};
use tokio::io::{DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming};

const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn rows<'a>(texts: impl IntoIterator<Item = &'a str>) -> Rows {
    let row = |text: &str| {
        let (key, body) = text.split_once('=').unwrap();
        (key.to_owned(), Bytes::copy_from_slice(body.as_bytes()))
    };
    texts.into_iter().map(row).collect()
}

pub(crate) fn timing() -> Timing {
    Timing { beat: Duration::from_millis(50), ..Timing::default() }
}

struct Service {
    publisher: Publisher,
    events: mpsc::Sender<Event>,
}

#[tonic::async_trait]
impl Feed for Service {
    type FollowStream = feed::serve::Outbound;

    async fn follow(
        &self,
        request: Request<Streaming<FollowerMessage>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let mut inbound = request.into_inner();
        let hello = feed::hello(&mut inbound, &timing()).await?;
        let stream = feed::serve(&self.publisher, hello, inbound, &self.events, timing()).await?;
        Ok(Response::new(stream))
    }
}

type Incoming = mpsc::Sender<Result<Known<DuplexStream, ()>, std::io::Error>>;

pub(crate) struct Wire {
    pub(crate) config: Config,
    tasks: JoinSet<()>,
    events: mpsc::Receiver<Event>,
    service: Arc<Service>,
    server: Arc<Mutex<(Incoming, AbortHandle)>>,
}

fn serve(service: Arc<Service>, tasks: &mut JoinSet<()>) -> (Incoming, AbortHandle) {
    let (incoming, streams) = mpsc::channel(8);
    let abort = tasks.spawn(async move {
        let streams = tokio_stream::wrappers::ReceiverStream::new(streams);
        let server = transport::server().add_service(FeedServer::from_arc(service));
        server.serve_with_incoming(streams).await.unwrap();
    });
    (incoming, abort)
}

impl Wire {
    pub(crate) fn start(publisher: &Publisher) -> Self {
        let (sender, events) = mpsc::channel(1024);
        let service = Arc::new(Service { publisher: publisher.clone(), events: sender });
        let mut tasks = JoinSet::new();
        let server = Arc::new(Mutex::new(serve(service.clone(), &mut tasks)));
        let config = Config { timing: timing(), ..Config::new("east", Kind::Catalog) };
        Self { config, tasks, events, service, server }
    }

    /// Ends all connections; the next ones find a new server.
    pub(crate) fn cut(&mut self) {
        let next = serve(self.service.clone(), &mut self.tasks);
        let old = std::mem::replace(&mut *self.server.lock().unwrap(), next);
        old.1.abort();
        STREAMS.with(|all| all.borrow_mut().drain(..).for_each(|stream| stream.abort()));
    }

    pub(crate) fn follow(&mut self, resume: Option<&Saved>) -> Consumer {
        let server = self.server.clone();
        let connect = move || {
            let incoming = server.lock().unwrap().0.clone();
            async move {
                // A relay in between, which `cut` can end.
                let (here, near) = duplex(64 * 1024);
                let (mut far, there) = duplex(64 * 1024);
                let mut near = near;
                let relay = tokio::spawn(async move {
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
                STREAMS.with(|all| all.borrow_mut().push(relay.abort_handle()));
                incoming.send(Ok(Known::new(there, ()))).await.map_err(|_| "no server")?;
                Ok::<_, &str>(here)
            }
        };
        let (handle, events, link) = feed::follow(self.config.clone(), connect, resume);
        self.tasks.spawn(link);
        Consumer { handle, events, refuse: None }
    }

    pub(crate) async fn event(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        timeout(LIMIT, async {
            loop {
                let event = self.events.recv().await.unwrap();
                if wanted(&event) {
                    return event;
                }
            }
        })
        .await
        .unwrap()
    }

    pub(crate) async fn ack(&mut self, wanted: impl Fn(&Ack) -> bool) -> Ack {
        let event = self.event(|e| matches!(&e.body, EventBody::Ack(ack) if wanted(ack))).await;
        let EventBody::Ack(ack) = event.body else { unreachable!() };
        *ack
    }

    pub(crate) async fn acked(&mut self, position: Position) {
        self.ack(|ack| ack.applied == Some(position)).await;
    }

    /// The version held according to the next hello that holds anything.
    pub(crate) async fn hello(&mut self) -> Option<u64> {
        let held = |e: &Event| matches!(&e.body, EventBody::Hello(hello, _) if hello.held.is_some());
        let EventBody::Hello(hello, _) = self.event(held).await.body else { unreachable!() };
        hello.held.map(|held| held.version)
    }

    pub(crate) async fn follower(&mut self) -> Follower {
        let event = self.event(|e| matches!(e.body, EventBody::Hello(..))).await;
        let EventBody::Hello(_, follower) = event.body else { unreachable!() };
        follower
    }
}

thread_local! {
    /// Relays of this test (a test runs on one thread).
    static STREAMS: std::cell::RefCell<Vec<AbortHandle>> = const { std::cell::RefCell::new(Vec::new()) };
}

pub(crate) struct Consumer {
    pub(crate) handle: Handle,
    events: mpsc::Receiver<FollowEvent>,
    /// Refuse this key.
    pub(crate) refuse: Option<&'static str>,
}

impl Consumer {
    pub(crate) fn new(handle: Handle, events: mpsc::Receiver<FollowEvent>) -> Self {
        Self { handle, events, refuse: None }
    }

    pub(crate) async fn event(&mut self, wanted: impl Fn(&FollowEvent) -> bool) -> FollowEvent {
        timeout(LIMIT, async {
            loop {
                let event = self.events.recv().await.unwrap();
                if wanted(&event) {
                    return event;
                }
            }
        })
        .await
        .unwrap()
    }

    pub(crate) async fn change(&mut self) -> Applied {
        let event = self.event(|e| matches!(e, FollowEvent::Applied(_))).await;
        let FollowEvent::Applied(change) = event else { unreachable!() };
        *change
    }

    pub(crate) async fn applied(&mut self) -> Applied {
        let change = self.change().await;
        let refused = change.changed.iter().filter(|row| Some(row.0.as_str()) == self.refuse);
        let refused = refused.map(|row| Refusal { key: row.0.clone(), reason: "not good".into() }).collect();
        self.handle.applied(&change, refused);
        change
    }

    pub(crate) async fn lost(&mut self) -> LinkError {
        let FollowEvent::Lost { error, .. } = self.event(|e| matches!(e, FollowEvent::Lost { .. })).await
        else {
            unreachable!()
        };
        error
    }

    pub(crate) async fn question(&mut self) -> Question {
        let event = self.event(|e| matches!(e, FollowEvent::Question(_))).await;
        let FollowEvent::Question(question) = event else { unreachable!() };
        question
    }
}
