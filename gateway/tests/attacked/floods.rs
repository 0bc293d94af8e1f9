//! Too much of everything: bytes, streams, heads; and those who never read.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use futures::stream::{FuturesUnordered, StreamExt};
use hansa_core::mesh::Transport;
use hansa_gateway::tunnel::{Config, Open, Request};
use http::{HeaderMap, StatusCode};
use tokio::net::TcpStream;

use super::attacker::{answers, connect, echo, quic, sink, tunnel};
use super::member::{Domain, Gateway, LONG, greet, loopback};
use super::victim::{Known, PORT, Victim};

/// Tunnels that one peer may have.
const TUNNELS: usize = 64;

fn silent(domain: &Domain) -> Known<'_> {
    Known { domain, addresses: Vec::new() }
}

/// Sends until nothing more is taken for a while.
async fn push(mut send: hansa_http3::SendStream) -> hansa_http3::SendStream {
    let piece = Bytes::from_static(&[7; 64 << 10]);
    let limit = Duration::from_millis(700);
    let end = std::time::Instant::now() + Duration::from_secs(15);
    while let Ok(Ok(())) = tokio::time::timeout(limit, send.data(piece.clone())).await {
        if std::time::Instant::now() > end {
            break;
        }
    }
    send
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_into_a_service_that_never_reads_stay_small() {
    let (evil, good) = (Domain::new("evil"), Domain::new("good"));
    let services = [("shop/echo", echo().await), ("shop/sink", sink().await)];
    let mut victim = Victim::start(&[silent(&evil), silent(&good)], &services, &[]);
    let attack = (0..TUNNELS).map(|_| async {
        let tunnel = tunnel(&evil, &victim).await;
        let opened = join_all((0..4).map(|_| async {
            let (send, mut recv) = tunnel.request(&connect("shop/sink")).await.ok()?;
            let answered = tokio::time::timeout(Duration::from_secs(20), recv.response()).await;
            answered.ok()?.ok()?;
            Some((push(send).await, recv))
        }));
        (opened.await, tunnel)
    });
    let held = join_all(attack).await;
    let taken = held.iter().flat_map(|(streams, _)| streams).flatten().count();
    assert!(taken > 0, "not one stream got through");
    let honest = tunnel(&good, &victim).await;
    let (mut send, mut recv) = honest.request(&connect("shop/echo")).await.unwrap();
    assert_eq!(recv.response().await.unwrap().status, StatusCode::OK);
    send.data(Bytes::from_static(b"hello")).await.unwrap();
    assert_eq!(recv.data().await.unwrap().unwrap(), "hello");
    victim.stayed_small("floods");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_streams_stay_outside() {
    let (evil, good) = (Domain::new("evil"), Domain::new("good"));
    let mut victim = Victim::start(&[silent(&evil), silent(&good)], &[("shop/echo", echo().await)], &[]);
    let mut opened = 0;
    let mut held = Vec::new();
    for _ in 0..TUNNELS {
        let connection = quic(&evil, &victim).await;
        let limit = Duration::from_millis(100);
        // HEADERS of 16,000 bytes, of which 2,000 come.
        let head = [&[1, 0x80, 0, 0x3e, 0x80][..], &[0; 2_000]].concat();
        let mut streams = Vec::new();
        while let Ok(Ok((mut send, recv))) = tokio::time::timeout(limit, connection.open_bi()).await {
            // What flow control holds back stays on our side.
            let _ = tokio::time::timeout(Duration::from_millis(20), send.write_all(&head)).await;
            streams.push((send, recv));
        }
        opened += streams.len();
        held.push((connection, streams));
    }
    println!("{opened} streams opened");
    assert!(opened < 32_768, "{opened}");
    let honest = tunnel(&good, &victim).await;
    let (_send, mut recv) = honest.request(&connect("shop/echo")).await.unwrap();
    assert_eq!(recv.response().await.unwrap().status, StatusCode::OK);
    victim.stayed_small("a million streams");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunnels_beyond_the_limit_are_closed_and_garbage_ends_its_own() {
    let (evil, good) = (Domain::new("evil"), Domain::new("good"));
    let mut victim = Victim::start(&[silent(&evil), silent(&good)], &[("shop/echo", echo().await)], &[]);
    let honest = tunnel(&good, &victim).await;
    let tunnels = join_all((0..TUNNELS + 8).map(|_| quic(&evil, &victim))).await;
    let mut closed: FuturesUnordered<_> = tunnels.iter().map(|tunnel| tunnel.closed()).collect();
    for _ in 0..8 {
        let why = tokio::time::timeout(LONG, closed.next()).await.unwrap().unwrap().to_string();
        assert!(why.contains("HNS-5008"), "{why}");
    }
    let ninth = tokio::time::timeout(Duration::from_millis(500), closed.next()).await;
    assert!(ninth.is_err(), "{ninth:?}");
    drop(closed);
    for tunnel in &tunnels {
        // A control stream that begins with DATA, and random bytes as a request.
        if let Ok(mut uni) = tunnel.open_uni().await {
            let _ = uni.write_all(&[0, 0, 4, 1, 2, 3, 4]).await;
        }
        if let Ok((mut bidi, _)) = tunnel.open_bi().await {
            let _ = bidi.write_all(&[0xff; 900]).await;
        }
    }
    for tunnel in &tunnels {
        tokio::time::timeout(Duration::from_secs(10), tunnel.closed()).await.expect("closed for garbage");
    }
    victim.says(&["tunnel ended", "\"code\":\"HNS-5012\"", "\"peer\":\"evil\""]).await;
    let (_send, mut recv) = honest.request(&connect("shop/echo")).await.unwrap();
    assert_eq!(recv.response().await.unwrap().status, StatusCode::OK);
    victim.stayed_small("garbage");
}

/// Answers at once; sends without end where the authority says so, else what it gets.
fn serve(gateway: &mut Gateway) {
    let mut incoming = gateway.incoming.take().unwrap();
    tokio::spawn(async move {
        while let Some(Request { authority, responder, mut recv, .. }) = incoming.recv().await {
            tokio::spawn(async move {
                let answered = responder.respond(StatusCode::OK, HeaderMap::new()).await;
                let Ok(mut send) = answered else { return };
                let piece = Bytes::from_static(&[7; 32 << 10]);
                while authority.starts_with("flood") && send.data(piece.clone()).await.is_ok() {}
                while let Ok(Some(piece)) = recv.data().await {
                    if send.data(piece).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
}

async fn clients_that_never_read(transport: Transport) {
    let peer = Domain::new("peer");
    let known =
        |address: std::net::SocketAddr| [Known { domain: &peer, addresses: vec![address.to_string()] }];
    let services = [("shop/echo", "peer"), ("shop/flood", "peer")];
    // The peer must trust the victim, whose certificates are made when it starts.
    let reserved = match transport {
        Transport::Http2 => "127.96.0.2:15443",
        _ => "127.96.0.1:15443",
    };
    let reserved = reserved.parse().unwrap();
    let mut victim = Victim::start(&known(reserved), &[], &services);
    let config = Config { listen: vec![reserved], ..Config::default() };
    let mut gateway = peer.gateway_with("g", &[&victim.domain], config);
    gateway.know(&peer, vec![victim.domain.peer(transport, &[])]);
    serve(&mut gateway);
    answers(victim.vip(0)).await;
    let never = (0..24).map(|_| TcpStream::connect(victim.vip(1)));
    let held: Vec<_> = join_all(never).await.into_iter().map(Result::unwrap).collect();
    for _ in 0..20 {
        answers(victim.vip(0)).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(held.len(), 24);
    victim.stayed_small("clients that never read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_never_read_stall_themselves() {
    clients_that_never_read(Transport::Auto).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_never_read_stall_themselves_over_tcp() {
    clients_that_never_read(Transport::Http2).await;
}

/// A reader that stalls holds up nobody, and one that holds too much ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_reader_is_ended_when_others_need_the_room() {
    a_stalled_reader(Transport::Quic).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_reader_is_ended_when_others_need_the_room_over_tcp() {
    a_stalled_reader(Transport::Http2).await;
}

/// To end it would give room to nobody, however little there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_reader_for_which_nothing_waits_stays() {
    let (east, west) = (Domain::new("east"), Domain::new("west"));
    let mut config = Config { listen: loopback(), ..Config::default() };
    config.limits.bytes_per_peer = 0;
    let (a, mut b) = (east.gateway_with("a", &[&west], config), west.gateway("b", &[&east]));
    serve(&mut b);
    a.know(&east, vec![west.peer(Transport::Http2, &[("b", vec![b.address()])])]);
    b.know(&west, vec![east.peer(Transport::Http2, &[])]);
    a.connected(&west, "b", 1).await;
    let mut stream = a.open(&west).await;
    greet(&mut stream, "one piece, and never another").await;
    // Longer than any look at it takes to end one.
    let ended = tokio::time::timeout(Duration::from_millis(3_500), stream.recv.evicted()).await;
    assert!(ended.is_err(), "it was told to end");
}

async fn a_stalled_reader(transport: Transport) {
    let (east, west) = (Domain::new("east"), Domain::new("west"));
    let mut config = Config {
        stream_window: 1 << 20,
        connection_window: 2 << 20,
        listen: loopback(),
        ..Config::default()
    };
    config.limits.bytes_per_peer = 8 << 20;
    let (a, mut b) = (east.gateway_with("a", &[&west], config), west.gateway("b", &[&east]));
    serve(&mut b);
    a.know(&east, vec![west.peer(transport, &[("b", vec![b.address()])])]);
    b.know(&west, vec![east.peer(transport, &[])]);
    a.connected(&west, "b", 1).await;
    let (tunnels, peer) = (a.tunnels.clone(), west.cluster.clone());
    let ended = Arc::new(AtomicUsize::new(0));
    for _ in 0..16 {
        let (tunnels, peer, ended) = (tunnels.clone(), peer.clone(), ended.clone());
        tokio::spawn(async move {
            let authority = format!("flood.shop.svc.clusterset.local:{PORT}");
            let mut stream = tunnels.open(&peer, Open { authority, ..Open::default() }).await.unwrap();
            stream.recv.response().await.unwrap();
            // One piece is read, and never another.
            stream.recv.data().await.unwrap();
            stream.recv.evicted().await;
            ended.fetch_add(1, Ordering::SeqCst);
        });
    }
    let begun = std::time::Instant::now();
    while ended.load(Ordering::SeqCst) == 0 {
        assert!(begun.elapsed() < LONG, "nobody was told to end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    greet(&mut a.open(&west).await, "small").await;
    assert!(ended.load(Ordering::SeqCst) < 16, "no more than needed");
}
