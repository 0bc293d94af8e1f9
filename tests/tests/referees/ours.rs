//! Our end of the wire: hansa-http3 on quinn, with certificates made for the test.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hansa_http3::{Config, Connection, ConnectionError, RecvStream, Requests, Role, StreamError, start};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::task::JoinHandle;

/// A certificate for `localhost` that signs itself, in memory and as files.
pub(crate) struct Certificate {
    der: CertificateDer<'static>,
    key: Vec<u8>,
    folder: tempfile::TempDir,
}

impl Certificate {
    pub(crate) fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("chain.pem"), made.cert.pem()).unwrap();
        std::fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        Self { der: made.cert.into(), key: made.signing_key.serialize_der(), folder }
    }

    pub(crate) fn chain(&self) -> PathBuf {
        self.folder.path().join("chain.pem")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }
}

/// Our side of one connection, its driver running.
pub(crate) struct End {
    pub(crate) connection: Connection,
    pub(crate) requests: Requests,
    pub(crate) driver: JoinHandle<ConnectionError>,
    /// Keeps the socket open.
    _endpoint: quinn::Endpoint,
}

fn end(quic: quinn::Connection, role: Role, endpoint: quinn::Endpoint) -> End {
    let (connection, driver, requests) = start(quic, role, Config::default());
    End { connection, requests, driver: tokio::spawn(driver.run()), _endpoint: endpoint }
}

/// A server of ours that waits for one connection.
pub(crate) struct Listener {
    pub(crate) port: u16,
    endpoint: quinn::Endpoint,
}

impl Listener {
    pub(crate) fn new(certificate: &Certificate) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivatePkcs8KeyDer::from(certificate.key.clone());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der.clone()], key.into())
            .unwrap();
        tls.alpn_protocols = vec![b"h3".to_vec()];
        let crypto = QuicServerConfig::try_from(tls).unwrap();
        let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        let endpoint = quinn::Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
        Self { port: endpoint.local_addr().unwrap().port(), endpoint }
    }

    /// The next connection, to be served.
    pub(crate) async fn accept(&self) -> End {
        let quic = self.endpoint.accept().await.unwrap().await.unwrap();
        end(quic, Role::Responder, self.endpoint.clone())
    }
}

/// A connection of ours to a server on the loopback, to ask over.
pub(crate) async fn dial(certificate: &Certificate, port: u16) -> End {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.der.clone()).unwrap();
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let crypto = QuicClientConfig::try_from(tls).unwrap();
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let address = ([127, 0, 0, 1], port).into();
    let quic = endpoint.connect_with(config, address, "localhost").unwrap().await.unwrap();
    end(quic, Role::Requester, endpoint)
}

/// All content, and how the stream ended.
pub(crate) async fn read(recv: &mut RecvStream) -> (Vec<u8>, Result<(), StreamError>) {
    let mut all = Vec::new();
    loop {
        match recv.data().await {
            Ok(Some(piece)) => all.extend_from_slice(&piece),
            Ok(None) => return (all, Ok(())),
            Err(error) => return (all, Err(error)),
        }
    }
}

/// All content of a stream that ends cleanly.
pub(crate) async fn read_all(recv: &mut RecvStream) -> Vec<u8> {
    let (all, end) = read(recv).await;
    assert_eq!(end, Ok(()));
    all
}

/// Any test that hangs is a failure.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("hangs")
}

pub(crate) fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
