//! UDP and TCP sockets: many clients, pipelining, idle connections, limits, the admin endpoint.

use std::sync::Arc;

use hansa_dns::{Served, Server, StartError};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use tokio::io::AsyncReadExt;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::fixture::*;

const WEB: &str = "web.shop.svc.clusterset.local";

/// A server with a zone that nobody has to fetch, and no controller.
async fn start(more: &str) -> (Running, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    // It waits for a controller that never answers; names are answered all the same.
    let token = "controller: ['127.0.0.1:1']\nserviceAccount: {tokenFile: /dev/null, bundleFile: BUNDLE, trustDomain: a}\n";
    let bundle = dir.path().join("bundle.json");
    std::fs::write(&bundle, crate::controller::authority("a").bundle().to_json()).unwrap();
    let token = token.replace("BUNDLE", &bundle.display().to_string());
    let running = Running::start(config(dir.path(), &format!("{token}{more}"))).await;
    (running, dir)
}

fn fill(running: &Running) {
    running.shelf.store(Served { zone: Arc::new(zone()), serial: 1 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_answered_before_there_is_a_controller() {
    let (running, _dir) = start("").await;
    let answer = running.udp(&question(WEB, RecordType::A, None)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(!running.process.ready.is_ready());
    fill(&running);
    assert_eq!(running.udp(&question(WEB, RecordType::A, None)).await.answers.len(), 2);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_at_once_each_get_their_own_answer() {
    let (running, _dir) = start("").await;
    fill(&running);
    let address = running.address;
    let clients = (0..50).map(|n| {
        tokio::spawn(async move {
            let name = if n % 2 == 0 { WEB } else { "many.big.svc.clusterset.local" };
            let message = question(name, RecordType::A, Some(1_232));
            let answer = udp(address, &message).await;
            assert_eq!(answer.metadata.id, message.metadata.id);
            assert_eq!(answer.queries, message.queries);
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_carries_many_questions() {
    let (running, _dir) = start("").await;
    fill(&running);
    let mut stream = running.connect().await;
    let asked: Vec<_> =
        (0..20).map(|_| question("many.big.svc.clusterset.local", RecordType::A, None)).collect();
    for message in &asked {
        send(&mut stream, message).await;
    }
    for message in &asked {
        let answer = receive(&mut stream).await;
        assert_eq!((answer.metadata.id, answer.answers.len()), (message.metadata.id, 200));
        assert!(!answer.metadata.truncation);
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_and_one_too_many_are_closed() {
    let (running, _dir) = start("tcp: {connections: 1, idle: 300ms}").await;
    fill(&running);
    let mut first = running.connect().await;
    send(&mut first, &question(WEB, RecordType::A, None)).await;
    receive(&mut first).await;
    let mut second = running.connect().await;
    // Either closed at once, or reset: never answered.
    let read = timeout(LIMIT, second.read_u8()).await.unwrap();
    assert!(read.is_err());
    let closed = timeout(LIMIT, first.read_u8()).await.unwrap();
    assert!(closed.is_err(), "idle");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_said() {
    let (running, dir) = start("").await;
    let other = tempfile::tempdir().unwrap();
    // An address of which nobody else takes ports.
    let held = UdpSocket::bind("127.94.0.1:0").await.unwrap();
    for (taken, by) in [(running.address, "tcp"), (held.local_addr().unwrap(), "udp")] {
        let mut config = config(other.path(), "");
        config.listen = vec![taken];
        let error = Server::bind(config, running.process.clone()).await.err().unwrap();
        let StartError::Listen { transport, address, .. } = &error else { panic!("{error}") };
        assert_eq!((*transport, *address), (by, taken));
    }
    running.stop().await;
    drop(dir);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_way_to_an_identity_ends_the_server_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(config(dir.path(), "controller: ['127.0.0.1:1']")).await;
    let error = timeout(LIMIT, running.run).await.unwrap().unwrap().unwrap_err();
    assert!(error.to_string().contains("no enrolment token"), "{error}");
    assert!(running.process.drain.is_draining());
}
