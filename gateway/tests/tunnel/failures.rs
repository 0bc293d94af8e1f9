//! Paths that break, gateways that leave, and the way back.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use hansa_core::mesh::Transport;
use hansa_core::reach::Reach;
use hansa_gateway::tunnel::{Config, Cut, Lane, Open, Stream, StreamError, Timing};
use hansa_runtime::shards::Shards;

use super::logged;
use super::member::{Domain, Gateway, LONG, greet, loopback, open, said};
use super::relay::Relay;

/// East has one gateway, west has two, both reached through paths of their own.
struct Three {
    west: Domain,
    a: Gateway,
    b: Gateway,
    _c: Gateway,
    to_b: Relay,
    _east: Domain,
}

async fn three(transport: Transport) -> Three {
    let (east, west) = (Domain::new("east"), Domain::new("west"));
    let timing = Timing {
        quic_probe: Duration::from_millis(300),
        quic_trial: Duration::from_millis(300),
        ..Timing::default()
    };
    let a = east.gateway_with("a", &[&west], Config { listen: loopback(), timing, ..Config::default() });
    let (mut b, mut c) = (west.gateway("b", &[&east]), west.gateway("c", &[&east]));
    b.echo();
    c.echo();
    for gateway in [&b, &c] {
        gateway.know(&west, vec![east.peer(transport, &[])]);
    }
    let to_b = Relay::new(b.address(), (true, true)).await;
    let gateways = [("b", vec![to_b.address]), ("c", vec![c.address()])];
    a.know(&east, vec![west.peer(transport, &gateways)]);
    a.connected(&west, "b", 1).await;
    a.connected(&west, "c", 1).await;
    Three { west, a, b, _c: c, to_b, _east: east }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_follows_the_name_of_its_gateway() {
    let (east, west) = (Domain::new("east"), Domain::new("west"));
    let timing = Timing { names: Duration::from_millis(50), ..Timing::default() };
    let config = Config { listen: loopback(), timing, ..Config::default() };
    let (a, mut b) = (east.gateway_with("a", &[&west], config), west.gateway("b", &[&east]));
    b.echo();
    b.know(&west, vec![east.peer(Transport::Quic, &[])]);
    let (old, new) =
        (Relay::new(b.address(), (true, false)).await, Relay::new(b.address(), (true, false)).await);
    let at = |address: String| {
        let mut peer = west.peer(Transport::Quic, &[("b", vec![b.address()])]);
        peer.gateways.values_mut().for_each(|gateway| gateway.addresses = vec![address.clone()]);
        a.know(&east, vec![peer]);
    };
    at(format!("localhost:{}", old.address.port()));
    a.connected(&west, "b", 1).await;
    let mut stream = a.open(&west).await;
    greet(&mut stream, "before").await;
    // From now on the name leads elsewhere.
    at(format!("localhost:{}", new.address.port()));
    let begun = Instant::now();
    while a.metric("hansa_tunnel_handshakes_total", "ok") < 2.0 {
        assert!(begun.elapsed() < LONG, "the tunnel did not move");
        // Between two looks at a figure that nobody announces.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    said(&mut stream, "still on the old path").await;
    drop(stream);
    // What is new does not need the old path any more.
    a.connected(&west, "b", 1).await;
    old.swallow_udp();
    greet(&mut a.open(&west).await, "on the new path").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_survives_that_its_address_changes() {
    let (east, west) = (Domain::new("east"), Domain::new("west"));
    // The kernel gives packets from a new address to any of the shards: they must find the right one.
    let (shards, _threads) = Shards::start("test", NonZeroUsize::new(4).unwrap()).unwrap();
    let config = Config { listen: loopback(), shards, ..Config::default() };
    let (a, mut b) = (east.gateway("a", &[&west]), west.gateway_with("b", &[&east], config));
    b.echo();
    let nat = Relay::new(b.address(), (true, false)).await;
    b.know(&west, vec![east.peer(Transport::Quic, &[])]);
    a.know(&east, vec![west.peer(Transport::Quic, &[("b", vec![nat.address])])]);
    a.connected(&west, "b", 1).await;
    let mut stream = a.open(&west).await;
    greet(&mut stream, "before").await;
    for _ in 0..8 {
        nat.forget();
        said(&mut stream, "from a new address").await;
    }
    assert_eq!(a.metric("hansa_tunnel_handshakes_total", "ok"), 1.0, "it is still the same tunnel");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_path_is_left_at_once_and_its_streams_end_with_a_code() {
    let Three { west, a, to_b, .. } = &three(Transport::Quic).await;
    let mut stream = a.open_via(west, "b").await;
    greet(&mut stream, "hello").await;
    let begun = Instant::now();
    to_b.swallow_udp();
    a.connected(west, "b", 0).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "suspect after {:?}", begun.elapsed());
    for _ in 0..8 {
        let mut other = a.open(west).await;
        assert_eq!(other.gateway.as_str(), "c");
        greet(&mut other, "still here").await;
    }
    let ended = tokio::time::timeout(LONG, stream.recv.data()).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "ended after {:?}", begun.elapsed());
    assert!(matches!(ended, Err(StreamError::Lost(Cut::Path(_)))), "{ended:?}");
    to_b.pass_udp();
    a.connected(west, "b", 1).await;
}

/// Opens requests at gateway b until one is carried by this lane.
async fn on(a: &Gateway, west: &Domain, lane: Lane) -> Stream {
    let begun = Instant::now();
    let mut reach = a.tunnels.reach();
    loop {
        let via = Some("b".parse().unwrap());
        match a.tunnels.open(&west.cluster, Open { via, ..open() }).await {
            Ok(stream) if stream.transport == lane => return stream,
            // Published when tunnels change, and at least whenever something was heard.
            _ => reach.changed().await.unwrap(),
        }
        assert!(begun.elapsed() < LONG, "never on {}", lane.as_str());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocked_udp_moves_a_tunnel_to_tcp_and_back() {
    logged::listen();
    let Three { west, a, to_b, .. } = &three(Transport::Auto).await;
    drop(on(a, west, Lane::Quic).await);
    to_b.swallow_udp();
    let mut stream = on(a, west, Lane::Http2).await;
    logged::says(&["HNS-5013", "\"peer\":\"west\"", "\"gateway\":\"b\""]).await;
    greet(&mut stream, "over TCP").await;
    to_b.pass_udp();
    // The tunnel comes back by itself; what began on TCP goes on there.
    drop(on(a, west, Lane::Quic).await);
    said(&mut stream, "still on TCP").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_moves_to_the_lane_that_is_allowed_now() {
    let (east, west) = (Domain::new("east"), Domain::new("west"));
    let (a, mut b) = (east.gateway("a", &[&west]), west.gateway("b", &[&east]));
    b.echo();
    b.know(&west, vec![east.peer(Transport::Auto, &[])]);
    for (transport, lane) in [
        (Transport::Auto, Lane::Quic),
        (Transport::Http2, Lane::Http2),
        (Transport::Auto, Lane::Quic),
        (Transport::Http2, Lane::Http2),
        (Transport::Quic, Lane::Quic),
    ] {
        a.know(&east, vec![west.peer(transport, &[("b", vec![b.address()])])]);
        greet(&mut on(&a, &west, lane).await, lane.as_str()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_gateway_still_asks() {
    let (east, west) = (Domain::new("east"), Domain::new("west"));
    let (mut a, mut b) = (east.gateway("a", &[&west]), west.gateway("b", &[&east]));
    a.echo();
    b.echo();
    let both = |transport| {
        a.know(&east, vec![west.peer(transport, &[("b", vec![b.address()])])]);
        b.know(&west, vec![east.peer(transport, &[("a", vec![a.address()])])]);
    };
    both(Transport::Quic);
    a.connected(&west, "b", 1).await;
    b.connected(&east, "a", 1).await;
    // Nothing runs on it, so nothing of the peer's is waited for.
    assert!(a.tunnels.drain(LONG).await);
    b.connected(&east, "a", 0).await;
    // Clients that still resolve to it are served to the end, also over tunnels made meanwhile.
    greet(&mut a.open(&west).await, "still served").await;
    both(Transport::Http2);
    greet(&mut on(&a, &west, Lane::Http2).await, "still served").await;
}

async fn drained(transport: Transport) {
    let Three { west, a, b, .. } = &three(transport).await;
    let mut stream = a.open_via(west, "b").await;
    greet(&mut stream, "hello").await;
    let tunnels = b.tunnels.clone();
    let draining = tokio::spawn(async move { tunnels.drain(LONG).await });
    a.connected(west, "b", 0).await;
    for _ in 0..8 {
        let mut other = a.open(west).await;
        assert_eq!(other.gateway.as_str(), "c");
        greet(&mut other, "elsewhere").await;
    }
    said(&mut stream, "the running one goes on").await;
    assert!(!draining.is_finished());
    stream.send.finish().await.unwrap();
    assert_eq!(stream.recv.data().await.unwrap(), None);
    drop(stream);
    assert!(tokio::time::timeout(LONG, draining).await.unwrap().unwrap());
    assert!(a.open(west).await.gateway.as_str() == "c");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_gateway_gets_nothing_new_and_finishes_what_runs_over_quic() {
    drained(Transport::Quic).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_gateway_gets_nothing_new_and_finishes_what_runs_over_http2() {
    drained(Transport::Http2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_drain_deadline_is_the_reason_given() {
    let Three { west, a, b, .. } = &three(Transport::Quic).await;
    let mut stream = a.open_via(west, "b").await;
    greet(&mut stream, "hello").await;
    assert!(!b.tunnels.drain(Duration::from_millis(100)).await);
    let ended = tokio::time::timeout(LONG, stream.recv.data()).await.unwrap();
    assert!(matches!(&ended, Err(StreamError::Lost(Cut::Drain))), "{ended:?}");
    assert!(ended.unwrap_err().to_string().contains("HNS-5006"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_comes_back_is_found_again() {
    let (east, west) = (Domain::new("east"), Domain::new("west"));
    let (a, b) = (east.gateway("a", &[&west]), west.gateway("b", &[&east]));
    let address = b.address();
    b.know(&west, vec![east.peer(Transport::Auto, &[])]);
    a.know(&east, vec![west.peer(Transport::Auto, &[("b", vec![address])])]);
    a.connected(&west, "b", 1).await;
    b.cancel.cancel();
    a.until(&west, "unreachable", |peer| peer.reach == Reach::Unreachable).await;
    let error = a.tunnels.open(&west.cluster, open()).await.unwrap_err();
    assert!(error.sent_nothing());
    // Its sockets close with the last of its tasks.
    drop(b);
    let config = Config { listen: vec![address], ..Config::default() };
    let mut again = loop {
        let free = std::net::UdpSocket::bind(address).is_ok() && std::net::TcpListener::bind(address).is_ok();
        if free {
            break west.gateway_with("b", &[&east], config);
        }
        tokio::task::yield_now().await;
    };
    again.echo();
    again.know(&west, vec![east.peer(Transport::Auto, &[])]);
    a.connected(&west, "b", 1).await;
    greet(&mut a.open(&west).await, "back").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_tunnel_is_replaced_without_a_gap() {
    let (east, west) = (Domain::new("east"), Domain::new("west"));
    let age = Duration::from_millis(200);
    let config = Config { listen: loopback(), max_age: age, ..Config::default() };
    let (a, mut b) = (east.gateway_with("a", &[&west], config), west.gateway("b", &[&east]));
    b.echo();
    b.know(&west, vec![east.peer(Transport::Quic, &[])]);
    a.know(&east, vec![west.peer(Transport::Quic, &[("b", vec![b.address()])])]);
    a.connected(&west, "b", 1).await;
    let mut old = a.open(&west).await;
    greet(&mut old, "hello").await;
    let begun = Instant::now();
    while begun.elapsed() < 8 * age {
        greet(&mut a.open(&west).await, "never refused").await;
    }
    said(&mut old, "and the old one goes on").await;
}
