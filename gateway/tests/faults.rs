//! What clients and neighbours of a gateway do wrong, and what it then does: the fault stays with
//! who made it, is said with its code, and everything else goes on.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "loopback/world.rs"]
#[expect(dead_code, reason = "shared with the other loopback tests, which use all of it")]
mod world;

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use world::{Closed, Echo, LONG, World, ask, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_writes_ends_with_the_idle_timeout() {
    let mut world = World::with(&[("a", 1), ("b", 1)], "limits: {idleTimeout: 2s}\n").await;
    let echo = Echo::start("b:").await;
    world.member("b").export("shop/web", &[echo.port]);
    world.publish().await;
    world.connected("a").await;
    let vip = world.vip("a", "shop/web");
    let mut silent = TcpStream::connect(vip).await.unwrap();
    let mut name = [0; 2];
    silent.read_exact(&mut name).await.unwrap();
    assert_eq!(ask(vip, "others").await.unwrap(), "b:others");
    let ended = tokio::time::timeout(LONG, silent.read(&mut name)).await.unwrap();
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
    // Both gateways have the same limit: either may be the first to say so.
    let idle = |direction, peer| {
        format!(
            "hansa_tcp_connections_total{{direction=\"{direction}\",peer=\"{peer}\",service=\"shop/web\",outcome=\"idle_timeout\"}}"
        )
    };
    let (near, far) = (idle("outbound", "b"), idle("inbound", "a"));
    let (a, b) = (&world.members[0].nodes[0], &world.members[1].nodes[0]);
    until(|| async { a.metric(&near).await + b.metric(&far).await >= 1.0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_holds_up_nobody() {
    let mut world = World::start(&[("a", 1), ("b", 1)]).await;
    let echo = Echo::start("b:").await;
    let flood = TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.member("b").export("shop/web", &[echo.port]);
    world.member("b").export("shop/flood", &[flood.local_addr().unwrap().port()]);
    world.publish().await;
    world.connected("a").await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = flood.accept().await {
            tokio::spawn(async move { while stream.write_all(&[7; 1 << 16]).await.is_ok() {} });
        }
    });
    let mut never = Vec::new();
    for _ in 0..3 {
        never.push(TcpStream::connect(world.vip("a", "shop/flood")).await.unwrap());
    }
    let vip = world.vip("a", "shop/web");
    for _ in 0..20 {
        assert_eq!(ask(vip, "small").await.unwrap(), "b:small");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(never);
    assert_eq!(ask(vip, "small").await.unwrap(), "b:small");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_address_is_counted_and_had_once_it_is_free() {
    let mut world = World::start(&[("a", 1), ("b", 1)]).await;
    let (one, two) = (Echo::start("1:").await, Echo::start("2:").await);
    world.member("b").export("shop/one", &[one.port]);
    world.member("b").export("shop/two", &[two.port]);
    let (taken, free) = (world.vip("a", "shop/one"), world.vip("a", "shop/two"));
    let holder = TcpListener::bind(taken).await.unwrap();
    world.publish().await;
    world.connected("a").await;
    assert_eq!(ask(free, "x").await.unwrap(), "2:x");
    let unbound = || async { world.members[0].nodes[0].metric("hansa_listeners_unbound").await };
    assert_eq!(unbound().await, 1.0);
    drop(holder);
    until(|| async { unbound().await == 0.0 }).await;
    assert_eq!(ask(taken, "x").await.unwrap(), "1:x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_udp_service_without_endpoints_is_left_for_the_next_cluster() {
    let mut world = World::start(&[("a", 1), ("b", 1), ("c", 1)]).await;
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    world.member("b").export_udp("ops/telemetry", 9);
    world.member("c").export_udp("ops/telemetry", server.local_addr().unwrap().port());
    tokio::spawn(async move {
        let mut buffer = vec![0; 2_048];
        while let Ok((n, from)) = server.recv_from(&mut buffer).await {
            server.send_to(&buffer[..n], from).await.unwrap();
        }
    });
    world.publish().await;
    world.connected("a").await;
    // What the table of a knows of b is older than b's own: it has no ready endpoint any more.
    world.member("b").unready("ops/telemetry");
    world.publish_to("b").await;
    let vip = world.vip("a", "ops/telemetry");
    let mut asked = 0;
    // Each goes to b or c by a draw.
    while world.members[0].nodes[0].track("ops/telemetry:8080/UDP in b").await != "down" {
        asked += 1;
        assert!(asked <= 64, "never to b");
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(vip).await.unwrap();
        let mut buffer = [0; 16];
        let answered = async {
            loop {
                client.send(b"x").await.unwrap();
                let wait = tokio::time::timeout(Duration::from_millis(500), client.recv(&mut buffer));
                if let Ok(Ok(n)) = wait.await {
                    return n;
                }
            }
        };
        assert_eq!(tokio::time::timeout(LONG, answered).await.unwrap(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_endpoint_is_found_before_a_connection_has_to() {
    let extra = "endpointHealth: {interval: 100ms}\n";
    let mut world = World::with(&[("a", 1), ("b", 1)], extra).await;
    let closed = Closed::new();
    world.member("b").export("shop/web", &[closed.port]);
    world.publish().await;
    until(|| async { world.members[1].nodes[0].metric("hansa_endpoints{state=\"down\"}").await >= 1.0 })
        .await;
}
