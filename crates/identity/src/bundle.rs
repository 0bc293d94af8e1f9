//! SPIFFE trust bundles (SPIFFE Trust Domain and Bundle 4): JWKS text to roots and back.
//!
//! Read at the doors (feed, join, files, `ClusterPeer`) and held by `verify` as a set keyed by trust
//! domain. Never pools the roots of two domains, and never goes back in sequence (`accept`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hansa_core::spiffe::TrustDomain;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use serde::{Deserialize, Serialize};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::public_key::PublicKey;

use crate::cert::{self, Fingerprint, MAX_CERT};

mod accept;

pub use accept::{Accepted, Refusal, accept, accept_forced};

/// Greatest size of a bundle as text, in bytes.
pub const MAX_TEXT: usize = 256 * 1024;
/// Most roots of one bundle; a rotation needs two.
pub const MAX_ROOTS: usize = 16;
/// Most JWKS elements of one bundle, those of unknown kind included.
pub const MAX_KEYS: usize = 64;
/// How often a follower asks again when the bundle does not say (SPIFFE: five minutes).
pub const DEFAULT_REFRESH: Duration = Duration::from_secs(300);

/// Why text is no bundle, or a root is no root.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// Longer than [`MAX_TEXT`], or more than [`MAX_KEYS`] or [`MAX_ROOTS`].
    #[error("the bundle is too large: {0}")]
    TooLarge(&'static str),
    /// Not the JSON of a bundle.
    #[error("the bundle is not valid JSON: {0}")]
    Json(String),
    /// An `x509-svid` element without exactly one certificate.
    #[error("key {0} of the bundle must hold exactly one certificate in x5c")]
    Chain(usize),
    /// The certificate of an element cannot serve as a root.
    #[error("key {0} of the bundle is not a root certificate: {1}")]
    Root(usize, &'static str),
    /// The same root twice.
    #[error("root {0} appears twice in the bundle")]
    Duplicate(Fingerprint),
}

/// One root certificate, checked and ready to verify with.
#[derive(Debug, Clone)]
pub struct Root {
    der: CertificateDer<'static>,
    anchor: TrustAnchor<'static>,
    fingerprint: Fingerprint,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl PartialEq for Root {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for Root {}

impl Root {
    /// Checks that `der` is a certificate authority that may serve `domain`.
    ///
    /// Errors: the rule that is broken, in words.
    pub fn parse(domain: &TrustDomain, der: &[u8]) -> Result<Self, &'static str> {
        let x509 = cert::read(der).map_err(|_| "it cannot be read")?;
        check_root(domain, &x509)?;
        let der = CertificateDer::from(der.to_vec());
        let anchor = webpki::anchor_from_trusted_cert(&der).map_err(|_| "it cannot be a trust anchor")?;
        Ok(Self {
            anchor: anchor.to_owned(),
            fingerprint: Fingerprint::of(&der),
            not_before: cert::time_of(x509.validity().not_before.timestamp()),
            not_after: cert::time_of(x509.validity().not_after.timestamp()),
            der,
        })
    }

    /// The certificate.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// SHA-256 of the certificate.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// First moment of validity.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Last moment of validity.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    pub(crate) fn anchor(&self) -> &TrustAnchor<'static> {
        &self.anchor
    }

    pub(crate) fn valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

fn check_root(domain: &TrustDomain, x509: &X509Certificate<'_>) -> Result<(), &'static str> {
    x509.extensions_map().map_err(|_| "an extension appears twice")?;
    if x509.iter_extensions().any(|ext| ext.parsed_extension().error().is_some()) {
        return Err("an extension cannot be read");
    }
    if !x509.is_ca() {
        return Err("it is not a certificate authority");
    }
    if let Ok(Some(usage)) = x509.key_usage()
        && !usage.value.key_cert_sign()
    {
        return Err("its key usage does not allow signing certificates");
    }
    // A signing certificate may carry an id, and then it must be that of its own domain: so nobody
    // can pass another member's root off as his.
    let own = format!("spiffe://{domain}");
    if let Ok(Some(names)) = x509.subject_alternative_name() {
        for name in &names.value.general_names {
            match name {
                GeneralName::URI(uri) if *uri == own => {}
                GeneralName::URI(_) => return Err("it belongs to another trust domain"),
                GeneralName::Invalid(..) => return Err("one of its names cannot be read"),
                _ => {}
            }
        }
    }
    Ok(())
}

/// The roots of one trust domain at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// The domain these roots speak for, and no other.
    pub trust_domain: TrustDomain,
    /// Grows with every change (`spiffe_sequence`).
    pub sequence: u64,
    /// How often a follower should ask again.
    pub refresh_hint: Duration,
    /// The roots. None: everything of the domain is revoked.
    pub roots: Vec<Root>,
}

#[derive(Serialize, Deserialize)]
struct Jwks {
    keys: Vec<Jwk>,
    #[serde(default)]
    spiffe_sequence: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spiffe_refresh_hint: Option<u64>,
}

#[derive(Serialize, Deserialize, Default)]
struct Jwk {
    #[serde(default)]
    kty: String,
    #[serde(default, rename = "use")]
    usage: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crv: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    #[serde(default)]
    x5c: Vec<String>,
}

impl Bundle {
    /// Reads a bundle of `domain`; the text itself does not say whose it is.
    ///
    /// Errors: [`BundleError`]. Elements of an unknown `kty` or `use` are ignored (SPIFFE 4.2.1).
    pub fn from_json(domain: &TrustDomain, text: &[u8]) -> Result<Self, BundleError> {
        if text.len() > MAX_TEXT {
            return Err(BundleError::TooLarge("more than 256 KiB"));
        }
        let jwks: Jwks = serde_json::from_slice(text).map_err(|e| BundleError::Json(e.to_string()))?;
        if jwks.keys.len() > MAX_KEYS {
            return Err(BundleError::TooLarge("more than 64 keys"));
        }
        let mut roots = Vec::new();
        for (index, key) in jwks.keys.iter().enumerate() {
            if matches!(key.kty.as_str(), "EC" | "RSA" | "OKP") && key.usage == "x509-svid" {
                roots.push(root_of(domain, index, key)?);
            }
        }
        let hint = jwks.spiffe_refresh_hint.unwrap_or(DEFAULT_REFRESH.as_secs());
        // A second to a day: 0 would be a busy loop, more than a day would outlive every leaf.
        let hint = Duration::from_secs(hint.clamp(1, 86_400));
        Self::new(domain.clone(), jwks.spiffe_sequence, hint, roots)
    }

    /// A bundle of checked roots.
    pub fn new(
        trust_domain: TrustDomain,
        sequence: u64,
        refresh_hint: Duration,
        roots: Vec<Root>,
    ) -> Result<Self, BundleError> {
        if roots.len() > MAX_ROOTS {
            return Err(BundleError::TooLarge("more than 16 roots"));
        }
        for (index, root) in roots.iter().enumerate() {
            if roots[..index].contains(root) {
                return Err(BundleError::Duplicate(root.fingerprint));
            }
        }
        Ok(Self { trust_domain, sequence, refresh_hint, roots })
    }

    /// The bundle as SPIFFE JSON.
    pub fn to_json(&self) -> String {
        let jwks = Jwks {
            keys: self.roots.iter().map(jwk_of).collect(),
            spiffe_sequence: self.sequence,
            spiffe_refresh_hint: Some(self.refresh_hint.as_secs()),
        };
        serde_json::to_string(&jwks).unwrap_or_else(|_| String::from("{\"keys\":[]}"))
    }

    /// An empty bundle says that nothing of the domain may be trusted any more.
    pub fn is_revoked(&self) -> bool {
        self.roots.is_empty()
    }

    /// The moment the last root expires; none for an empty bundle.
    pub fn expires(&self) -> Option<SystemTime> {
        self.roots.iter().map(Root::not_after).max()
    }

    /// Whether the same roots and hint are inside, whatever their order and the sequence.
    pub fn same_content(&self, other: &Self) -> bool {
        self.trust_domain == other.trust_domain
            && self.refresh_hint == other.refresh_hint
            && self.roots.len() == other.roots.len()
            && self.roots.iter().all(|root| other.roots.contains(root))
    }
}

fn root_of(domain: &TrustDomain, index: usize, key: &Jwk) -> Result<Root, BundleError> {
    let [text] = &key.x5c[..] else { return Err(BundleError::Chain(index)) };
    if text.len() > MAX_CERT * 2 {
        return Err(BundleError::Root(index, "larger than 8 KiB"));
    }
    let der = STANDARD.decode(text).map_err(|_| BundleError::Root(index, "x5c is not base64"))?;
    Root::parse(domain, &der).map_err(|why| BundleError::Root(index, why))
}

fn jwk_of(root: &Root) -> Jwk {
    let mut jwk = Jwk {
        usage: "x509-svid".to_owned(),
        x5c: vec![STANDARD.encode(&root.der)],
        kty: "EC".to_owned(),
        ..Jwk::default()
    };
    let text = |bytes: &[u8]| Some(URL_SAFE_NO_PAD.encode(bytes));
    let Ok(x509) = cert::read(&root.der) else { return jwk };
    match x509.public_key().parsed() {
        Ok(PublicKey::EC(point)) if point.data().first() == Some(&4) => {
            let (x, y) = point.data()[1..].split_at((point.data().len() - 1) / 2);
            let curve = if x.len() == 32 { "P-256" } else { "P-384" };
            (jwk.crv, jwk.x, jwk.y) = (Some(curve.to_owned()), text(x), text(y));
        }
        Ok(PublicKey::RSA(key)) => {
            let trimmed = |bytes: &[u8]| text(&bytes[bytes.iter().take_while(|byte| **byte == 0).count()..]);
            (jwk.kty, jwk.n, jwk.e) = ("RSA".to_owned(), trimmed(key.modulus), trimmed(key.exponent));
        }
        _ => jwk.kty = "OKP".to_owned(),
    }
    jwk
}

/// Bundles by trust domain. There is no way to ask for "all roots".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BundleSet(BTreeMap<TrustDomain, Arc<Bundle>>);

impl BundleSet {
    /// The bundle of one domain.
    pub fn get(&self, domain: &TrustDomain) -> Option<&Arc<Bundle>> {
        self.0.get(domain)
    }

    /// Puts a bundle in the place of the one held for its domain, without asking (see [`accept`]).
    pub fn insert(&mut self, bundle: Arc<Bundle>) {
        self.0.insert(bundle.trust_domain.clone(), bundle);
    }

    /// Takes a domain out: nothing of it verifies any more.
    pub fn remove(&mut self, domain: &TrustDomain) -> Option<Arc<Bundle>> {
        self.0.remove(domain)
    }

    /// The bundles in the order of their domains.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Bundle>> {
        self.0.values()
    }

    /// Number of domains.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// No domain.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Bundle> for BundleSet {
    fn from_iter<I: IntoIterator<Item = Bundle>>(bundles: I) -> Self {
        let mut set = Self::default();
        for bundle in bundles {
            set.insert(Arc::new(bundle));
        }
        set
    }
}
