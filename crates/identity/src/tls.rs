//! TLS configurations for every kind of hansa connection, over QUIC and over TCP.
//!
//! Gateways, controllers, DNS servers and the CLI take their `rustls` configurations from here and
//! nowhere else. TLS 1.3 only; no resumption, no tickets, no early data: each of them would skip the
//! verifier and let a removed peer back in. Key and trust are read in every handshake, so a
//! configuration is made once and lives as long as its endpoint.

use std::sync::{Arc, LazyLock};

use hansa_core::spiffe::{Role, SpiffeId, TrustDomain};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ConfigBuilder, ConfigSide, ServerConfig, SignatureScheme, WantsVerifier};
use rustls_pki_types::{CertificateDer, ServerName};

use crate::bundle::Bundle;
use crate::cert::Fingerprint;
use crate::store::Keys;
use crate::verify::{Admit, Domains, PinnedVerifier, RoleKind, Trust, TrustSnapshot, Verifier};

pub use crate::cert::{peer_id, peer_leaf};

/// ALPN of HTTP/3 tunnels.
pub const ALPN_H3: &[u8] = b"h3";
/// ALPN of HTTP/2 tunnels.
pub const ALPN_H2: &[u8] = b"h2";
/// ALPN of HTTP/3 tunnels whose roles turn round after the handshake.
pub const ALPN_REV_H3: &[u8] = b"hansa-rev-h3";
/// ALPN of HTTP/2 tunnels whose roles turn round after the handshake.
pub const ALPN_REV_H2: &[u8] = b"hansa-rev-h2";
/// ALPN of joining: the server shows its certificate, the client has none yet. TCP only.
pub const ALPN_JOIN: &[u8] = b"hansa-join";
/// ALPN of enrolling: the server shows its certificate, the client has none yet. TCP only.
pub const ALPN_ENROLL: &[u8] = b"hansa-enroll";

/// The name given where an interface wants one. It means nothing and is not sent: identity is the
/// SPIFFE id.
pub const SERVER_NAME: &str = "hansa.internal";

/// [`SERVER_NAME`] in the type that rustls takes.
pub fn server_name() -> ServerName<'static> {
    ServerName::try_from(SERVER_NAME).expect("a constant DNS name is valid")
}

/// The one crypto provider (aws-lc-rs), passed explicitly everywhere.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    PROVIDER.clone()
}

/// Makes the configurations of a server that has an identity.
#[derive(Debug, Clone)]
pub struct Tls {
    keys: Keys,
    trust: Trust,
}

impl Tls {
    /// Configurations over this identity and this trust; both may change later.
    pub fn new(keys: Keys, trust: Trust) -> Self {
        Self { keys, trust }
    }

    /// The identity in use.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The trust in force.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// A server that asks every client for a certificate which `admit` lets in.
    pub fn server(&self, admit: Admit, alpn: &[&[u8]]) -> ServerConfig {
        let builder = versions(ServerConfig::builder_with_provider(provider()));
        let verifier = Arc::new(self.verifier(admit));
        let resolver = Arc::new(Own { keys: self.keys.clone(), roots: None });
        let config = builder.with_client_cert_verifier(verifier).with_cert_resolver(resolver);
        strict_server(config, alpn)
    }

    /// A server that shows its certificate, with the roots of its domain behind it for clients that
    /// know a fingerprint only, and asks for none: for [`ALPN_JOIN`] and [`ALPN_ENROLL`] over TCP.
    pub fn server_without_client_auth(&self, alpn: &[&[u8]]) -> ServerConfig {
        let builder = versions(ServerConfig::builder_with_provider(provider()));
        let resolver = Arc::new(Own { keys: self.keys.clone(), roots: Some(self.trust.clone()) });
        strict_server(builder.with_no_client_auth().with_cert_resolver(resolver), alpn)
    }

    /// A client that shows its certificate to a server which `admit` lets in.
    pub fn client(&self, admit: Admit, alpn: &[&[u8]]) -> ClientConfig {
        let builder = versions(ClientConfig::builder_with_provider(provider()));
        let verifier = Arc::new(self.verifier(admit));
        let resolver = Arc::new(Own { keys: self.keys.clone(), roots: None });
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        strict_client(builder.with_client_cert_resolver(resolver), alpn)
    }

    /// [`Tls::client`] towards exactly one id.
    pub fn client_to(&self, id: SpiffeId, alpn: &[&[u8]]) -> ClientConfig {
        self.client(Admit::id(id), alpn)
    }

    /// [`Tls::client`] towards any gateway of one domain.
    pub fn client_to_gateways(&self, domain: TrustDomain, alpn: &[&[u8]]) -> ClientConfig {
        self.client(Admit::roles(Domains::one(domain), [RoleKind::Gateway]), alpn)
    }

    /// [`Tls::client`] towards the controller of one domain.
    pub fn client_to_controller(&self, domain: &TrustDomain, alpn: &[&[u8]]) -> ClientConfig {
        self.client_to(SpiffeId::of(domain, &Role::Controller), alpn)
    }

    fn verifier(&self, admit: Admit) -> Verifier {
        Verifier { trust: self.trust.clone(), admit, provider: provider() }
    }
}

/// What a client without an identity knows of the other side, out of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pin {
    /// The fingerprint of a root, which the server sends along (enrolling).
    Root(TrustDomain, Fingerprint),
    /// The bundle (joining).
    Bundle(Bundle),
}

/// A client without a certificate that knows the server by a pin: for enrolling and joining.
pub fn pinned_client(pin: Pin, roles: &[RoleKind], alpn: &[&[u8]]) -> ClientConfig {
    let builder = versions(ClientConfig::builder_with_provider(provider())).dangerous();
    let roles = roles.iter().copied();
    let builder = match pin {
        Pin::Root(domain, root) => {
            let admit = Admit::roles(Domains::one(domain.clone()), roles);
            let verifier = PinnedVerifier { domain, root, admit, provider: provider() };
            builder.with_custom_certificate_verifier(Arc::new(verifier))
        }
        Pin::Bundle(bundle) => {
            let admit = Admit::roles(Domains::one(bundle.trust_domain.clone()), roles);
            let bundles = [bundle].into_iter().collect();
            let trust = Trust::new(TrustSnapshot { bundles, ..TrustSnapshot::default() });
            let verifier = Verifier { trust, admit, provider: provider() };
            builder.with_custom_certificate_verifier(Arc::new(verifier))
        }
    };
    strict_client(builder.with_no_client_auth(), alpn)
}

fn versions<S: ConfigSide>(
    builder: ConfigBuilder<S, rustls::WantsVersions>,
) -> ConfigBuilder<S, WantsVerifier> {
    builder
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the aws-lc-rs provider has TLS 1.3 cipher suites")
}

fn strict_server(mut config: ServerConfig, alpn: &[&[u8]]) -> ServerConfig {
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config
}

fn strict_client(mut config: ClientConfig, alpn: &[&[u8]]) -> ClientConfig {
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    config
}

/// Gives the identity in use to every handshake; with `roots`, the roots of its domain behind it.
#[derive(Debug)]
struct Own {
    keys: Keys,
    roots: Option<Trust>,
}

impl ResolvesServerCert for Own {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let key = self.keys.certified();
        let Some(trust) = &self.roots else { return Some(key) };
        let snapshot = trust.current();
        let id = self.keys.id();
        let bundle = snapshot.bundles.get(id.trust_domain());
        let roots = bundle.into_iter().flat_map(|bundle| &bundle.roots).map(|root| root.der().clone());
        // The client takes three certificates behind the leaf; a rotation has two roots.
        let cert: Vec<CertificateDer<'static>> = key.cert.iter().cloned().chain(roots).take(4).collect();
        Some(Arc::new(CertifiedKey::new(cert, key.key.clone())))
    }
}

impl ResolvesClientCert for Own {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.keys.certified())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
