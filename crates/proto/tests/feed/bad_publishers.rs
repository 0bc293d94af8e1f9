//! Publishers that break the rules, and versions that do not fit: the follower keeps what it holds.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use hansa_core::code::control as code;
use hansa_proto::feed::{self, Config, FollowEvent, Kind, LinkError, Position};
use hansa_proto::transport::{self, Known};
use hansa_proto::wire::feed::v1::feed_server::{Feed, FeedServer};
use hansa_proto::wire::feed::v1::{self as pb, publisher_message::Body};
use tokio::io::duplex;
use tonic::{Request, Response, Status, Streaming};

use crate::harness::{Consumer, timing};

/// Sends what it was given, then stays silent.
#[derive(Clone)]
struct Script(Vec<Body>);

#[tonic::async_trait]
impl Feed for Script {
    type FollowStream = Pin<Box<dyn Stream<Item = Result<pb::PublisherMessage, Status>> + Send>>;

    async fn follow(
        &self,
        request: Request<Streaming<pb::FollowerMessage>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let inbound = request.into_inner();
        let script = self.0.clone().into_iter().map(|body| Ok(pb::PublisherMessage { body: Some(body) }));
        // Read what comes, answer nothing.
        let silent = inbound.filter_map(|_| std::future::ready(None));
        Ok(Response::new(Box::pin(stream::iter(script).chain(silent))))
    }
}

fn welcome() -> Body {
    Body::Welcome(pb::Welcome { protocol: 1, ..pb::Welcome::default() })
}

fn to(epoch: u64, version: u64, digest: u128) -> Option<pb::Position> {
    Some(Position { epoch, version, digest }.into())
}

/// Patient: what a script says comes before its silence counts.
fn follow(script: Vec<Body>) -> Consumer {
    follow_for(script, Duration::from_secs(20))
}

fn follow_for(script: Vec<Body>, silence: Duration) -> Consumer {
    let connect = move || {
        let service = Script(script.clone());
        async move {
            let (here, there) = duplex(64 * 1024);
            tokio::spawn(async move {
                let one = stream::iter([Ok::<_, std::io::Error>(Known::new(there, ()))]);
                let one = one.chain(stream::pending());
                let _ =
                    transport::server().add_service(FeedServer::new(service)).serve_with_incoming(one).await;
            });
            Ok::<_, &str>(here)
        }
    };
    let mut config = Config { timing: timing(), ..Config::new("east", Kind::Catalog) };
    config.timing.silence = silence;
    let (handle, events, link) = feed::follow(config, connect, None);
    tokio::spawn(link);
    Consumer::new(handle, events)
}

#[tokio::test]
async fn a_snapshot_with_a_false_digest_is_not_taken() {
    let rows = vec![pb::Row { key: "a".into(), body: Bytes::from_static(b"1") }];
    let delta = pb::Delta { to: to(1, 1, 42), rows, last: true, ..pb::Delta::default() };
    let mut follower = follow(vec![welcome(), Body::Delta(delta)]);
    let lost = follower.lost().await;
    assert!(matches!(lost, LinkError::Digest { .. }));
    assert_eq!(lost.code(), Some(code::FEED_DIGEST));
    assert_eq!(follower.handle.status().borrow().applied, None);
}

#[tokio::test]
async fn a_publisher_that_falls_silent_is_left() {
    let silence = Duration::from_millis(400);
    let mut follower = follow_for(vec![welcome()], silence);
    assert_eq!(follower.lost().await, LinkError::Silent(silence));
    // And tried again.
    follower.event(|e| matches!(e, FollowEvent::Connected { .. })).await;
}

#[tokio::test]
async fn a_publisher_that_goes_back_is_left() {
    let empty =
        |version| Body::Delta(pb::Delta { to: to(3, version, 0), last: true, ..pb::Delta::default() });
    let mut follower = follow(vec![welcome(), empty(8), empty(7)]);
    let lost = follower.lost().await;
    assert!(matches!(lost, LinkError::Behind { .. }));
    assert_eq!(lost.code(), Some(code::FEED_FROM_THE_FUTURE));
    let beat = Body::Heartbeat(pb::Heartbeat { position: to(2, 99, 0) });
    let mut follower = follow(vec![welcome(), empty(8), beat]);
    assert!(matches!(follower.lost().await, LinkError::Behind { .. }));
}

#[tokio::test]
async fn parts_out_of_order_and_nonsense_end_the_link() {
    let part = |part, last| Body::Delta(pb::Delta { to: to(1, 1, 0), part, last, ..pb::Delta::default() });
    let nowhere = Body::Delta(pb::Delta { last: true, ..pb::Delta::default() });
    let short = pb::Position { epoch: 1, version: 1, digest: Bytes::from_static(b"x") };
    let beat = Body::Heartbeat(pb::Heartbeat { position: Some(short) });
    for script in [vec![part(0, false), part(2, true)], vec![nowhere], vec![beat]] {
        let mut follower = follow([vec![welcome()], script].concat());
        assert!(matches!(follower.lost().await, LinkError::Protocol(_)));
    }
}

#[tokio::test]
async fn versions_that_do_not_meet_are_said() {
    let far = Body::Welcome(pb::Welcome { protocol: 9, ..pb::Welcome::default() });
    let lost = follow(vec![far]).lost().await;
    assert!(matches!(lost, LinkError::Refused(_)));
    assert_eq!(lost.code(), Some(code::FEED_FROM_THE_FUTURE));
    let hello = |protocol, oldest_protocol| {
        let hello = pb::Hello { protocol, oldest_protocol, kind: "zone".into(), ..pb::Hello::default() };
        pb::FollowerMessage { body: Some(pb::follower_message::Body::Hello(hello)) }
    };
    let greet = async |message| feed::hello(&mut stream::iter([Ok(message)]), &timing()).await;
    assert_eq!(greet(hello(3, 1)).await.unwrap().protocol, 1, "the newest both speak");
    let refused = greet(hello(9, 7)).await.unwrap_err();
    assert!(refused.message().starts_with("HNS-4006 no common feed protocol"), "{refused}");
    assert!(greet(pb::FollowerMessage { body: None }).await.is_err());
}
