//! The feed over real gRPC on in-memory streams: publisher on one side, follower on the other.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod bad_publishers;
mod harness;

use std::time::Duration;

use bytes::Bytes;
use hansa_core::policy::Refusal;
use hansa_proto::convert::report::GatewayReport;
use hansa_proto::feed::follow::Limits;
use hansa_proto::feed::{AskError, EventBody, FollowEvent, LinkError, Position, Publisher, Saved};

use harness::{Wire, rows};

#[tokio::test]
async fn snapshot_then_deltas() {
    let publisher = Publisher::new(1, 0);
    publisher.replace(rows(["a=1", "b=1"]));
    let mut wire = Wire::start(&publisher);
    let mut follower = wire.follow(None);
    let first = follower.applied().await;
    assert!(first.snapshot);
    assert_eq!(first.changed.len(), 2);
    publisher.replace(rows(["b=2", "c=1"]));
    let second = follower.applied().await;
    assert!(!second.snapshot);
    assert_eq!(second.removed, ["a"]);
    assert_eq!(second.changed.len(), 2);
    assert_eq!(second.position, publisher.position());
    wire.acked(publisher.position()).await;
}

#[tokio::test]
async fn after_a_reconnect_a_delta_is_enough() {
    let publisher = Publisher::new(1, 0);
    publisher.replace(rows(["a=1", "b=1"]));
    let mut wire = Wire::start(&publisher);
    let mut follower = wire.follow(None);
    follower.applied().await;
    wire.acked(publisher.position()).await;
    wire.cut();
    follower.lost().await;
    publisher.replace(rows(["a=1", "b=2"]));
    let change = follower.applied().await;
    assert!(!change.snapshot);
    assert_eq!(change.changed, [("b".to_owned(), Bytes::from_static(b"2"))]);
    assert_eq!(wire.hello().await, Some(1));
}

#[tokio::test]
async fn after_a_restart_a_delta_is_enough() {
    let publisher = Publisher::new(1, 0);
    publisher.replace(rows(["a=1", "b=1"]));
    let mut wire = Wire::start(&publisher);
    let mut saved = Saved::empty();
    let mut follower = wire.follow(None);
    saved.apply(&follower.applied().await);
    drop(follower);
    let saved = Saved::decode(&saved.encode()).unwrap();
    publisher.replace(rows(["b=1"]));
    let mut follower = wire.follow(Some(&saved));
    let change = follower.applied().await;
    assert!(!change.snapshot);
    assert_eq!((change.removed.as_slice(), change.changed.len()), (["a".to_owned()].as_slice(), 0));
}

#[tokio::test]
async fn saved_rows_that_contradict_their_digest_are_not_resumed() {
    let publisher = Publisher::new(1, 0);
    publisher.replace(rows(["a=1"]));
    let mut wire = Wire::start(&publisher);
    let position = publisher.position();
    let mut follower = wire.follow(Some(&Saved { position, rows: rows(["a=other"]) }));
    assert!(follower.applied().await.snapshot);
}

#[tokio::test]
async fn a_digest_that_differs_leads_to_a_snapshot() {
    let publisher = Publisher::new(1, 0);
    publisher.replace(rows(["a=1"]));
    let mut wire = Wire::start(&publisher);
    // The same version with another content: what a bug or a split would leave behind.
    let other = Publisher::new(1, 0);
    other.replace(rows(["a=other"]));
    let saved = Saved { position: other.position(), rows: other.rows() };
    let mut follower = wire.follow(Some(&saved));
    let change = follower.applied().await;
    assert!(change.snapshot);
    assert_eq!(change.position, publisher.position());
}

#[tokio::test]
async fn no_way_back_in_time_until_the_epoch_moves() {
    let publisher = Publisher::new(1, 0);
    publisher.replace(rows(["a=old"]));
    let mut wire = Wire::start(&publisher);
    let ahead = Publisher::new(1, 90);
    ahead.replace(rows(["a=new"]));
    let mut follower = wire.follow(Some(&Saved { position: ahead.position(), rows: ahead.rows() }));
    let error = follower.lost().await;
    assert!(matches!(&error, LinkError::Closed(text) if text.contains("ahead")), "{error}");
    // The controller hears of it in the hello and begins a higher epoch.
    assert_eq!(wire.hello().await, Some(91));
    publisher.set_epoch(2);
    let change = follower.applied().await;
    assert_eq!((change.position.epoch, change.position.version), (2, 1));
    assert!(change.snapshot);
}

#[tokio::test]
async fn equal_content_of_a_new_epoch_is_adopted_without_a_snapshot() {
    let publisher = Publisher::new(1, 0);
    publisher.replace(rows(["a=1"]));
    let mut wire = Wire::start(&publisher);
    let mut follower = wire.follow(None);
    follower.applied().await;
    publisher.set_epoch(2);
    let change = follower.applied().await;
    assert!(!change.snapshot && change.changed.is_empty() && change.removed.is_empty());
    assert_eq!(change.position, publisher.position());
    assert_eq!(change.position.epoch, 2);
    // From there on deltas again.
    publisher.replace(rows(["a=2"]));
    assert!(!follower.applied().await.snapshot);
}

#[tokio::test]
async fn a_refused_row_is_told_until_it_is_good_again() {
    let publisher = Publisher::new(1, 0);
    publisher.replace(rows(["a=bad", "b=1"]));
    let mut wire = Wire::start(&publisher);
    let mut follower = wire.follow(None);
    follower.refuse = Some("a");
    follower.applied().await;
    let ack = wire.ack(|ack| ack.applied.is_some()).await;
    assert_eq!(ack.refusals, [Refusal { key: "a".into(), reason: "not good".into() }]);
    follower.refuse = None;
    publisher.replace(rows(["a=good", "b=1"]));
    assert!(!follower.applied().await.snapshot, "a refused row is held: no divergence");
    wire.ack(|ack| ack.refusals.is_empty() && ack.applied == Some(publisher.position())).await;
}

#[tokio::test]
async fn a_row_that_is_too_large_is_refused_and_the_rest_applied() {
    let publisher = Publisher::new(1, 0);
    let mut all = rows(["b=1"]);
    all.insert("a".into(), Bytes::from(vec![7; 65 * 1024]));
    all.insert("service/a/b".into(), Bytes::from(vec![7; 65 * 1024]));
    publisher.replace(all);
    let mut wire = Wire::start(&publisher);
    let mut follower = wire.follow(None);
    let change = follower.applied().await;
    assert_eq!(change.changed.len(), 2);
    assert_eq!(change.refused.len(), 1);
    let ack = wire.ack(|ack| ack.applied.is_some()).await;
    assert!(ack.refusals[0].reason.contains("66560 bytes"), "{:?}", ack.refusals);
}

#[tokio::test]
async fn large_changes_travel_in_parts() {
    let publisher = Publisher::new(1, 0);
    let big = (0..200).map(|i| (format!("k{i:03}"), Bytes::from(vec![i as u8; 60_000])));
    publisher.replace(big.collect());
    let mut wire = Wire::start(&publisher);
    let mut follower = wire.follow(None);
    let change = follower.applied().await;
    assert_eq!(change.changed.len(), 200);
    assert_eq!(change.position, publisher.position());
    let many = (0..25_000).map(|i| (format!("n{i}"), Bytes::new()));
    publisher.replace(many.collect());
    let change = follower.applied().await;
    assert_eq!((change.changed.len(), change.removed.len()), (25_000, 200));
}

#[tokio::test]
async fn too_many_rows_end_the_link_and_nothing_else() {
    let publisher = Publisher::new(1, 0);
    publisher.replace(rows(["a=1"]));
    let mut wire = Wire::start(&publisher);
    wire.config.limits = Limits { rows: 1_000, ..Limits::default() };
    let mut follower = wire.follow(None);
    follower.applied().await;
    publisher.replace((0..20_000).map(|i| (format!("n{i}"), Bytes::new())).collect());
    let lost = follower.lost().await;
    assert_eq!(lost, LinkError::TooManyRows { limit: 1_000 });
    assert_eq!(lost.code(), Some(hansa_core::code::control::ROWS_TOO_MANY));
    assert_eq!(follower.handle.status().borrow().applied.unwrap().version, 1, "the last value is kept");
}

#[tokio::test]
async fn too_many_bytes_in_all_end_the_link_and_nothing_else() {
    let publisher = Publisher::new(1, 0);
    let body = |n: usize| Bytes::from(vec![b'x'; n]);
    publisher.replace((0..90).map(|i| (format!("n{i:02}"), body(97))).collect());
    let mut wire = Wire::start(&publisher);
    wire.config.limits = Limits { total_bytes: 10_000, ..Limits::default() };
    let mut follower = wire.follow(None);
    follower.applied().await;
    // Small changes, none of which is too much by itself; what is replaced or removed makes room.
    publisher.update((80..100).map(|i| (format!("n{i:02}"), body(97))).collect(), Vec::new());
    follower.applied().await;
    publisher.update([("more".to_owned(), body(96))].into(), vec!["n00".to_owned()]);
    follower.applied().await;
    let held = publisher.position();
    publisher.update([("n01".to_owned(), body(98))].into(), vec!["nobody has it".to_owned()]);
    let lost = follower.lost().await;
    assert_eq!(lost, LinkError::TooLarge { limit: 10_000 });
    assert_eq!(lost.code(), Some(hansa_core::code::control::ROWS_TOO_MANY));
    assert_eq!(follower.handle.status().borrow().applied, Some(held), "the last value is kept");
}

#[tokio::test]
async fn a_key_beyond_the_limit_is_refused_and_the_others_count() {
    let publisher = Publisher::new(1, 0);
    let (fits, long) = ("k".repeat(512), "k".repeat(513));
    publisher.replace(rows([format!("{fits}=1").as_str(), format!("{long}=1").as_str(), "a=1"]));
    let mut wire = Wire::start(&publisher);
    let change = wire.follow(None).applied().await;
    let keys: Vec<&str> = change.changed.iter().map(|row| row.0.as_str()).collect();
    assert_eq!(keys, ["a", fits.as_str()]);
    assert_eq!(change.refused.len(), 1);
    assert!(change.refused[0].reason.contains("the key has 513 bytes"), "{:?}", change.refused);
}

#[test]
fn what_is_said_of_others_is_short_however_long_their_rows_are() {
    use hansa_core::merge::{Conflict, ConflictReason};
    use hansa_proto::convert::report;
    let long = "ä".repeat(1 << 20);
    let cluster: hansa_core::name::ClusterId = "b".parse().unwrap();
    let conflict = Conflict {
        reason: ConflictReason::LabelsConflict,
        winner: cluster.clone(),
        cluster,
        detail: long.clone(),
    };
    let said = report::conflicts_to(&[("shop/a".parse().unwrap(), conflict)]);
    assert_eq!(said[0].detail.chars().count(), 300);
    let refusal = Refusal { key: long.clone(), reason: long };
    let said = report::refusals_to(&[refusal]);
    assert_eq!((said[0].key.chars().count(), said[0].reason.chars().count()), (200, 300));
}

#[tokio::test]
async fn a_slow_follower_gets_one_merged_change() {
    let publisher = Publisher::new(1, 0);
    publisher.replace(rows(["a=1"]));
    let mut wire = Wire::start(&publisher);
    let mut follower = wire.follow(None);
    let first = follower.change().await;
    for i in 0..100 {
        publisher.replace(rows([&*format!("a={i}x"), "b=1"]));
    }
    follower.handle.applied(&first, Vec::new());
    let change = follower.applied().await;
    assert_eq!(change.changed.len(), 2);
    assert_eq!(change.position, publisher.position());
}

#[tokio::test]
async fn heartbeats_tell_where_the_publisher_is() {
    let publisher = Publisher::new(1, 0);
    let mut wire = Wire::start(&publisher);
    let mut follower = wire.follow(None);
    follower.applied().await;
    let FollowEvent::Heartbeat { position } =
        follower.event(|e| matches!(e, FollowEvent::Heartbeat { .. })).await
    else {
        unreachable!()
    };
    assert_eq!(position, publisher.position());
    let status = follower.handle.status();
    assert!(status.borrow().connected && status.borrow().heard.is_some());
}

#[tokio::test]
async fn questions_are_answered_or_refused_or_late() {
    let publisher = Publisher::new(1, 0);
    let mut wire = Wire::start(&publisher);
    let mut follower = wire.follow(None);
    let asked = wire.follower().await;
    let limit = Duration::from_secs(5);
    let ask = tokio::spawn({
        let asked = asked.clone();
        async move { asked.ask("explain", Bytes::from_static(b"{}"), limit).await }
    });
    let question = follower.question().await;
    assert_eq!(question.kind, "explain");
    follower.handle.reply(question.id, Ok(Bytes::from_static(b"[1]")));
    assert_eq!(ask.await.unwrap(), Ok(Bytes::from_static(b"[1]")));
    let ask = tokio::spawn({
        let asked = asked.clone();
        async move { asked.ask("dance", Bytes::new(), limit).await }
    });
    let question = follower.question().await;
    follower.handle.reply(question.id, Err("unknown question".into()));
    assert_eq!(ask.await.unwrap(), Err(AskError::Refused("unknown question".into())));
    let late = asked.ask("check", Bytes::new(), Duration::from_millis(20)).await;
    assert_eq!(late, Err(AskError::Late));
    drop(follower);
    wire.event(|event| matches!(event.body, EventBody::Gone)).await;
    assert!(asked.is_gone());
}

#[tokio::test]
async fn reports_travel_at_once() {
    let publisher = Publisher::new(1, 0);
    let mut wire = Wire::start(&publisher);
    wire.config.timing.beat = Duration::from_secs(3600);
    let mut follower = wire.follow(None);
    follower.applied().await;
    follower.handle.report(GatewayReport { bound_version: 7, ..GatewayReport::default() });
    wire.ack(|ack| ack.report.as_ref().is_some_and(|r| r.bound_version == 7)).await;
}

#[tokio::test]
async fn a_replica_re_serves_and_followers_move_over() {
    let leader = Publisher::new(4, 9);
    leader.replace(rows(["a=1", "b=1"]));
    let Position { epoch, version, .. } = leader.position();
    let replica = Publisher::mirror(epoch, version, leader.rows());
    assert_eq!(replica.position(), leader.position());
    let mut wire = Wire::start(&replica);
    let mut follower = wire.follow(Some(&Saved { position: leader.position(), rows: leader.rows() }));
    leader.replace(rows(["b=1"]));
    replica.replace_at(4, leader.position().version, leader.rows());
    let change = follower.applied().await;
    assert!(!change.snapshot);
    assert_eq!(change.position, leader.position());
}
