//! Certificates that must not be let in, at the tunnel port, over QUIC and over TCP: each is
//! refused with its code, and the next good one gets its tunnel.

use std::sync::Arc;
use std::time::Duration;

use hansa_core::spiffe::{Role, SpiffeId};
use hansa_identity::tls::{self, ALPN_H2, ALPN_H3, SERVER_NAME};
use http::StatusCode;
use quinn::crypto::rustls::QuicClientConfig;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::attacker::{connect, echo, tunnel};
use super::member::{Domain, LONG};
use super::victim::{Known, Victim};

/// Lets any server in: the attacker does not care.
#[derive(Debug)]
struct Any;

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ED25519]
    }
}

/// A certificate as an attacker would like it.
struct Bad {
    leaf: CertificateDer<'static>,
    key: Vec<u8>,
}

fn uri(id: &SpiffeId) -> SanType {
    SanType::URI(id.to_string().as_str().try_into().unwrap())
}

fn gateway(of: &Domain) -> SpiffeId {
    SpiffeId::of(&of.trust_domain, &Role::Gateway("g".parse().unwrap()))
}

/// Signed by the root of `signer`, for a gateway of `claims`, after `spoil`.
fn bad(signer: &Domain, claims: &Domain, spoil: impl FnOnce(&mut CertificateParams)) -> Bad {
    let (certificate, key) = signer.ca.export_pem();
    let issuer = Issuer::from_ca_cert_pem(&certificate, KeyPair::from_pem(&key).unwrap()).unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![uri(&gateway(claims))];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    spoil(&mut params);
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, &issuer).unwrap().der().clone();
    Bad { leaf, key: key.serialize_der() }
}

fn client(bad: &Bad, alpn: &[u8]) -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivatePkcs8KeyDer::from(bad.key.clone());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Any))
        .with_client_auth_cert(vec![bad.leaf.clone()], key.into())
        .unwrap();
    config.alpn_protocols = vec![alpn.to_vec()];
    config
}

/// True if the victim lets it in over QUIC.
async fn enters_quic(bad: &Bad, victim: &Victim) -> bool {
    let crypto = QuicClientConfig::try_from(client(bad, ALPN_H3)).unwrap();
    let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    let Ok(connection) = endpoint.connect(victim.tunnel, SERVER_NAME).unwrap().await else { return false };
    // Our own handshake ends before the other side has judged us; then come its SETTINGS.
    tokio::time::timeout(LONG, connection.accept_uni()).await.expect("an end or a stream").is_ok()
}

/// True if the victim lets it in over TCP.
async fn enters_tcp(bad: &Bad, victim: &Victim) -> bool {
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client(bad, ALPN_H2)));
    let tcp = TcpStream::connect(victim.tunnel).await.unwrap();
    let Ok(mut stream) = connector.connect(tls::server_name(), tcp).await else { return false };
    let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    matches!(tokio::time::timeout(LONG, stream.read(&mut [0])).await.unwrap(), Ok(1))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_certificate_is_refused_with_its_code() {
    let (peer, stranger) = (Domain::new("peer"), Domain::new("stranger"));
    let known = Known { domain: &peer, addresses: Vec::new() };
    let mut victim = Victim::start(&[known], &[("shop/echo", echo().await)], &[]);
    let role = |role: Role| uri(&SpiffeId::of(&peer.trust_domain, &role));
    let cases = [
        ("an unknown domain", bad(&stranger, &stranger, |_| {}), "HNS-3001"),
        ("a domain of another root", bad(&stranger, &peer, |_| {}), "HNS-3003"),
        ("two names", bad(&peer, &peer, |p| p.subject_alt_names.push(role(Role::Controller))), "HNS-3003"),
        ("no name", bad(&peer, &peer, |p| p.subject_alt_names.clear()), "HNS-3003"),
        ("expired", bad(&peer, &peer, |p| p.not_after = rcgen::date_time_ymd(2020, 1, 1)), "HNS-3002"),
        (
            "an authority",
            bad(&peer, &peer, |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            "HNS-3003",
        ),
        (
            "another role",
            bad(&peer, &peer, |p| p.subject_alt_names = vec![role(Role::Controller)]),
            "HNS-3004",
        ),
    ];
    for (what, bad, code) in &cases {
        for lane in ["quic", "http2"] {
            let part = format!("transport=\"{lane}\",result=\"refused\",code=\"{code}\"");
            let count = || victim.metric("hansa_tunnel_handshakes_total", &part);
            let before = count().await;
            let entered = match lane {
                "quic" => enters_quic(bad, &victim).await,
                _ => enters_tcp(bad, &victim).await,
            };
            assert!(!entered, "{what} over {lane}");
            let begun = std::time::Instant::now();
            while count().await <= before {
                assert!(begun.elapsed() < LONG, "{what} over {lane}: no {code}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    let good = bad(&peer, &peer, |_| {});
    assert!(enters_quic(&good, &victim).await && enters_tcp(&good, &victim).await);
    let tunnel = tunnel(&peer, &victim).await;
    let (_send, mut recv) = tunnel.request(&connect("shop/echo")).await.unwrap();
    assert_eq!(recv.response().await.unwrap().status, StatusCode::OK);
    victim.stayed_small("bad certificates");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostname_that_leads_to_ourselves_is_said_so() {
    let peer = Domain::new("peer");
    let victim = Victim::start(&[Known { domain: &peer, addresses: vec!["SELF".to_owned()] }], &[], &[]);
    let begun = std::time::Instant::now();
    while victim.metric("hansa_tunnel_handshakes_total", "result=\"ourselves\",code=\"HNS-5011\"").await < 1.0
    {
        assert!(begun.elapsed() < LONG, "it never said so");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
