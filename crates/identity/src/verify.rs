//! Who may connect: the rustls verifiers of every hansa connection, and the same check for live ones.
//!
//! Steps, in this order: read the leaf; its SVID rules; the deny lists; the bundle of *its* trust
//! domain; the chain to those roots alone; the life of the leaf; the caller's [`Admit`] rule. Reads
//! the current [`TrustSnapshot`] in every handshake. Never looks at roots of another domain.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use hansa_core::code::{Code, trust};
use hansa_core::spiffe::{Role, SpiffeId, TrustDomain};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyUsage};

use crate::bundle::{Bundle, BundleSet};
use crate::cert::{Leaf, LeafError};
use crate::deny::{DenyList, Told};
use crate::store::MAX_CHAIN;
use crate::tls;

mod reason;
mod rustls_side;

pub use reason::{describe, describe_text, reason};
pub(crate) use rustls_side::{PinnedVerifier, Verifier};

/// Everything a handshake is judged by, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustSnapshot {
    /// Roots by trust domain; the own domain is one of them.
    pub bundles: BundleSet,
    /// Single leaves that are refused, whoever signed them: the own list.
    pub deny: DenyList,
    /// Single leaves that their own trust domain refuses.
    pub told: Told,
}

/// The snapshot now in force. Clones share it; configurations read it in every handshake.
#[derive(Debug, Clone, Default)]
pub struct Trust(Arc<ArcSwap<TrustSnapshot>>);

impl Trust {
    /// Starts with `snapshot`.
    pub fn new(snapshot: TrustSnapshot) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(snapshot)))
    }

    /// The snapshot now in force.
    pub fn current(&self) -> Arc<TrustSnapshot> {
        self.0.load_full()
    }

    /// Puts another snapshot in force for all handshakes from now on. Live connections are cut by
    /// their owner, who asks [`check`] again.
    pub fn replace(&self, snapshot: TrustSnapshot) {
        self.0.store(Arc::new(snapshot));
    }

    /// Changes one part of the snapshot.
    pub fn update(&self, change: impl Fn(&mut TrustSnapshot)) {
        self.0.rcu(|old| {
            let mut new = TrustSnapshot::clone(old);
            change(&mut new);
            new
        });
    }
}

/// The kinds of holders an [`Admit`] rule may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RoleKind {
    /// `/hansa/gateway/<id>`.
    Gateway,
    /// `/hansa/controller`.
    Controller,
    /// `/hansa/dns/<id>`.
    Dns,
}

impl RoleKind {
    /// The kind of a role.
    pub fn of(role: &Role) -> Self {
        match role {
            Role::Gateway(_) => Self::Gateway,
            Role::Controller => Self::Controller,
            Role::Dns(_) => Self::Dns,
        }
    }
}

/// Which trust domains a rule speaks of. A domain without a bundle is refused before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Domains {
    /// Every domain a bundle is held for.
    Any,
    /// These alone.
    Only(BTreeSet<TrustDomain>),
    /// Every domain but this: a peer's, never the own.
    AnyBut(TrustDomain),
}

impl Domains {
    /// One domain alone.
    pub fn one(domain: TrustDomain) -> Self {
        Self::Only(BTreeSet::from([domain]))
    }

    fn has(&self, domain: &TrustDomain) -> bool {
        match self {
            Self::Any => true,
            Self::Only(domains) => domains.contains(domain),
            Self::AnyBut(own) => own != domain,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    Id(SpiffeId),
    Role(Domains, BTreeSet<RoleKind>),
}

/// Whose verified certificate is let in: one of a list of rules must match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admit(Vec<Rule>);

impl Admit {
    /// This id alone.
    pub fn id(id: SpiffeId) -> Self {
        Self(vec![Rule::Id(id)])
    }

    /// These roles of these domains.
    pub fn roles(domains: Domains, roles: impl IntoIterator<Item = RoleKind>) -> Self {
        Self(vec![Rule::Role(domains, roles.into_iter().collect())])
    }

    /// The rules of both.
    #[must_use]
    pub fn or(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    fn admits(&self, id: &SpiffeId) -> bool {
        let kind = id.role().as_ref().map(RoleKind::of);
        self.0.iter().any(|rule| match rule {
            Rule::Id(expected) => expected == id,
            Rule::Role(domains, roles) => {
                domains.has(id.trust_domain()) && kind.is_some_and(|kind| roles.contains(&kind))
            }
        })
    }
}

/// Why a certificate was refused.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The leaf cannot be read or breaks an SVID rule.
    #[error("{code} {0}", code = self.code())]
    Leaf(#[from] LeafError),
    /// No bundle is held for the leaf's trust domain: not a member, or a removed one.
    #[error("{code} no trust bundle is held for trust domain {0}", code = self.code())]
    UnknownDomain(TrustDomain),
    /// The bundle of the domain is empty.
    #[error("{code} trust domain {0} has revoked all its roots", code = self.code())]
    Revoked(TrustDomain),
    /// Too early or too late, by this machine's clock.
    #[error("{code} {id}: {what}; check the clock of both machines", code = self.code())]
    Clock {
        /// Whose certificate.
        id: SpiffeId,
        /// By how much, in words.
        what: String,
    },
    /// The chain does not lead to a root of the domain.
    #[error("{code} {id}: the chain does not verify: {why}", code = self.code())]
    Chain {
        /// Whose certificate.
        id: SpiffeId,
        /// What the path builder found.
        why: String,
    },
    /// The leaf is on the deny list.
    #[error("{code} {0} is on the deny list", code = self.code())]
    Denied(SpiffeId),
    /// Genuine, but not whom this connection is for.
    #[error("{code} {0} may not be the other side of this connection", code = self.code())]
    NotAdmitted(SpiffeId),
}

// rustls writes the verifier's error with `Debug`, and that text is all QUIC hands out: so `Debug` is
// the message for people too.
impl fmt::Debug for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl VerifyError {
    /// The code for messages.
    pub fn code(&self) -> Code {
        match self {
            Self::Leaf(_) | Self::Chain { .. } => trust::CERT_REFUSED,
            Self::UnknownDomain(_) | Self::Revoked(_) => trust::CERT_DOMAIN_UNKNOWN,
            Self::Clock { .. } => trust::CERT_NOT_VALID_NOW,
            Self::Denied(_) => trust::CERT_DENIED,
            Self::NotAdmitted(_) => trust::CERT_WRONG_ROLE,
        }
    }

    /// A short, stable label for metrics and access lines.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Leaf(_) => "bad_leaf",
            Self::UnknownDomain(_) => "unknown_domain",
            Self::Revoked(_) => "revoked_domain",
            Self::Clock { .. } => "clock",
            Self::Chain { .. } => "bad_chain",
            Self::Denied(_) => "denied",
            Self::NotAdmitted(_) => "wrong_role",
        }
    }
}

/// Which extended key usage the certificate must allow, if it lists any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The certificate was presented by a server.
    Server,
    /// The certificate was presented by a client.
    Client,
}

impl Side {
    fn usage(self) -> KeyUsage {
        match self {
            Self::Server => KeyUsage::server_auth(),
            Self::Client => KeyUsage::client_auth(),
        }
    }
}

/// Judges a chain, leaf first, as a handshake at `now` would: for live connections after a change of
/// the snapshot.
pub fn check(
    snapshot: &TrustSnapshot,
    admit: &Admit,
    chain: &[CertificateDer<'_>],
    side: Side,
    now: SystemTime,
) -> Result<Leaf, VerifyError> {
    let (first, rest) = chain.split_first().ok_or(LeafError::Missing)?;
    let leaf = Leaf::parse(first)?;
    if snapshot.deny.denies(&leaf) || snapshot.told.denies(&leaf) {
        return Err(VerifyError::Denied(leaf.id));
    }
    let domain = leaf.trust_domain();
    let bundle = snapshot.bundles.get(domain);
    let bundle = bundle.ok_or_else(|| VerifyError::UnknownDomain(domain.clone()))?;
    check_chain(bundle, &leaf, (first, rest), side, now)?;
    if !admit.admits(&leaf.id) {
        return Err(VerifyError::NotAdmitted(leaf.id));
    }
    Ok(leaf)
}

fn check_chain(
    bundle: &Bundle,
    leaf: &Leaf,
    (first, rest): (&CertificateDer<'_>, &[CertificateDer<'_>]),
    side: Side,
    now: SystemTime,
) -> Result<(), VerifyError> {
    let clock = |what: String| VerifyError::Clock { id: leaf.id.clone(), what };
    if bundle.is_revoked() {
        return Err(VerifyError::Revoked(bundle.trust_domain.clone()));
    }
    let chain = |why: &str| VerifyError::Chain { id: leaf.id.clone(), why: why.to_owned() };
    if rest.len() >= MAX_CHAIN {
        return Err(chain("it is too long"));
    }
    let valid = bundle.roots.iter().filter(|root| root.valid_at(now));
    let anchors: Vec<TrustAnchor<'_>> = valid.map(|root| root.anchor().clone()).collect();
    if anchors.is_empty() {
        return Err(clock("no root of its trust domain is valid at this time".to_owned()));
    }
    // Said before the chain is built, because the path builder names only the first thing it meets.
    if let Some(what) = out_of_time(leaf, now) {
        return Err(clock(what));
    }
    let entity = EndEntityCert::try_from(first).map_err(|e| chain(&e.to_string()))?;
    build(&entity, &anchors, rest, side.usage(), now).map_err(|error| match error {
        webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. } => {
            clock("a certificate of its chain is not valid at this time".to_owned())
        }
        other => chain(&other.to_string()),
    })
}

fn build(
    entity: &EndEntityCert<'_>,
    anchors: &[TrustAnchor<'_>],
    rest: &[CertificateDer<'_>],
    usage: impl ExtendedKeyUsageValidator,
    now: SystemTime,
) -> Result<(), webpki::Error> {
    let time = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
    let algorithms = tls::provider().signature_verification_algorithms.all;
    entity.verify_for_usage(algorithms, anchors, rest, time, usage, None, None).map(|_| ())
}

fn out_of_time(leaf: &Leaf, now: SystemTime) -> Option<String> {
    let seconds = |distance: Duration| distance.as_secs();
    if let Ok(early) = leaf.not_before.duration_since(now)
        && early > Duration::ZERO
    {
        return Some(format!("the certificate is not valid for another {} s", seconds(early)));
    }
    match now.duration_since(leaf.not_after) {
        Ok(late) if late > Duration::ZERO => Some(format!("the certificate expired {} s ago", seconds(late))),
        _ => None,
    }
}
