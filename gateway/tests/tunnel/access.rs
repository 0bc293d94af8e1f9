//! Who gets a tunnel, and who loses it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hansa_core::mesh::Transport;
use hansa_core::reach::Reach;
use hansa_core::spiffe::{Role, SpiffeId};
use hansa_gateway::tunnel::{BindError, Config, Cut, Metrics, StreamError, Tunnels};
use hansa_identity::deny::DenyEntry;
use hansa_identity::tls::{self, ALPN_H2, ALPN_JOIN, Pin, pinned_client};
use hansa_identity::verify::RoleKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::logged;
use super::member::{Domain, LONG, greet};
use super::requests::pair;

/// What is left of a stream whose peer was removed, and how long that took.
async fn cut_when(transport: Transport, remove: impl Fn(&Domain, &super::member::Gateway, &Domain)) {
    let (east, a, west, mut b) = pair(transport).await;
    b.echo();
    let mut stream = a.open(&west).await;
    greet(&mut stream, "hello").await;
    let begun = Instant::now();
    remove(&east, &a, &west);
    let ended = tokio::time::timeout(LONG, stream.recv.data()).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(matches!(ended, Err(StreamError::Lost(Cut::Removed(_)))), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removing_a_peer_cuts_its_live_quic_tunnels_within_a_second() {
    cut_when(Transport::Quic, |east, a, _| a.know(east, Vec::new())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removing_a_peer_cuts_its_live_http2_tunnels_within_a_second() {
    cut_when(Transport::Http2, |east, a, _| a.know(east, Vec::new())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn taking_its_bundle_away_cuts_live_tunnels_within_a_second() {
    cut_when(Transport::Quic, |_, a, west| {
        a.tls.trust().update(|snapshot| {
            snapshot.bundles.remove(&west.trust_domain);
        });
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn denying_its_certificate_cuts_live_tunnels_within_a_second() {
    let (_east, a, west, mut b) = pair(Transport::Quic).await;
    b.echo();
    let mut stream = a.open(&west).await;
    greet(&mut stream, "hello").await;
    let begun = Instant::now();
    let print = b.tls.keys().current().leaf().fingerprint;
    a.tls.trust().update(|snapshot| {
        snapshot.deny.insert(DenyEntry::Fingerprint(print));
    });
    let ended = tokio::time::timeout(LONG, stream.recv.data()).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(matches!(ended, Err(StreamError::Lost(Cut::Removed(_)))), "{ended:?}");
    a.until(&west, "unreachable", |peer| peer.reach == Reach::Unreachable).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_its_own_member_denies_loses_its_tunnels_and_gets_them_back() {
    let (_east, a, west, mut b) = pair(Transport::Quic).await;
    b.echo();
    let says = |of: &Domain, entries: Vec<DenyEntry>| {
        let list = Arc::new(entries.into_iter().collect());
        a.tls.trust().update(|snapshot| snapshot.told.set(&of.trust_domain, Arc::clone(&list)));
    };
    let holder = DenyEntry::Holder(b.tls.keys().id());
    let print = DenyEntry::Fingerprint(b.tls.keys().current().leaf().fingerprint);
    let mut stream = a.open(&west).await;
    greet(&mut stream, "hello").await;
    // The word of another member counts for nothing here.
    says(&Domain::new("north"), vec![holder.clone(), print]);
    let waited = tokio::time::timeout(Duration::from_millis(600), stream.recv.data()).await;
    assert!(waited.is_err(), "{waited:?}");
    super::member::said(&mut stream, "still here").await;
    let begun = Instant::now();
    says(&west, vec![holder]);
    let ended = tokio::time::timeout(LONG, stream.recv.data()).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    let Err(StreamError::Lost(Cut::Removed(why))) = ended else { panic!("{ended:?}") };
    assert!(why.contains("HNS-3005"), "{why}");
    a.until(&west, "unreachable", |peer| peer.reach == Reach::Unreachable).await;
    says(&west, Vec::new());
    a.connected(&west, "b", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_side_learns_that_it_was_removed() {
    let (east, mut a, _west, b) = pair(Transport::Quic).await;
    a.echo();
    let mut stream = b.open(&east).await;
    greet(&mut stream, "hello").await;
    a.know(&east, Vec::new());
    let ended = tokio::time::timeout(LONG, stream.recv.data()).await.unwrap();
    assert!(matches!(&ended, Err(StreamError::Lost(Cut::Removed(_)))), "{ended:?}");
    assert!(ended.unwrap_err().to_string().contains("HNS-5007"));
    b.until(&east, "unreachable", |peer| peer.reach == Reach::Unreachable).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_gets_no_tunnel() {
    logged::listen();
    let (east, west, north) = (Domain::new("east"), Domain::new("west"), Domain::new("north"));
    let (mut a, n) = (east.gateway("a", &[&west]), north.gateway("n", &[&east]));
    a.know(&east, vec![west.peer(Transport::Auto, &[])]);
    n.know(&north, vec![east.peer(Transport::Auto, &[("a", vec![a.address()])])]);
    n.until(&east, "unreachable", |peer| peer.reach == Reach::Unreachable).await;
    match n.tunnels.open(&east.cluster, super::member::open()).await {
        // Early on a dial that has just begun: the refusal is on its way.
        Ok(mut stream) => assert_eq!(stream.recv.response().await.unwrap_err(), StreamError::Rejected),
        Err(error) => assert!(error.sent_nothing(), "{error}"),
    }
    assert!(futures::FutureExt::now_or_never(a.incoming.as_mut().unwrap().recv()).is_none());
    logged::says(&["handshake refused", "\"code\":\"HNS-3001\"", "north"]).await;
    logged::says(&["cannot reach the peer's gateway", "\"code\":\"HNS-4003\"", "\"peer\":\"east\""]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_own_domain_gets_no_tunnel_and_an_address_may_lead_to_ourselves() {
    let (east, west) = (Domain::new("east"), Domain::new("west"));
    let a = east.gateway("a", &[&west]);
    // The table gives our own address as that of a peer's gateway.
    a.know(&east, vec![west.peer(Transport::Auto, &[("b", vec![a.address()])])]);
    a.until(&west, "unreachable", |peer| peer.reach == Reach::Unreachable).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_role_of_a_peer_gets_no_tunnel() {
    let (east, west) = (Domain::new("east"), Domain::new("west"));
    let a = east.gateway("a", &[&west]);
    a.know(&east, vec![west.peer(Transport::Auto, &[])]);
    let server = SpiffeId::of(&east.trust_domain, &Role::Gateway(a.id.clone()));
    for (role, good) in [
        (Role::Controller, false),
        (Role::Dns("d".parse().unwrap()), false),
        (Role::Gateway("g".parse().unwrap()), true),
    ] {
        let client = west.tls(&role, &[&east]).client_to(server.clone(), &[ALPN_H2]);
        let connector = TlsConnector::from(Arc::new(client));
        let tcp = TcpStream::connect(a.address()).await.unwrap();
        let mut stream = connector.connect(tls::server_name(), tcp).await.unwrap();
        // The client's handshake ends before the server has judged it.
        let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
        let mut byte = [0];
        let answered = tokio::time::timeout(LONG, stream.read(&mut byte)).await.unwrap();
        assert_eq!(matches!(answered, Ok(1)), good, "{role:?}: {answered:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joining_stream_is_handed_over() {
    let east = Domain::new("east");
    let mut a = east.gateway("a", &[]);
    let client = pinned_client(Pin::Bundle(east.ca.bundle()), &[RoleKind::Gateway], &[ALPN_JOIN]);
    let connector = TlsConnector::from(Arc::new(client));
    let tcp = TcpStream::connect(a.address()).await.unwrap();
    let mut ours = connector.connect(tls::server_name(), tcp).await.unwrap();
    let mut theirs = tokio::time::timeout(LONG, a.joins.recv()).await.unwrap().unwrap();
    assert_eq!(theirs.from, ours.get_ref().0.local_addr().unwrap());
    ours.write_all(b"ping").await.unwrap();
    let mut four = [0; 4];
    theirs.stream.read_exact(&mut four).await.unwrap();
    assert_eq!(&four, b"ping");
    theirs.stream.write_all(b"pong").await.unwrap();
    ours.read_exact(&mut four).await.unwrap();
    assert_eq!(&four, b"pong");
}

/// UDP and TCP sockets of one number, to keep or to give back. Port 0 would do for one of them alone:
/// a dial of another test may hold the same number in the other protocol. The system gives numbers
/// below 32,768 to nobody who did not ask for one.
fn free_pair() -> (std::net::UdpSocket, std::net::TcpListener) {
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    let start = 20_000 + (std::process::id() % 10_000) as u16;
    loop {
        let number = start + NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 2_000;
        let at = std::net::SocketAddr::from(([127, 0, 0, 1], number));
        if let (Ok(udp), Ok(tcp)) = (std::net::UdpSocket::bind(at), std::net::TcpListener::bind(at)) {
            return (udp, tcp);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_tunnel_port_is_named() {
    let east = Domain::new("east");
    let tls = || east.tls(&Role::Gateway("a".parse().unwrap()), &[]);
    let (_sender, table) = tokio::sync::watch::channel(east.table(Vec::new()));
    let bind = |address: std::net::SocketAddr| {
        let config = Config { listen: vec![address], ..Config::default() };
        Tunnels::bind(config, tls(), table.clone(), Metrics::default()).unwrap_err()
    };
    let ((udp, _), (_, tcp)) = (free_pair(), free_pair());
    for (address, name) in [(udp.local_addr().unwrap(), "udp"), (tcp.local_addr().unwrap(), "tcp")] {
        let BindError::Listen { address: said, lane, source } = bind(address) else {
            panic!("not said where")
        };
        assert_eq!((said, lane), (address, name));
        assert_eq!(source.kind(), std::io::ErrorKind::AddrInUse);
    }
}

#[tokio::test]
async fn a_port_that_comes_free_at_once_is_had() {
    let east = Domain::new("east");
    let tls = east.tls(&Role::Gateway("a".parse().unwrap()), &[]);
    let (_sender, table) = tokio::sync::watch::channel(east.table(Vec::new()));
    // As when the process before was killed and its last thread still runs.
    let (_, before) = free_pair();
    let config = Config { listen: vec![before.local_addr().unwrap()], ..Config::default() };
    let gone = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        drop(before);
    });
    Tunnels::bind(config, tls, table, Metrics::default()).unwrap();
    gone.join().unwrap();
}

/// The first datagrams of a handshake that nobody goes on with.
async fn first_datagram(to: std::net::SocketAddr) -> tokio::net::UdpSocket {
    let trap = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (east, west) = (Domain::new("east"), Domain::new("west"));
    let dialler = east.gateway("x", &[&west]);
    dialler.know(&east, vec![west.peer(Transport::Quic, &[("b", vec![trap.local_addr().unwrap()])])]);
    let mut datagram = vec![0; 2_048];
    let (n, _) = tokio::time::timeout(LONG, trap.recv_from(&mut datagram)).await.unwrap().unwrap();
    let stuck = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    stuck.send_to(&datagram[..n], to).await.unwrap();
    stuck
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_strangers_prove_their_address_first() {
    let (east, west) = (Domain::new("east"), Domain::new("west"));
    let mut config = Config { listen: super::member::loopback(), ..Config::default() };
    config.limits.handshakes = 4;
    let (a, b) = (east.gateway("a", &[&west]), west.gateway_with("b", &[&east], config));
    b.know(&west, vec![east.peer(Transport::Quic, &[])]);
    let _stuck = [first_datagram(b.address()).await, first_datagram(b.address()).await];
    a.know(&east, vec![west.peer(Transport::Quic, &[("b", vec![b.address()])])]);
    a.connected(&west, "b", 1).await;
    assert!(b.metric("hansa_tunnel_handshakes_total", "result=\"retry\"") >= 1.0);
}
