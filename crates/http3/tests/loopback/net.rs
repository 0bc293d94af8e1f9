//! Two ends of one QUIC connection on the loopback, with HTTP/3 on one or both.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hansa_http3::{Config, Connection, ConnectionError, RecvStream, Requests, Role, start};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::task::JoinHandle;

/// A connected pair; the endpoints live as long as it does.
pub(crate) struct Wire {
    pub(crate) client: quinn::Connection,
    pub(crate) server: quinn::Connection,
    _endpoints: [quinn::Endpoint; 2],
}

pub(crate) async fn wire() -> Wire {
    wire_with(quinn::TransportConfig::default()).await
}

/// `server` is the dialled side's transport.
pub(crate) async fn wire_with(server: quinn::TransportConfig) -> Wire {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = CertificateDer::from(signed.cert);
    let key = PrivatePkcs8KeyDer::from(signed.signing_key.serialize_der());
    let versions = [&rustls::version::TLS13];

    let mut tls = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.into())
        .unwrap();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let crypto = QuicServerConfig::try_from(tls).unwrap();
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(Arc::new(server));
    let dialled = quinn::Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();

    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let crypto = QuicClientConfig::try_from(tls).unwrap();
    let dialler = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let address = dialled.local_addr().unwrap();
    let connecting = dialler.connect_with(config, address, "localhost").unwrap();
    let accepting = async { dialled.accept().await.unwrap().await.unwrap() };
    let (client, server) = tokio::join!(connecting, accepting);
    Wire { client: client.unwrap(), server, _endpoints: [dialler, dialled] }
}

/// One of our ends with its driver running.
pub(crate) struct End {
    pub(crate) connection: Connection,
    pub(crate) requests: Requests,
    pub(crate) driver: JoinHandle<ConnectionError>,
}

pub(crate) fn end(quic: quinn::Connection, role: Role, config: Config) -> End {
    let (connection, driver, requests) = start(quic, role, config);
    End { connection, requests, driver: tokio::spawn(driver.run()) }
}

/// Who dials the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialler {
    Requester,
    Responder,
}

pub(crate) const BOTH: [Dialler; 2] = [Dialler::Requester, Dialler::Responder];

/// Two of our ends: requester, responder, and what keeps them up.
pub(crate) async fn pair(dialler: Dialler) -> (End, End, Wire) {
    pair_with(dialler, Config::default(), Config::default()).await
}

pub(crate) async fn pair_with(dialler: Dialler, asks: Config, serves: Config) -> (End, End, Wire) {
    let wire = wire().await;
    let (asking, serving) = match dialler {
        Dialler::Requester => (wire.client.clone(), wire.server.clone()),
        Dialler::Responder => (wire.server.clone(), wire.client.clone()),
    };
    let requester = end(asking, Role::Requester, asks);
    let responder = end(serving, Role::Responder, serves);
    (requester, responder, wire)
}

/// All content up to the clean end.
pub(crate) async fn read_all(recv: &mut RecvStream) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(piece) = recv.data().await.unwrap() {
        all.extend_from_slice(&piece);
    }
    all
}

/// Any test that hangs is a failure, soon.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, future).await.expect("hangs")
}

pub(crate) fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}
