//! The verifiers in the shape rustls asks for. All judgement is in `verify::check`.
//!
//! Made by `tls` alone. Never offers or accepts TLS 1.2.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hansa_core::spiffe::TrustDomain;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{Admit, Side, Trust, TrustSnapshot, VerifyError, check};
use crate::bundle::{Bundle, BundleSet, DEFAULT_REFRESH, Root};
use crate::cert::{Fingerprint, Leaf, LeafError};

/// Judges by the snapshot in force at the moment of the handshake.
#[derive(Debug)]
pub(crate) struct Verifier {
    pub(crate) trust: Trust,
    pub(crate) admit: Admit,
    pub(crate) provider: Arc<CryptoProvider>,
}

/// Knows no bundle yet: takes the chain's own root if its fingerprint is the pinned one.
#[derive(Debug)]
pub(crate) struct PinnedVerifier {
    pub(crate) domain: TrustDomain,
    pub(crate) root: Fingerprint,
    pub(crate) admit: Admit,
    pub(crate) provider: Arc<CryptoProvider>,
}

fn refuse(error: VerifyError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

fn system(now: UnixTime) -> SystemTime {
    UNIX_EPOCH + std::time::Duration::from_secs(now.as_secs())
}

fn chain_of<'a>(leaf: &CertificateDer<'a>, rest: &[CertificateDer<'a>]) -> Vec<CertificateDer<'a>> {
    std::iter::once(leaf).chain(rest).cloned().collect()
}

impl Verifier {
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        side: Side,
        now: UnixTime,
    ) -> Result<Leaf, Error> {
        let snapshot = self.trust.current();
        check(&snapshot, &self.admit, &chain_of(leaf, rest), side, system(now)).map_err(refuse)
    }
}

impl PinnedVerifier {
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Leaf, VerifyError> {
        let Some(root) = rest.iter().find(|der| Fingerprint::of(der) == self.root) else {
            let id = Leaf::parse(leaf)?.id;
            return Err(VerifyError::Chain { id, why: "it does not hold the pinned root".to_owned() });
        };
        let root =
            Root::parse(&self.domain, root).map_err(|why| VerifyError::Leaf(LeafError::Malformed(why)))?;
        let bundle = Bundle {
            trust_domain: self.domain.clone(),
            sequence: 0,
            refresh_hint: DEFAULT_REFRESH,
            roots: vec![root],
        };
        let bundles = BundleSet::from_iter([bundle]);
        let snapshot = TrustSnapshot { bundles, ..TrustSnapshot::default() };
        check(&snapshot, &self.admit, &chain_of(leaf, rest), Side::Server, system(now))
    }
}

macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _cert: &CertificateDer<'_>,
            _dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOfferedOrEnabled))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = &self.provider.signature_verification_algorithms;
            verify_tls13_signature(message, cert, dss, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider.signature_verification_algorithms.supported_schemes()
        }
    };
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(end_entity, intermediates, Side::Server, now)?;
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}

impl ClientCertVerifier for Verifier {
    // No hint: it would tell every stranger whom we know.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(end_entity, intermediates, Side::Client, now)?;
        Ok(ClientCertVerified::assertion())
    }

    signatures!();
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(end_entity, intermediates, now).map_err(refuse)?;
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}
