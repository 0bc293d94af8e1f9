//! The embedded certificate authority of one trust domain: roots, leaves, its secret file.
//!
//! Held by the controller alone. Signs only for an id that its caller took from an enrolment or a
//! current leaf, never for what a request asks. The steps of a root rotation are in `rotate`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use hansa_core::spiffe::{Role, SpiffeId, TrustDomain};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
    SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::bundle::{Bundle, BundleError, DEFAULT_REFRESH, Root};
use crate::cert::{self, Fingerprint};
use crate::store::{self, StoreError};

/// How far certificates are dated back, so that a clock that is slow by less still takes them.
pub const BACK_DATE: Duration = Duration::from_secs(3600);
/// Greatest size of a signing request in bytes; one for a P-256 key has about 300.
pub const MAX_CSR: usize = 8 * 1024;
const MAX_STATE: u64 = 1024 * 1024;

/// Lives and hints of what a CA makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaOptions {
    /// Life of a root (default ten years).
    pub root_life: Duration,
    /// Life of a leaf (default 24 hours).
    pub leaf_life: Duration,
    /// How often followers of the bundle ask again.
    pub refresh_hint: Duration,
}

impl Default for CaOptions {
    fn default() -> Self {
        Self {
            root_life: Duration::from_secs(3650 * 86_400),
            leaf_life: Duration::from_secs(86_400),
            refresh_hint: DEFAULT_REFRESH,
        }
    }
}

/// Why the CA did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The request cannot be read, is too large, or does not prove that its key is held.
    #[error("the signing request is not valid: {0}")]
    Request(&'static str),
    /// The request asks for another id than the enrolled one.
    #[error("the signing request asks for {asked}, enrolled is {enrolled}")]
    OtherId {
        /// What the request asks for.
        asked: String,
        /// What was enrolled.
        enrolled: SpiffeId,
    },
    /// The active root ends before a leaf could begin.
    #[error("the active root has expired, or the clock is wrong")]
    RootExpired,
    /// A key or certificate could not be made or read.
    #[error("certificate making failed: {0}")]
    Making(String),
    /// The kept state is not that of a CA.
    #[error("the CA state cannot be read: {0}")]
    State(String),
    /// A root in the state breaks the bundle rules.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Reading or writing the state file failed, or others may read it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rcgen::Error> for CaError {
    fn from(error: rcgen::Error) -> Self {
        Self::Making(error.to_string())
    }
}

/// A root with its key.
pub(crate) struct SigningRoot {
    pub(crate) root: Root,
    pub(crate) key: KeyPair,
    /// The longest life of a leaf it may have signed.
    pub(crate) longest: Duration,
}

/// A root that is published but does not sign yet.
pub(crate) struct NextRoot {
    pub(crate) signing: SigningRoot,
    pub(crate) published: SystemTime,
}

/// A root that no longer signs but is still published.
pub(crate) struct RetiredRoot {
    pub(crate) root: Root,
    pub(crate) since: SystemTime,
    /// The longest life of a leaf it may have signed.
    pub(crate) longest: Duration,
}

/// The certificate authority of one trust domain.
pub struct Ca {
    pub(crate) domain: TrustDomain,
    pub(crate) options: CaOptions,
    pub(crate) sequence: u64,
    pub(crate) active: SigningRoot,
    pub(crate) next: Option<NextRoot>,
    pub(crate) retired: Vec<RetiredRoot>,
    denied: BTreeSet<String>,
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca")
            .field("domain", &self.domain)
            .field("sequence", &self.sequence)
            .field("active", &self.active.root.fingerprint())
            .finish_non_exhaustive()
    }
}

impl Ca {
    /// A new CA with a root of its own. The first sequence is the time, so that a CA made anew after
    /// a loss does not start below what its peers have seen.
    pub fn create(domain: TrustDomain, options: CaOptions, now: SystemTime) -> Result<Self, CaError> {
        let active = new_root(&domain, &options, now)?;
        Ok(Self::around(domain, options, active, now))
    }

    fn around(domain: TrustDomain, options: CaOptions, active: SigningRoot, now: SystemTime) -> Self {
        let (sequence, denied) = (cert::unix(now), BTreeSet::new());
        let mut ca = Self { domain, options, sequence, active, next: None, retired: Vec::new(), denied };
        ca.lives();
        ca
    }

    /// A CA around a root made elsewhere: certificate and PKCS#8 P-256 key, both as PEM.
    pub fn import_pem(
        domain: TrustDomain,
        options: CaOptions,
        pem: (&str, &str),
        now: SystemTime,
    ) -> Result<Self, CaError> {
        let active = read_root(&domain, pem.0, pem.1)?;
        Ok(Self::around(domain, options, active, now))
    }

    /// The trust domain it signs for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// Lives and hints in force.
    pub fn options(&self) -> &CaOptions {
        &self.options
    }

    /// Changes lives and hints for what is made from now on. True: the state must be saved before
    /// anything is signed, because leaves live longer than any before.
    pub fn set_options(&mut self, options: CaOptions) -> bool {
        if self.options.refresh_hint != options.refresh_hint {
            self.sequence += 1;
        }
        self.options = options;
        self.lives()
    }

    /// Remembers the longest life that the active root signs. True: it is longer than before.
    pub(crate) fn lives(&mut self) -> bool {
        let before = self.active.longest;
        self.active.longest = before.max(self.options.leaf_life);
        self.active.longest > before
    }

    /// The deny list as texts, readable or not. Kept here so that a lost store lets nobody back in.
    pub fn denied(&self) -> &BTreeSet<String> {
        &self.denied
    }

    /// Puts another deny list in the place of the kept one; the caller saves the state.
    pub fn set_denied(&mut self, denied: BTreeSet<String>) {
        self.denied = denied;
    }

    /// The root that signs.
    pub fn active_root(&self) -> &Root {
        &self.active.root
    }

    /// The active root as PEM: certificate and secret key, for a backup.
    pub fn export_pem(&self) -> (String, String) {
        (pem_of(self.active.root.der()), self.active.key.serialize_pem())
    }

    /// The public bundle: the active root, the next one, and those not yet taken out.
    pub fn bundle(&self) -> Bundle {
        let next = self.next.iter().map(|next| &next.signing.root);
        let retired = self.retired.iter().map(|retired| &retired.root);
        let roots = std::iter::once(&self.active.root).chain(next).chain(retired).cloned().collect();
        Bundle {
            trust_domain: self.domain.clone(),
            sequence: self.sequence,
            refresh_hint: self.options.refresh_hint,
            roots,
        }
    }

    /// Signs a leaf for `role`, whatever else the request asks for.
    ///
    /// Errors: the request does not prove its key, is no P-256 request, or names another id.
    pub fn sign(&self, role: &Role, csr: &[u8], now: SystemTime) -> Result<CertificateDer<'static>, CaError> {
        if csr.len() > MAX_CSR {
            return Err(CaError::Request("larger than 8 KiB"));
        }
        let id = SpiffeId::of(&self.domain, role);
        check_key(csr)?;
        let der = CertificateSigningRequestDer::from(csr);
        let asked = CertificateSigningRequestParams::from_der(&der)
            .map_err(|_| CaError::Request("it cannot be read or its signature is wrong"))?;
        if asked.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(CaError::Request("only P-256 with SHA-256 is signed"));
        }
        for name in &asked.params.subject_alt_names {
            match name {
                SanType::URI(uri) if uri.as_str() == id.to_string() => {}
                SanType::URI(uri) => {
                    let asked = uri.as_str().chars().take(200).collect();
                    return Err(CaError::OtherId { asked, enrolled: id });
                }
                _ => {}
            }
        }
        let params = self.leaf_params(&id, now)?;
        let issuer = Issuer::from_ca_cert_der(self.active.root.der(), &self.active.key)?;
        Ok(params.signed_by(&asked.public_key, &issuer)?.der().clone())
    }

    fn leaf_params(&self, id: &SpiffeId, now: SystemTime) -> Result<CertificateParams, CaError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name(&format!("hansa {}", id.path().trim_start_matches("/hansa/")));
        params.subject_alt_names = vec![SanType::URI(uri(&id.to_string())?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(random_serial()?);
        let root = &self.active.root;
        if !root.valid_at(now) {
            return Err(CaError::RootExpired);
        }
        params.not_before = date(now - BACK_DATE)?;
        params.not_after = date((now + self.options.leaf_life).min(root.not_after()))?;
        Ok(params)
    }

    /// The whole state as JSON, secret keys included: for the controller's store.
    pub fn to_state(&self) -> Result<String, CaError> {
        let pair = |signing: &SigningRoot| StatePair {
            certificate: pem_of(signing.root.der()),
            key: signing.key.serialize_pem(),
        };
        let next = self.next.iter().map(|next| &next.signing);
        let signing = std::iter::once(&self.active).chain(next).map(|s| (&s.root, s.longest));
        let lives = signing.chain(self.retired.iter().map(|old| (&old.root, old.longest)));
        let state = State {
            version: 1,
            trust_domain: self.domain.clone(),
            sequence: self.sequence,
            options: self.options,
            active: pair(&self.active),
            next: self.next.as_ref().map(|next| (pair(&next.signing), cert::unix(next.published))),
            retired: self.retired.iter().map(|old| (pem_of(old.root.der()), cert::unix(old.since))).collect(),
            longest_lives: lives
                .map(|(root, life)| (root.fingerprint().to_string(), life.as_secs()))
                .collect(),
            denied: self.denied.clone(),
        };
        serde_json::to_string(&state).map_err(|e| CaError::State(e.to_string()))
    }

    /// Reads what [`Ca::to_state`] wrote.
    pub fn from_state(text: &str) -> Result<Self, CaError> {
        let state: State = serde_json::from_str(text).map_err(|e| CaError::State(e.to_string()))?;
        if state.version != 1 {
            return Err(CaError::State(format!("version {} is not known", state.version)));
        }
        let domain = state.trust_domain;
        let seconds = |unix: u64| cert::time_of(i64::try_from(unix).unwrap_or(i64::MAX));
        // Where nothing is kept, the life in force when the state was written is the best known.
        let lives = state.longest_lives;
        let known = |root: &Root| lives.get(&root.fingerprint().to_string()).map(|s| Duration::from_secs(*s));
        let longest = |root: &Root| known(root).unwrap_or(state.options.leaf_life);
        let mut active = read_root(&domain, &state.active.certificate, &state.active.key)?;
        active.longest = longest(&active.root);
        let mut next = None;
        if let Some((pair, published)) = state.next {
            let signing = read_root(&domain, &pair.certificate, &pair.key)?;
            next = Some(NextRoot { signing, published: seconds(published) });
        }
        let mut retired = Vec::new();
        for (pem, since) in state.retired {
            let root = root_from_pem(&domain, &pem)?;
            retired.push(RetiredRoot { longest: longest(&root), root, since: seconds(since) });
        }
        let (options, sequence, denied) = (state.options, state.sequence, state.denied);
        Ok(Self { domain, options, sequence, active, next, retired, denied })
    }

    /// Writes the state to a file with mode 0600, all or nothing.
    pub fn save(&self, path: &Path) -> Result<(), CaError> {
        Ok(store::write_secret(path, self.to_state()?.as_bytes())?)
    }

    /// Reads the state file; refuses one that others may read.
    pub fn load(path: &Path) -> Result<Self, CaError> {
        let bytes = store::read_secret(path, MAX_STATE)?;
        let text = String::from_utf8(bytes).map_err(|_| CaError::State("not UTF-8".to_owned()))?;
        Self::from_state(&text)
    }
}

#[derive(Serialize, Deserialize)]
struct StatePair {
    certificate: String,
    key: String,
}

#[derive(Serialize, Deserialize)]
struct State {
    version: u32,
    trust_domain: TrustDomain,
    sequence: u64,
    options: CaOptions,
    active: StatePair,
    next: Option<(StatePair, u64)>,
    retired: Vec<(String, u64)>,
    /// By root, in seconds.
    #[serde(default)]
    longest_lives: BTreeMap<String, u64>,
    #[serde(default)]
    denied: BTreeSet<String>,
}

/// Makes a self-signed P-256 root that carries the id of its trust domain.
pub(crate) fn new_root(
    domain: &TrustDomain,
    options: &CaOptions,
    now: SystemTime,
) -> Result<SigningRoot, CaError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    let serial = random_serial()?;
    // The serial in the name keeps the subjects of two roots of one domain apart.
    params.distinguished_name = name(&format!("hansa root {}", cert::hex(&serial.to_bytes()[..4])));
    params.distinguished_name.push(DnType::OrganizationName, domain.as_str());
    params.serial_number = Some(serial);
    params.subject_alt_names = vec![SanType::URI(uri(&format!("spiffe://{domain}"))?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = date(now - BACK_DATE)?;
    params.not_after = date(now + options.root_life)?;
    let made = params.self_signed(&key)?;
    let root = Root::parse(domain, made.der()).map_err(|why| CaError::Making(why.to_owned()))?;
    Ok(SigningRoot { root, key, longest: Duration::ZERO })
}

pub(crate) fn pem_of(der: &[u8]) -> String {
    use base64::Engine;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for (index, letter) in body.chars().enumerate() {
        if index > 0 && index % 64 == 0 {
            text.push('\n');
        }
        text.push(letter);
    }
    text + "\n-----END CERTIFICATE-----\n"
}

fn root_from_pem(domain: &TrustDomain, pem: &str) -> Result<Root, CaError> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| CaError::State(e.to_string()))?;
    Root::parse(domain, &der).map_err(|why| CaError::State(format!("a root cannot be used: {why}")))
}

fn read_root(domain: &TrustDomain, certificate: &str, key: &str) -> Result<SigningRoot, CaError> {
    let root = root_from_pem(domain, certificate)?;
    let key = KeyPair::from_pkcs8_pem_and_sign_algo(key, &PKCS_ECDSA_P256_SHA256)?;
    let x509 = cert::read(root.der()).map_err(|e| CaError::State(e.to_string()))?;
    if x509.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
        let print: Fingerprint = root.fingerprint();
        return Err(CaError::State(format!("the key does not belong to root {print}")));
    }
    Ok(SigningRoot { root, key, longest: Duration::ZERO })
}

/// The key of the request must be an uncompressed P-256 point: the signature algorithm alone does
/// not say on which curve the key lies.
fn check_key(csr: &[u8]) -> Result<(), CaError> {
    use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY};
    use x509_parser::prelude::{FromDer, X509CertificationRequest};
    let unreadable = CaError::Request("it cannot be read");
    let Ok(([], request)) = X509CertificationRequest::from_der(csr) else { return Err(unreadable) };
    let key = &request.certification_request_info.subject_pki;
    let curve = key.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
    let point = key.subject_public_key.data.as_ref();
    let p256 = key.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == Some(OID_EC_P256);
    if !p256 || point.len() != 65 || point[0] != 4 {
        return Err(CaError::Request("only uncompressed P-256 keys are signed"));
    }
    Ok(())
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

pub(crate) fn uri(text: &str) -> Result<Ia5String, CaError> {
    Ok(Ia5String::try_from(text)?)
}

/// 127 random bits: positive, and never short.
fn random_serial() -> Result<SerialNumber, CaError> {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| CaError::Making("no randomness".to_owned()))?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn date(time: SystemTime) -> Result<OffsetDateTime, CaError> {
    let seconds = i64::try_from(cert::unix(time)).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|e| CaError::Making(e.to_string()))
}
