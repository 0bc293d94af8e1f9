//! Gateways in one process on loopback: what a client sees of the path to a peer's service.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "loopback/world.rs"]
#[expect(dead_code, reason = "shared with the tests of faults, which use the rest")]
mod world;

#[path = "loopback/logged.rs"]
mod logged;

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hansa_core::mesh::Transport;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

use world::{Closed, Echo, LONG, World, ask, until};

async fn two() -> World {
    let mut world = World::start(&[("a", 1), ("b", 1)]).await;
    world.failback.hold_down_ms = 300;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_reaches_a_peers_service_and_the_server_may_speak_first() {
    let mut world = two().await;
    let echo = Echo::start("b:").await;
    world.member("b").export("shop/web", &[echo.port]);
    world.publish().await;
    world.connected("a").await;
    let mut stream = TcpStream::connect(world.vip("a", "shop/web")).await.unwrap();
    let mut name = [0; 2];
    stream.read_exact(&mut name).await.unwrap();
    assert_eq!(&name, b"b:");
    stream.write_all(b"hello").await.unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"hello");
    drop(stream);
    assert_eq!(ask(world.vip("a", "shop/web"), "again").await.unwrap(), "b:again");
    assert_eq!(ask(world.vip("b", "shop/web"), "local").await.unwrap(), "b:local");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_dial_moves_to_the_next_cluster_and_nothing_is_delivered_twice() {
    let mut world = World::start(&[("a", 1), ("b", 1), ("c", 1)]).await;
    let (closed, echo) = (Closed::new(), Echo::start("c:").await);
    world.member("b").export("shop/web", &[closed.port]);
    world.member("c").export("shop/web", &[echo.port]);
    world.publish().await;
    world.connected("a").await;
    let text = "x".repeat(40_000);
    let mut asked = 0;
    // Each goes to b or c by a draw.
    while world.members[0].nodes[0].track("shop/web:8080 in b").await != "down" {
        asked += 1;
        assert!(asked <= 64, "never to b");
        let answer = ask(world.vip("a", "shop/web"), &text).await.unwrap();
        assert_eq!(answer.len(), 2 + text.len());
        assert_eq!(echo.bytes.load(Ordering::SeqCst), asked * text.len());
    }
    assert_eq!(echo.accepted.load(Ordering::SeqCst), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_gets_no_traffic_before_a_probe_and_then_returns() {
    let mut world = World::start(&[("a", 1), ("b", 1), ("c", 1)]).await;
    let (closed, c) = (Closed::new(), Echo::start("c:").await);
    world.member("b").export("shop/web", &[closed.port]);
    world.member("c").export("shop/web", &[c.port]);
    world.publish().await;
    world.connected("a").await;
    let vip = world.vip("a", "shop/web");
    until(|| async {
        ask(vip, "x").await.unwrap();
        !world.members[0].nodes[0].snapshot().await["tracks"].as_object().unwrap().is_empty()
    })
    .await;
    let b = Echo::on("b:", closed).await;
    until(|| async { ask(vip, "x").await.unwrap() == "b:x" }).await;
    // Each probe is an accept without a byte, and came first.
    assert!(b.accepted.load(Ordering::SeqCst) >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_path_serves_as_soon_as_it_is_back() {
    let mut world = two().await;
    world.failback.hold_down_ms = 60_000;
    let closed = Closed::new();
    world.member("b").export("shop/web", &[closed.port]);
    world.publish().await;
    world.connected("a").await;
    let vip = world.vip("a", "shop/web");
    let error = ask(vip, "x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    // There is no other: it is asked although it is down.
    assert!(ask(vip, "x").await.is_err());
    until(|| async { world.members[0].nodes[0].metric("hansa_panic_decisions_total").await >= 1.0 }).await;
    let _b = Echo::on("b:", closed).await;
    for text in ["x", "y"] {
        assert_eq!(ask(vip, text).await.unwrap(), format!("b:{text}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_close_and_resets_pass_both_ways() {
    let mut world = two().await;
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.member("b").export("shop/web", &[server.local_addr().unwrap().port()]);
    world.publish().await;
    world.connected("a").await;
    let vip = world.vip("a", "shop/web");

    let mut client = TcpStream::connect(vip).await.unwrap();
    client.write_all(b"q").await.unwrap();
    client.shutdown().await.unwrap();
    let (mut service, _) = server.accept().await.unwrap();
    let mut got = Vec::new();
    service.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"q");
    service.write_all(b"answer after the end").await.unwrap();
    drop(service);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"answer after the end");

    let mut client = TcpStream::connect(vip).await.unwrap();
    client.write_all(b"q").await.unwrap();
    let (mut service, _) = server.accept().await.unwrap();
    service.read_exact(&mut [0; 1]).await.unwrap();
    client.set_zero_linger().unwrap();
    drop(client);
    let error = service.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);

    let mut client = TcpStream::connect(vip).await.unwrap();
    client.write_all(b"q").await.unwrap();
    let (mut service, _) = server.accept().await.unwrap();
    service.read_exact(&mut [0; 1]).await.unwrap();
    service.set_zero_linger().unwrap();
    drop(service);
    let error = client.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_named_is_denied() {
    logged::listen();
    let mut world = two().await;
    let echo = Echo::start("b:").await;
    world.member("b").export("shop/web", &[echo.port]).export_to = Some(["c".parse().unwrap()].into());
    world.publish().await;
    world.connected("a").await;
    assert!(ask(world.vip("a", "shop/web"), "x").await.is_err());
    assert_eq!(echo.accepted.load(Ordering::SeqCst), 0);
    let denied =
        "hansa_tcp_connections_total{direction=\"inbound\",peer=\"a\",service=\"\",outcome=\"denied\"}";
    until(|| async { world.members[1].nodes[0].metric(denied).await >= 1.0 }).await;
    logged::says(&["inbound", "\"outcome\":\"denied\"", "HNS-5002"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_of_a_headless_service_has_an_address_of_its_own() {
    let mut world = two().await;
    let (one, two) = (Echo::start("0:").await, Echo::start("1:").await);
    world.member("b").export("data/kafka", &[one.port, two.port]);
    world.member("b").headless("data/kafka");
    world.publish().await;
    world.connected("a").await;
    for (n, name) in ["0:", "1:"].into_iter().enumerate() {
        let vip = world.host_vip("a", "data/kafka", n as u8);
        assert_eq!(ask(vip, "x").await.unwrap(), format!("{name}x"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_clients_is_served_whole() {
    let mut world = two().await;
    let echo = Echo::start("b:").await;
    world.member("b").export("shop/web", &[echo.port]);
    world.publish().await;
    world.connected("a").await;
    let vip = world.vip("a", "shop/web");
    let clients = (0..300).map(|_| tokio::spawn(async move { ask(vip, "hello").await.unwrap() }));
    for client in futures::future::join_all(clients).await {
        assert_eq!(client.unwrap(), "b:hello");
    }
    assert_eq!(echo.accepted.load(Ordering::SeqCst), 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_passes_whole_in_both_directions() {
    let mut world = two().await;
    let echo = Echo::start("b:").await;
    world.member("b").export("shop/web", &[echo.port]);
    world.publish().await;
    world.connected("a").await;
    let text = "0123456789abcdef".repeat(500_000);
    let stream = TcpStream::connect(world.vip("a", "shop/web")).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let sent = text.clone();
    tokio::spawn(async move {
        write.write_all(sent.as_bytes()).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut answer = String::new();
    tokio::time::timeout(LONG, read.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.strip_prefix("b:") == Some(&text));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_running_connections_finish_and_cuts_the_rest_with_a_code() {
    logged::listen();
    let extra = "drain: {deadline: 700ms}\n";
    let mut world = World::with(&[("a", 1), ("b", 1)], extra).await;
    let echo = Echo::start("b:").await;
    world.member("b").export("shop/web", &[echo.port]);
    world.publish().await;
    world.connected("a").await;
    let vip = world.vip("a", "shop/web");
    let mut name = [0; 2];
    let mut short = TcpStream::connect(vip).await.unwrap();
    short.read_exact(&mut name).await.unwrap();
    let mut long = TcpStream::connect(vip).await.unwrap();
    long.read_exact(&mut name).await.unwrap();
    let node = &mut world.members[0].nodes[0];
    node.process.ready.withdraw("draining");
    node.process.drain.begin("test");
    tokio::time::sleep(Duration::from_millis(100)).await;
    short.write_all(b"bye").await.unwrap();
    short.shutdown().await.unwrap();
    let mut rest = String::new();
    short.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "bye");
    let error = long.read(&mut name).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    node.ended().await;
    assert!(TcpStream::connect(vip).await.is_err());
    logged::says(&["outbound", "\"outcome\":\"drain_deadline\"", "HNS-5006"]).await;
}

/// Nobody was told beforehand, as when its controller is away: what it rejects goes to the peer's other one.
#[tokio::test(flavor = "multi_thread")]
async fn a_peers_gateway_that_leaves_unannounced_fails_nobody() {
    leaves_unannounced(Transport::Auto).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peers_gateway_that_leaves_unannounced_fails_nobody_over_tcp() {
    leaves_unannounced(Transport::Http2).await;
}

async fn leaves_unannounced(transport: Transport) {
    let mut world = World::with(&[("a", 1), ("b", 2)], "drain: {deadline: 5s}\n").await;
    world.transport = transport;
    let echo = Echo::start("b:").await;
    world.member("b").export("shop/web", &[echo.port]);
    world.publish().await;
    world.connected("a").await;
    let vip = world.vip("a", "shop/web");
    let asked = Arc::new(AtomicUsize::new(0));
    let asking = (0..16).map(|_| {
        let asked = asked.clone();
        tokio::spawn(async move {
            while asked.fetch_add(1, Ordering::SeqCst) < 8_000 {
                ask(vip, "x").await.expect("nobody is failed");
            }
        })
    });
    let asking: Vec<_> = asking.collect();
    until(|| async { asked.load(Ordering::SeqCst) > 1_000 }).await;
    world.members[1].nodes[0].process.drain.begin("test");
    for task in asking {
        task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_running_flows_go_on() {
    let extra = "drain: {deadline: 2s}\n";
    let mut world = World::with(&[("a", 1), ("b", 1)], extra).await;
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    world.member("b").export_udp("ops/telemetry", server.local_addr().unwrap().port());
    world.publish().await;
    world.connected("a").await;
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(world.vip("a", "ops/telemetry")).await.unwrap();
    let mut buffer = [0; 16];
    client.send(b"before").await.unwrap();
    let got = tokio::time::timeout(LONG, server.recv_from(&mut buffer)).await.unwrap();
    let (_, carrier) = got.unwrap();
    let node = &mut world.members[0].nodes[0];
    node.process.drain.begin("test");
    // Without a controller nothing is accepted from here on.
    until(|| async { world.members[0].nodes[0].metric("hansa_listeners").await == 0.0 }).await;
    for text in [b"during", b"drain!"] {
        client.send(text).await.unwrap();
        tokio::time::timeout(LONG, server.recv(&mut buffer)).await.unwrap().unwrap();
        assert_eq!(&buffer[..6], text);
        server.send_to(text, carrier).await.unwrap();
        tokio::time::timeout(LONG, client.recv(&mut buffer)).await.unwrap().unwrap();
        assert_eq!(&buffer[..6], text);
    }
    world.members[0].nodes[0].ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_service_is_no_longer_listened_for() {
    let mut world = two().await;
    let echo = Echo::start("b:").await;
    world.member("b").export("shop/web", &[echo.port]);
    world.publish().await;
    world.connected("a").await;
    let vip = world.vip("a", "shop/web");
    assert_eq!(ask(vip, "x").await.unwrap(), "b:x");
    echo.stop();
    world.member("b").unexport("shop/web");
    world.publish().await;
    until(|| async { TcpStream::connect(vip).await.is_err() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sibling_stands_in_for_the_dead_and_gives_back_to_the_living() {
    let mut world = World::start(&[("a", 2), ("b", 1)]).await;
    let echo = Echo::start("b:").await;
    world.member("b").export("shop/web", &[echo.port]);
    world.publish().await;
    world.connected("a").await;
    let vip = world.vip_of("a", 1, "shop/web");
    assert_eq!(ask(vip, "x").await.unwrap(), "b:x");

    world.member("a").nodes[1].kill();
    // What it had accepted may still be answered while it ends; how long it takes is judged in namespaces.
    let taken = || async { world.members[0].nodes[0].metric("hansa_vip_blocks_taken_over").await };
    until(|| async { taken().await == 1.0 }).await;
    until(|| async { ask(vip, "x").await.is_ok_and(|answer| answer == "b:x") }).await;

    world.member("a").restart(1).await;
    world.publish().await;
    let taken = || async { world.members[0].nodes[0].metric("hansa_vip_blocks_taken_over").await };
    until(|| async { taken().await == 0.0 }).await;
    world.connected("a").await;
    assert_eq!(ask(vip, "x").await.unwrap(), "b:x");
    let ended = "hansa_tcp_connections_total{direction=\"outbound\"";
    until(|| async { world.members[0].nodes[1].metric(ended).await >= 1.0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_pass_unchanged_to_the_right_client_and_large_ones_are_counted() {
    let mut world = two().await;
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    world.member("b").export_udp("ops/telemetry", server.local_addr().unwrap().port());
    tokio::spawn(async move {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let (n, from) = server.recv_from(&mut buffer).await.unwrap();
            server.send_to(&buffer[..n], from).await.unwrap();
        }
    });
    world.publish().await;
    world.connected("a").await;
    let vip = world.vip("a", "ops/telemetry");
    let clients = (0..20u8).map(|n| async move {
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(vip).await.unwrap();
        let mut buffer = vec![0; 2_000];
        for size in [1, 512, 1_200] {
            client.send(&vec![n; size]).await.unwrap();
            let got = tokio::time::timeout(LONG, client.recv(&mut buffer)).await.unwrap().unwrap();
            assert_eq!(buffer[..got], vec![n; size]);
        }
    });
    futures::future::join_all(clients).await;
    let dropped = "hansa_datagrams_dropped_total{reason=\"too_large\"}";
    // A busy machine may have given the first tunnel to HTTP/2, where every size passes: then a later flow
    // takes the one on QUIC.
    let begun = std::time::Instant::now();
    while world.members[0].nodes[0].metric(dropped).await < 1.0 {
        assert!(begun.elapsed() < 2 * LONG, "never dropped");
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(vip).await.unwrap();
        client.send(&[1; 60_000]).await.unwrap();
        // Not too often: flows of one source are limited.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A port that swallows every attempt to connect: its queue is full and nobody accepts.
async fn swallowing() -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    let limit = Duration::from_millis(200);
    while let Ok(stream) = tokio::time::timeout(limit, TcpStream::connect(address)).await {
        queued.push(stream.unwrap());
    }
    (listener, queued)
}

#[tokio::test(flavor = "multi_thread")]
async fn first_bytes_that_somebody_may_have_got_are_not_sent_again() {
    let limits = "limits: {dialTimeout: 30s, answerTimeout: 2s}\n";
    let mut world = World::with(&[("a", 1), ("b", 1), ("c", 1)], limits).await;
    let (silent, _queued) = swallowing().await;
    let c = Echo::start("c:").await;
    world.member("b").export("shop/web", &[silent.local_addr().unwrap().port()]);
    world.member("c").export("shop/web", &[c.port]);
    world.publish().await;
    world.connected("a").await;
    let vip = world.vip("a", "shop/web");
    let mut answered = 0;
    // Each goes to b or c by a draw; the first that goes to b gets silence, and must end.
    while answered < 64 && ask(vip, "hello").await.is_ok() {
        answered += 1;
    }
    assert!(answered < 64, "silence after first bytes was hidden by sending them again");
    assert_eq!(c.bytes.load(Ordering::SeqCst), answered * "hello".len());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_does_not_answer_the_dial_is_told_with_its_code() {
    logged::listen();
    let mut world = World::with(&[("a", 1), ("b", 1)], "limits: {dialTimeout: 300ms}\n").await;
    let (silent, _queued) = swallowing().await;
    world.member("b").export("shop/full", &[silent.local_addr().unwrap().port()]);
    world.publish().await;
    world.connected("a").await;
    assert!(ask(world.vip("a", "shop/full"), "x").await.is_err());
    logged::says(&["inbound", "full.shop.svc", "\"outcome\":\"timeout\"", "HNS-5004"]).await;
}
