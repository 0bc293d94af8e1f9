//! The first request of a tunnel, right behind our half of the handshake.

use std::sync::Arc;

use bytes::Bytes;
use hansa_core::mesh::Transport;
use hansa_core::spiffe::Role;
use hansa_gateway::tunnel::{Open, OpenError, Stream, StreamError};
use hansa_http3 as http3;
use hansa_identity::tls::ALPN_H3;
use hansa_identity::verify::{Admit, Domains, RoleKind};
use http::{HeaderMap, StatusCode};
use quinn::crypto::rustls::QuicServerConfig;

use super::member::{Domain, Gateway, LONG, open};

/// A gateway of `of` that takes the handshake of those who are `trusted` and says nothing by itself.
fn silent(of: &Domain, trusted: &[&Domain]) -> quinn::Endpoint {
    let identity = of.tls(&Role::Gateway("b".parse().unwrap()), trusted);
    let admit = Admit::roles(Domains::AnyBut(of.trust_domain.clone()), [RoleKind::Gateway]);
    let crypto = QuicServerConfig::try_from(identity.server(admit, &[ALPN_H3])).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    quinn::Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap()
}

/// Asks as soon as there is a tunnel, however young.
async fn ask(a: &Gateway, west: &Domain) -> Result<Stream, OpenError> {
    let mut turns = a.tunnels.turns();
    while !a.tunnels.leads_to(&west.cluster) {
        tokio::time::timeout(LONG, turns.changed()).await.expect("a tunnel in time").unwrap();
    }
    let first = Open { first: Bytes::from_static(b"first bytes"), ..open() };
    a.tunnels.open(&west.cluster, first).await
}

fn members() -> (Domain, Domain, Gateway) {
    let (east, west) = (Domain::new("east"), Domain::new("west"));
    let a = east.gateway("a", &[&west]);
    (east, west, a)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_does_not_wait_until_the_peer_has_shown_that_it_takes_us() {
    let (east, west, a) = members();
    let b = silent(&west, &[&east]);
    a.know(&east, vec![west.peer(Transport::Quic, &[("b", vec![b.local_addr().unwrap()])])]);
    let (asked, served) = tokio::join!(ask(&a, &west), async {
        let connection = b.accept().await.unwrap().await.unwrap();
        // The request is there although no SETTINGS were sent: http3 has not begun on this side.
        tokio::time::timeout(LONG, async {
            while connection.stats().frame_rx.stream < 2 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("a control stream and a request");
        assert!(
            a.tunnels
                .reach()
                .borrow()
                .peers
                .values()
                .all(|peer| peer.gateways.values().all(|g| g.tunnels == 0)),
            "who has not answered is not reachable"
        );
        let (link, driver, mut requests) =
            http3::start(connection, http3::Role::Responder, http3::Config::default());
        let driving = tokio::spawn(driver.run());
        let (_, respond, mut recv) = requests.next().await.unwrap();
        let ok = http3::ResponseHead { status: StatusCode::OK, headers: HeaderMap::new() };
        let mut send = respond.respond(&ok).await.unwrap();
        assert_eq!(recv.data().await.unwrap().unwrap(), "first bytes");
        send.data(Bytes::from_static(b"answer")).await.unwrap();
        (link, driving, send)
    });
    let mut stream = asked.unwrap();
    assert_eq!(stream.recv.response().await.unwrap().status, StatusCode::OK);
    assert_eq!(stream.recv.data().await.unwrap().unwrap(), "answer");
    a.connected(&west, "b", 1).await;
    drop(served);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_peer_that_refuses_us_was_sent_may_be_sent_elsewhere() {
    let (east, west, a) = members();
    let b = silent(&west, &[&east]);
    a.know(&east, vec![west.peer(Transport::Quic, &[("b", vec![b.local_addr().unwrap()])])]);
    let (asked, ()) = tokio::join!(ask(&a, &west), async {
        let connection = b.accept().await.unwrap().await.unwrap();
        // Kept: dropped before the connection is closed, it would end the stream with a FIN of its own.
        let _unread = connection.accept_bi().await.unwrap();
        connection.close(http3::Code::H3_REQUEST_REJECTED.quic(), b"you are no peer of ours");
        connection.closed().await;
    });
    let answer = asked.unwrap().recv.response().await.unwrap_err();
    assert_eq!(answer, StreamError::Rejected);
    assert!(answer.sent_nothing());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_does_not_trust_us_never_costs_a_request() {
    let (east, west, a) = members();
    // It knows nobody: the handshake fails on its side, behind ours.
    let b = silent(&west, &[]);
    a.know(&east, vec![west.peer(Transport::Quic, &[("b", vec![b.local_addr().unwrap()])])]);
    let refuse = tokio::spawn(async move {
        while let Some(incoming) = b.accept().await {
            assert!(incoming.await.is_err());
        }
    });
    for _ in 0..3 {
        match ask(&a, &west).await {
            Ok(mut stream) => assert_eq!(stream.recv.response().await.unwrap_err(), StreamError::Rejected),
            Err(error) => assert!(error.sent_nothing(), "{error}"),
        }
    }
    refuse.abort();
}
