//! Members with a CA each, leaves that break one rule each, and a trust over chosen members.

use std::time::{Duration, SystemTime};

use hansa_core::spiffe::{Role, SpiffeId, TrustDomain};
use hansa_identity::bundle::Bundle;
use hansa_identity::ca::{Ca, CaOptions};
use hansa_identity::store::{Identity, KeyRequest, Keys};
use hansa_identity::tls::Tls;
use hansa_identity::verify::{Admit, Domains, RoleKind, Trust, TrustSnapshot};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls_pki_types::CertificateDer;

pub(crate) fn domain(name: &str) -> TrustDomain {
    name.parse().unwrap()
}

pub(crate) fn gateway() -> Role {
    Role::Gateway("g-1".parse().unwrap())
}

pub(crate) fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}

pub(crate) struct Member {
    pub(crate) ca: Ca,
}

impl Member {
    pub(crate) fn new(name: &str) -> Self {
        Self { ca: Ca::create(domain(name), CaOptions::default(), now()).unwrap() }
    }

    pub(crate) fn domain(&self) -> &TrustDomain {
        self.ca.trust_domain()
    }

    pub(crate) fn bundle(&self) -> Bundle {
        self.ca.bundle()
    }

    pub(crate) fn identity(&self, role: &Role) -> Identity {
        let request = KeyRequest::new(SpiffeId::of(self.domain(), role)).unwrap();
        let leaf = self.ca.sign(role, request.csr(), now()).unwrap();
        request.complete(vec![leaf]).unwrap()
    }

    /// A server of this member that trusts `members`.
    pub(crate) fn tls(&self, role: &Role, members: &[&Member]) -> Tls {
        Tls::new(Keys::new(self.identity(role)), Trust::new(trust(members)))
    }

    /// A leaf signed by this member's real root after `spoil` had its way with the parameters.
    pub(crate) fn odd_leaf(&self, spoil: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let (certificate, key) = self.ca.export_pem();
        let issuer = Issuer::from_ca_cert_pem(&certificate, KeyPair::from_pem(&key).unwrap()).unwrap();
        let mut params = CertificateParams::default();
        let id = SpiffeId::of(self.domain(), &gateway());
        params.subject_alt_names = vec![uri(&id.to_string())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        spoil(&mut params);
        params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der().clone()
    }
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub(crate) fn authority() -> IsCa {
    IsCa::Ca(BasicConstraints::Unconstrained)
}

pub(crate) fn trust(members: &[&Member]) -> TrustSnapshot {
    TrustSnapshot {
        bundles: members.iter().map(|member| member.bundle()).collect(),
        ..TrustSnapshot::default()
    }
}

pub(crate) fn any_gateway() -> Admit {
    Admit::roles(Domains::Any, [RoleKind::Gateway])
}

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const LIMIT: Duration = Duration::from_secs(10);
