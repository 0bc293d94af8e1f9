//! The same promises over QUIC, where resumption and early data are easiest to get.

use std::net::SocketAddr;
use std::sync::Arc;

use hansa_identity::tls::{ALPN_H3, SERVER_NAME, Tls, peer_id};
use hansa_identity::verify::describe_text;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connection, Endpoint, ServerConfig};
use rustls::client::Resumption;
use rustls_pki_types::CertificateDer;
use tokio::time::timeout;

use crate::fixture::*;

fn listen(tls: &Tls) -> Endpoint {
    let config = tls.server(any_gateway(), &[ALPN_H3]);
    let config = QuicServerConfig::try_from(config).unwrap();
    let config = ServerConfig::with_crypto(Arc::new(config));
    Endpoint::server(config, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap()
}

/// A client whose configuration a hostile peer would choose: it keeps tickets and sends early data.
fn dialler(tls: &Tls) -> Endpoint {
    let mut config = tls.client_to_gateways(domain("a"), &[ALPN_H3]);
    config.resumption = Resumption::in_memory_sessions(32);
    config.enable_early_data = true;
    let config = QuicClientConfig::try_from(config).unwrap();
    let mut endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    endpoint.set_default_client_config(ClientConfig::new(Arc::new(config)));
    endpoint
}

/// Both ends of a connection that carried a stream, or the server's reason for refusing.
async fn connect(server: &Endpoint, client: &Endpoint) -> Result<(Connection, Connection), String> {
    let connecting = client.connect(server.local_addr().unwrap(), SERVER_NAME).unwrap();
    let dial = async {
        // No ticket was ever given, so early data has nothing to start from.
        let connection = match connecting.into_0rtt() {
            Ok(_) => return Err("early data was possible".to_owned()),
            Err(connecting) => connecting.await.map_err(|e| e.to_string())?,
        };
        let (mut send, mut receive) = connection.open_bi().await.map_err(|e| e.to_string())?;
        send.write_all(b"c").await.map_err(|e| e.to_string())?;
        send.finish().map_err(|e| e.to_string())?;
        receive.read_to_end(8).await.map_err(|e| e.to_string())?;
        Ok(connection)
    };
    let accept = async {
        let incoming = server.accept().await.ok_or("endpoint closed")?;
        let connection = incoming.await.map_err(|e| e.to_string())?;
        let (mut send, mut receive) = connection.accept_bi().await.map_err(|e| e.to_string())?;
        receive.read_to_end(8).await.map_err(|e| e.to_string())?;
        send.write_all(b"s").await.map_err(|e| e.to_string())?;
        send.finish().map_err(|e| e.to_string())?;
        Ok::<_, String>(connection)
    };
    let ends = timeout(LIMIT, async { tokio::join!(dial, accept) }).await;
    let (dialled, accepted) = ends.map_err(|e| e.to_string())?;
    let accepted = accepted?;
    Ok((dialled?, accepted))
}

fn id_of(connection: &Connection) -> String {
    let identity = connection.peer_identity().unwrap();
    let certs = identity.downcast::<Vec<CertificateDer<'static>>>().unwrap();
    peer_id(&certs).unwrap().to_string()
}

#[tokio::test]
async fn a_removed_peer_stays_out_and_gets_no_early_data() {
    let (a, b) = (Member::new("a"), Member::new("b"));
    let (at_a, at_b) = (a.tls(&gateway(), &[&a, &b]), b.tls(&gateway(), &[&a, &b]));
    let (server, client) = (listen(&at_a), dialler(&at_b));
    for _ in 0..2 {
        let (dialled, accepted) = connect(&server, &client).await.unwrap();
        assert_eq!(id_of(&accepted), "spiffe://b/hansa/gateway/g-1");
        assert_eq!(id_of(&dialled), "spiffe://a/hansa/gateway/g-1");
    }
    at_a.trust().update(|snapshot| drop(snapshot.bundles.remove(&domain("b"))));
    let refused = connect(&server, &client).await.unwrap_err();
    let expected = "HNS-3001 no trust bundle is held for trust domain b";
    assert_eq!(describe_text(&refused), expected);
}

#[tokio::test]
async fn keys_and_roots_are_swapped_without_touching_the_endpoint() {
    let (mut a, b) = (Member::new("a"), Member::new("b"));
    let (at_a, at_b) = (a.tls(&gateway(), &[&a, &b]), b.tls(&gateway(), &[&a, &b]));
    let (server, client) = (listen(&at_a), dialler(&at_b));
    let (before, _kept) = connect(&server, &client).await.unwrap();

    a.ca.prepare_next(now()).unwrap();
    at_b.trust().update(|snapshot| snapshot.bundles.insert(a.bundle().into()));
    let consent = hansa_identity::rotate::Consent { acknowledged: true, force: false };
    a.ca.activate_next(now(), consent).unwrap();
    at_a.keys().replace(a.identity(&gateway())).unwrap();
    at_b.keys().replace(b.identity(&gateway())).unwrap();
    let (after, accepted) = connect(&server, &client).await.unwrap();
    let leaf = |connection: &Connection| {
        let identity = connection.peer_identity().unwrap();
        identity.downcast::<Vec<CertificateDer<'static>>>().unwrap()[0].clone()
    };
    assert_ne!(leaf(&before), leaf(&after));
    assert_eq!(leaf(&accepted), at_b.keys().current().chain()[0]);
    assert!(before.close_reason().is_none());
}
