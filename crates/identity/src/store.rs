//! A server's own identity: key, chain and bundle on disk, and the pair now in use.
//!
//! Used by every server at start and at each renewal. Refuses key files others may read; writes all
//! or nothing; a file that cannot be read is set aside and never deleted.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use hansa_core::spiffe::{SpiffeId, TrustDomain};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::bundle::{Bundle, BundleError, MAX_TEXT};
use crate::ca::{BACK_DATE, pem_of, uri};
use crate::cert::{Leaf, LeafError};
use crate::tls;

mod file;

pub use file::{StoreError, read_secret, set_aside, write_public, write_secret};

/// Most certificates of a chain: a leaf, two intermediates and a root.
pub const MAX_CHAIN: usize = 4;
const MAX_IDENTITY: u64 = 64 * 1024;

/// Why a key and a chain are no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The chain has no certificate, or more than [`MAX_CHAIN`].
    #[error("a chain has one to {MAX_CHAIN} certificates, this one has {0}")]
    Length(usize),
    /// The leaf breaks the SVID rules.
    #[error(transparent)]
    Leaf(#[from] LeafError),
    /// The leaf is for another id than expected.
    #[error("the certificate is for {found}, expected {expected}")]
    OtherId {
        /// The id in the leaf.
        found: SpiffeId,
        /// The id of this server.
        expected: SpiffeId,
    },
    /// Key and leaf do not belong together, or the key cannot be read.
    #[error("the private key cannot be used with this certificate: {0}")]
    Key(String),
    /// The file is not an identity.
    #[error("the identity file cannot be read: {0}")]
    File(String),
    /// Reading or writing failed, or others may read the file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The kept bundle cannot be read.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// A fresh key with its signing request. The key never leaves the server.
pub struct KeyRequest {
    key: KeyPair,
    id: SpiffeId,
    csr: Vec<u8>,
}

impl fmt::Debug for KeyRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRequest").field("id", &self.id).finish_non_exhaustive()
    }
}

impl KeyRequest {
    /// Makes a P-256 key and a request for `id`.
    pub fn new(id: SpiffeId) -> Result<Self, IdentityError> {
        let making = |e: rcgen::Error| IdentityError::Key(e.to_string());
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(making)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let name = uri(&id.to_string()).map_err(|e| IdentityError::Key(e.to_string()))?;
        params.subject_alt_names = vec![SanType::URI(name)];
        let csr = params.serialize_request(&key).map_err(making)?.der().to_vec();
        Ok(Self { key, id, csr })
    }

    /// The request as DER, for the controller.
    pub fn csr(&self) -> &[u8] {
        &self.csr
    }

    /// Joins the key with the chain the controller signed for it.
    pub fn complete(self, chain: Vec<CertificateDer<'static>>) -> Result<Identity, IdentityError> {
        let identity = Identity::new(self.key.serialize_der(), chain)?;
        if identity.leaf.id != self.id {
            return Err(IdentityError::OtherId { found: identity.leaf.id, expected: self.id });
        }
        Ok(identity)
    }
}

/// A private key with its certificate chain, leaf first.
pub struct Identity {
    key: Vec<u8>,
    chain: Vec<CertificateDer<'static>>,
    leaf: Leaf,
    certified: Arc<CertifiedKey>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("leaf", &self.leaf).finish_non_exhaustive()
    }
}

impl Identity {
    /// Joins a PKCS#8 key with its chain; both must belong together.
    pub fn new(key: Vec<u8>, chain: Vec<CertificateDer<'static>>) -> Result<Self, IdentityError> {
        if chain.is_empty() || chain.len() > MAX_CHAIN {
            return Err(IdentityError::Length(chain.len()));
        }
        let leaf = Leaf::parse(&chain[0])?;
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.clone()));
        let certified = CertifiedKey::from_der(chain.clone(), der, &tls::provider())
            .map_err(|e| IdentityError::Key(e.to_string()))?;
        Ok(Self { key, chain, leaf, certified: Arc::new(certified) })
    }

    /// The facts of the leaf.
    pub fn leaf(&self) -> &Leaf {
        &self.leaf
    }

    /// The chain, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    fn to_pem(&self) -> Result<String, IdentityError> {
        let key = PrivatePkcs8KeyDer::from(&self.key[..]);
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256)
            .map_err(|e| IdentityError::Key(e.to_string()))?;
        let chain: String = self.chain.iter().map(|der| pem_of(der)).collect();
        Ok(key.serialize_pem() + &chain)
    }

    fn from_pem(pem: &[u8]) -> Result<Self, IdentityError> {
        let bad = |e: rustls_pki_types::pem::Error| IdentityError::File(e.to_string());
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(bad)?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        Self::new(key.secret_pkcs8_der().to_vec(), chain.map_err(bad)?)
    }
}

/// The folder in which a server keeps its identity: `identity.pem` (0600) and `bundle.json`.
///
/// Key and chain share one file, so that a crash can never leave a pair that does not match.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// A store in `dir`, which must exist.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Where key and chain are.
    pub fn identity_path(&self) -> PathBuf {
        self.dir.join("identity.pem")
    }

    /// Where the bundle of the own domain is.
    pub fn bundle_path(&self) -> PathBuf {
        self.dir.join("bundle.json")
    }

    /// The kept identity; none if the server is not enrolled.
    ///
    /// Errors: others may read the file (it is left as it is), or it cannot be read; then the caller
    /// may [`set_aside`] it and enrol anew.
    pub fn load(&self) -> Result<Option<Identity>, IdentityError> {
        match read_secret(&self.identity_path(), MAX_IDENTITY) {
            Ok(pem) => Identity::from_pem(&pem).map(Some),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Keeps an identity in the place of the former one.
    pub fn save(&self, identity: &Identity) -> Result<(), IdentityError> {
        Ok(write_secret(&self.identity_path(), identity.to_pem()?.as_bytes())?)
    }

    /// The kept bundle of the own domain.
    pub fn load_bundle(&self, domain: &TrustDomain) -> Result<Option<Bundle>, IdentityError> {
        match file::read_public(&self.bundle_path(), MAX_TEXT as u64) {
            Ok(text) => Ok(Some(Bundle::from_json(domain, &text)?)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Keeps the bundle of the own domain.
    pub fn save_bundle(&self, bundle: &Bundle) -> Result<(), IdentityError> {
        Ok(write_public(&self.bundle_path(), bundle.to_json().as_bytes())?)
    }
}

/// The identity now in use. Clones share it; every handshake reads it anew.
#[derive(Debug, Clone)]
pub struct Keys(Arc<ArcSwap<Identity>>);

impl Keys {
    /// Starts with `identity`.
    pub fn new(identity: Identity) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(identity)))
    }

    /// The identity now in use.
    pub fn current(&self) -> Arc<Identity> {
        self.0.load_full()
    }

    /// The id of this server.
    pub fn id(&self) -> SpiffeId {
        self.0.load().leaf.id.clone()
    }

    /// Puts a renewed identity in use; running connections stay. The id may not change.
    pub fn replace(&self, identity: Identity) -> Result<(), IdentityError> {
        let expected = self.id();
        if identity.leaf.id != expected {
            return Err(IdentityError::OtherId { found: identity.leaf.id, expected });
        }
        self.0.store(Arc::new(identity));
        Ok(())
    }

    /// The moment the current leaf expires.
    pub fn expires(&self) -> SystemTime {
        self.0.load().leaf.not_after
    }

    /// When to renew the current leaf, see [`renew_at`].
    pub fn renew_at(&self, draw: f64) -> SystemTime {
        renew_at(&self.0.load().leaf, draw)
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        self.0.load().certified.clone()
    }
}

/// When to renew a leaf: at half of its life after it was issued, give or take a tenth of the life
/// by `draw` (0 to 1), so that servers started together do not renew together.
pub fn renew_at(leaf: &Leaf, draw: f64) -> SystemTime {
    let dated_back = leaf.not_before + BACK_DATE;
    let issued = if dated_back < leaf.not_after { dated_back } else { leaf.not_before };
    let life = leaf.not_after.duration_since(issued).unwrap_or(Duration::ZERO);
    let draw = if draw.is_finite() { draw.clamp(0.0, 1.0) } else { 0.5 };
    issued + life.mul_f64(0.4 + 0.2 * draw)
}
