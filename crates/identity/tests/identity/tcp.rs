//! Real TLS handshakes over TCP: who gets in, who stays out, and what is swapped without a restart.

use std::sync::Arc;

use hansa_core::spiffe::{Role, SpiffeId};
use hansa_identity::deny::DenyEntry;
use hansa_identity::tls::{self, ALPN_ENROLL, ALPN_H2, ALPN_JOIN, Pin, Tls};
use hansa_identity::token::{Secret, channel_binding, prove, verify_proof};
use hansa_identity::verify::{RoleKind, VerifyError, reason};
use rustls::client::Resumption;
use rustls::{ClientConfig, HandshakeKind, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::fixture::*;

type Ends = (client::TlsStream<TcpStream>, server::TlsStream<TcpStream>);

/// Both ends after a byte went each way, or the error of the end that refused.
async fn connect(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>) -> std::io::Result<Ends> {
    timeout(LIMIT, async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let accept = async {
            let (stream, _) = listener.accept().await?;
            let mut stream = TlsAcceptor::from(server.clone()).accept(stream).await?;
            stream.write_all(b"s").await?;
            stream.read_u8().await?;
            Ok(stream)
        };
        let dial = async {
            let connector = TlsConnector::from(client.clone());
            let stream = TcpStream::connect(address).await?;
            let mut stream = connector.connect(tls::server_name(), stream).await?;
            stream.write_all(b"c").await?;
            stream.flush().await?;
            stream.read_u8().await?;
            Ok(stream)
        };
        match tokio::join!(dial, accept) {
            (Ok(client), Ok(server)) => Ok((client, server)),
            // The end with a reason of its own is the one that refused.
            (Err(error), Ok(_)) | (Ok(_), Err(error)) => Err(error),
            (Err(client), Err(server)) => Err(if reason(&client).is_some() { client } else { server }),
        }
    })
    .await?
}

fn pair(a: &Member, b: &Member) -> (Tls, Tls) {
    (a.tls(&gateway(), &[a, b]), b.tls(&gateway(), &[a, b]))
}

#[tokio::test]
async fn two_members_meet_and_know_each_other() {
    let (a, b) = (Member::new("a"), Member::new("b"));
    let (at_a, at_b) = pair(&a, &b);
    let server = Arc::new(at_a.server(any_gateway(), &[ALPN_H2]));
    let client = Arc::new(at_b.client_to_gateways(domain("a"), &[ALPN_H2]));
    let (client, server) = connect(&server, &client).await.unwrap();
    let seen = tls::peer_id(server.get_ref().1.peer_certificates().unwrap()).unwrap();
    assert_eq!(seen, id("spiffe://b/hansa/gateway/g-1"));
    let seen = tls::peer_leaf(client.get_ref().1.peer_certificates().unwrap()).unwrap();
    assert_eq!(seen.id, id("spiffe://a/hansa/gateway/g-1"));
    assert_eq!(client.get_ref().1.alpn_protocol(), Some(ALPN_H2));
    assert_eq!(client.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
}

#[tokio::test]
async fn a_removed_peer_stays_out_though_it_tries_to_resume() {
    let (a, b) = (Member::new("a"), Member::new("b"));
    let (at_a, at_b) = pair(&a, &b);
    let server = Arc::new(at_a.server(any_gateway(), &[ALPN_H2]));
    // A client that keeps every ticket it gets and would send early data.
    let mut client = at_b.client_to_gateways(domain("a"), &[ALPN_H2]);
    client.resumption = Resumption::in_memory_sessions(32);
    client.enable_early_data = true;
    let client = Arc::new(client);
    for _ in 0..3 {
        let (client, server) = connect(&server, &client).await.unwrap();
        assert_ne!(server.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
        assert_eq!(client.get_ref().1.tls13_tickets_received(), 0);
        assert!(!client.get_ref().1.is_early_data_accepted());
    }
    at_a.trust().update(|snapshot| drop(snapshot.bundles.remove(&domain("b"))));
    let refused = connect(&server, &client).await.unwrap_err();
    assert_eq!(reason(&refused), Some(&VerifyError::UnknownDomain(domain("b"))));
}

#[tokio::test]
async fn our_client_does_not_resume_with_a_server_that_offers_it() {
    let (a, b) = (Member::new("a"), Member::new("b"));
    let (at_a, at_b) = pair(&a, &b);
    let mut server = at_a.server(any_gateway(), &[ALPN_H2]);
    server.session_storage = rustls::server::ServerSessionMemoryCache::new(32);
    server.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
    server.send_tls13_tickets = 2;
    server.max_early_data_size = 1024;
    let server = Arc::new(server);
    let client = Arc::new(at_b.client_to_gateways(domain("a"), &[ALPN_H2]));
    for _ in 0..2 {
        let (client, _server) = connect(&server, &client).await.unwrap();
        assert_ne!(client.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
    }
    at_b.trust().update(|snapshot| drop(snapshot.bundles.remove(&domain("a"))));
    let refused = connect(&server, &client).await.unwrap_err();
    assert_eq!(reason(&refused), Some(&VerifyError::UnknownDomain(domain("a"))));
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let a = Member::new("a");
    let at_a = a.tls(&gateway(), &[&a]);
    let server = Arc::new(at_a.server(any_gateway(), &[ALPN_H2]));
    let client = tls::pinned_client(Pin::Bundle(a.bundle()), &[RoleKind::Gateway], &[ALPN_H2]);
    connect(&server, &Arc::new(client)).await.unwrap_err();
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let a = Member::new("a");
    let at_a = a.tls(&gateway(), &[&a]);
    let server = Arc::new(at_a.server(any_gateway(), &[]));
    let old = ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    connect(&server, &Arc::new(old)).await.unwrap_err();
}

#[tokio::test]
async fn keys_and_bundles_are_swapped_under_the_same_configurations() {
    let (a, mut b) = (Member::new("a"), Member::new("b"));
    let (at_a, at_b) = pair(&a, &b);
    let server = Arc::new(at_a.server(any_gateway(), &[ALPN_H2]));
    let client = Arc::new(at_b.client_to_gateways(domain("a"), &[ALPN_H2]));
    let (mut before, mut before_server) = connect(&server, &client).await.unwrap();
    let old = tls::peer_leaf(before.get_ref().1.peer_certificates().unwrap()).unwrap();

    at_a.keys().replace(a.identity(&gateway())).unwrap();
    let (after, _kept) = connect(&server, &client).await.unwrap();
    let new = tls::peer_leaf(after.get_ref().1.peer_certificates().unwrap()).unwrap();
    assert_ne!(old.fingerprint, new.fingerprint);

    // The other side's root changes too: published, taken over, and only then used.
    b.ca.prepare_next(now()).unwrap();
    at_a.trust().update(|snapshot| snapshot.bundles.insert(b.bundle().into()));
    let consent = hansa_identity::rotate::Consent { acknowledged: true, force: false };
    b.ca.activate_next(now(), consent).unwrap();
    at_b.keys().replace(b.identity(&gateway())).unwrap();
    let (_kept, server_end) = connect(&server, &client).await.unwrap();
    let seen = tls::peer_leaf(server_end.get_ref().1.peer_certificates().unwrap()).unwrap();
    assert_eq!(seen.fingerprint, at_b.keys().current().leaf().fingerprint);

    // The connection from before all this still carries bytes.
    before.write_all(b"x").await.unwrap();
    before.flush().await.unwrap();
    assert_eq!(timeout(LIMIT, before_server.read_u8()).await.unwrap().unwrap(), b'x');
}

#[tokio::test]
async fn a_denied_leaf_is_refused_from_the_next_handshake_on() {
    let (a, b) = (Member::new("a"), Member::new("b"));
    let (at_a, at_b) = pair(&a, &b);
    let server = Arc::new(at_a.server(any_gateway(), &[ALPN_H2]));
    let client = Arc::new(at_b.client_to_gateways(domain("a"), &[ALPN_H2]));
    connect(&server, &client).await.unwrap();
    let print = at_b.keys().current().leaf().fingerprint;
    at_a.trust().update(|snapshot| {
        snapshot.deny.insert(DenyEntry::Fingerprint(print));
    });
    let refused = connect(&server, &client).await.unwrap_err();
    assert!(matches!(reason(&refused), Some(VerifyError::Denied(_))));
    at_b.keys().replace(b.identity(&gateway())).unwrap();
    connect(&server, &client).await.unwrap();
}

#[tokio::test]
async fn joining_and_enrolling_clients_know_the_server_by_a_pin() {
    let (a, evil) = (Member::new("a"), Member::new("evil"));
    let at_a = a.tls(&Role::Controller, &[&a]);
    let server = Arc::new(at_a.server_without_client_auth(&[ALPN_JOIN, ALPN_ENROLL]));
    let print = a.ca.active_root().fingerprint();
    let client = |pin, alpn| Arc::new(tls::pinned_client(pin, &[RoleKind::Controller], &[alpn]));

    let (client_end, server_end) =
        connect(&server, &client(Pin::Root(domain("a"), print), ALPN_ENROLL)).await.unwrap();
    let secret = Secret::generate().unwrap();
    let (here, there) = (client_end.get_ref().1, server_end.get_ref().1);
    let proof = prove(&secret, &channel_binding(here).unwrap(), &[b"id", b"csr"]);
    let binding = channel_binding(there).unwrap();
    assert!(verify_proof(&secret, &binding, &[b"id", b"csr"], &proof));
    assert!(!verify_proof(&secret, &binding, &[b"idc", b"sr"], &proof));

    connect(&server, &client(Pin::Bundle(a.bundle()), ALPN_JOIN)).await.unwrap();
    let wrong = evil.ca.active_root().fingerprint();
    for pin in [Pin::Root(domain("a"), wrong), Pin::Root(domain("evil"), print), Pin::Bundle(evil.bundle())] {
        let refused = connect(&server, &client(pin, ALPN_ENROLL)).await.unwrap_err();
        assert!(reason(&refused).is_some(), "{refused}");
    }
    // The other protocols stay closed here.
    connect(&server, &client(Pin::Bundle(a.bundle()), ALPN_H2)).await.unwrap_err();
}

#[tokio::test]
async fn a_proof_is_worth_nothing_on_another_connection() {
    let a = Member::new("a");
    let at_a = a.tls(&Role::Controller, &[&a]);
    let server = Arc::new(at_a.server_without_client_auth(&[ALPN_JOIN]));
    let pin = Pin::Bundle(a.bundle());
    let client = Arc::new(tls::pinned_client(pin, &[RoleKind::Controller], &[ALPN_JOIN]));
    let secret = Secret::generate().unwrap();
    let (first, _first) = connect(&server, &client).await.unwrap();
    let (_second, second) = connect(&server, &client).await.unwrap();
    let proof = prove(&secret, &channel_binding(first.get_ref().1).unwrap(), &[]);
    assert!(!verify_proof(&secret, &channel_binding(second.get_ref().1).unwrap(), &[], &proof));
}

#[tokio::test]
async fn the_wrong_server_is_refused_by_the_client() {
    let (a, b) = (Member::new("a"), Member::new("b"));
    let (at_a, at_b) = pair(&a, &b);
    let server = Arc::new(at_a.server(any_gateway(), &[ALPN_H2]));
    for expected in [SpiffeId::of(&domain("a"), &Role::Controller), id("spiffe://b/hansa/gateway/g-1")] {
        let client = Arc::new(at_b.client_to(expected, &[ALPN_H2]));
        let refused = connect(&server, &client).await.unwrap_err();
        assert!(matches!(reason(&refused), Some(VerifyError::NotAdmitted(_))), "{refused}");
    }
}
