//! The cluster's identity at work: CA file, own certificate, trust in force, rotation.
//!
//! Made at start; called by `listen` and `join` (TLS), `serve` (signing), `fuse` (own bundle) and
//! `control` (rotation). The CA's keys live in `ca.json` with mode 0600 and nowhere else, the deny list
//! beside them. A CA file that cannot be read stops the start: a new root would cut off every peer.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use hansa_core::code::{Code, config, trust};
use hansa_core::spiffe::{Role, SpiffeId, TrustDomain};
use hansa_identity::bundle::Bundle;
use hansa_identity::ca::{Ca, CaError, CaOptions};
use hansa_identity::rotate::{Consent, RotateError, RotateRefusal, Rotation};
use hansa_identity::store::{Identity, IdentityError, KeyRequest, Keys, write_secret};
use hansa_identity::tls::Tls;
use hansa_identity::verify::{Trust, TrustSnapshot};
use rand::RngExt;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::store::Store;

mod denials;

pub use denials::DenyError;

const CA_FILE: &str = "ca.json";
/// Between two tries to write a CA file that could not be written.
const WRITE_AGAIN: Duration = Duration::from_secs(2);

/// Why there is no identity to work with.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The CA file cannot be used.
    #[error("{path}: {error}")]
    Ca {
        /// The file.
        path: PathBuf,
        /// Why.
        error: CaError,
    },
    /// The CA is of another trust domain than configured.
    #[error("{path} is the CA of trust domain {found}, configured is {configured}")]
    OtherDomain {
        /// The file.
        path: PathBuf,
        /// What the file says.
        found: TrustDomain,
        /// What the configuration says.
        configured: TrustDomain,
    },
    /// The controller's own certificate could not be made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Signing failed.
    #[error(transparent)]
    Sign(#[from] CaError),
}

impl AuthorityError {
    /// The code for messages.
    pub fn code(&self) -> Code {
        match self {
            Self::Ca { error: CaError::Store(error), .. } => error.code(),
            Self::OtherDomain { .. } => config::CONFIG_INVALID,
            _ => trust::AUTHORITY_DAMAGED,
        }
    }
}

/// The authority. Clones share it.
#[derive(Debug, Clone)]
pub struct Authority {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    domain: TrustDomain,
    ca: Mutex<Ca>,
    /// Held while the CA file is written, and taken before `ca`: what is written last is what is in
    /// force. A rotation alone holds both: whoever signs does not wait for the disk otherwise.
    writing: Mutex<()>,
    tls: Tls,
    bundle: watch::Sender<Arc<Bundle>>,
    /// Grows whenever trust changed, so that live connections are judged again.
    trust_changed: watch::Sender<u64>,
    /// What is in force is not in the CA file yet.
    unwritten: AtomicBool,
    /// Entries of the deny list that cannot be read, as they are kept.
    kept: BTreeSet<String>,
    /// What is wrong with each of them.
    unread: Vec<String>,
    /// Where a former deny list still stands that is not in the CA file yet.
    former: Mutex<Option<Store>>,
}

impl Authority {
    /// Reads or makes the CA in `dir` and the controller's own certificate. `store` is where earlier
    /// versions kept the deny list.
    ///
    /// # Errors
    /// [`AuthorityError`]; nothing was changed then.
    pub fn open(
        dir: &Path,
        domain: &TrustDomain,
        leaf_life: Duration,
        store: Store,
    ) -> Result<Self, AuthorityError> {
        let path = dir.join(CA_FILE);
        let mut ca = open_ca(&path, domain, leaf_life)?;
        let longer = ca.set_options(CaOptions { leaf_life, ..*ca.options() });
        let moved = denials::adopt(&mut ca, &store);
        let written = !(longer || moved) || say(&path, ca.save(&path));
        if moved && written {
            denials::leave(&store);
        }
        let former = Mutex::new((moved && !written).then_some(store));
        let keys = Keys::new(own_identity(&ca)?);
        let bundle = ca.bundle();
        let denials::Kept { list: deny, kept, unread } = denials::read(&ca);
        let bundles = [bundle.clone()].into_iter().collect();
        let snapshot = TrustSnapshot { bundles, deny, ..TrustSnapshot::default() };
        let inner = Inner {
            path,
            domain: domain.clone(),
            ca: Mutex::new(ca),
            writing: Mutex::default(),
            tls: Tls::new(keys, Trust::new(snapshot)),
            bundle: watch::channel(Arc::new(bundle)).0,
            trust_changed: watch::channel(0).0,
            unwritten: AtomicBool::new(!written),
            kept,
            unread,
            former,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// TLS configurations with the own identity.
    pub fn tls(&self) -> &Tls {
        &self.inner.tls
    }

    /// The own trust domain.
    pub fn domain(&self) -> &TrustDomain {
        &self.inner.domain
    }

    /// The own bundle, as it changes.
    pub fn bundle(&self) -> watch::Receiver<Arc<Bundle>> {
        self.inner.bundle.subscribe()
    }

    /// Changes whenever live connections must be judged again.
    pub fn trust_changed(&self) -> watch::Receiver<u64> {
        self.inner.trust_changed.subscribe()
    }

    fn ca(&self) -> MutexGuard<'_, Ca> {
        self.inner.ca.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        self.inner.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Signs a leaf for one own server. The caller has established that the role is its.
    ///
    /// # Errors
    /// The request is not valid or names another id.
    pub fn sign(&self, role: &Role, csr: &[u8]) -> Result<CertificateDer<'static>, CaError> {
        let signed = self.ca().sign(role, csr, SystemTime::now())?;
        info!(target: "audit", event = "certificate_signed", id = %SpiffeId::of(self.domain(), role));
        Ok(signed)
    }

    /// SHA-256 of the root that signs, for enrolment tokens.
    pub fn root(&self) -> hansa_identity::cert::Fingerprint {
        self.ca().active_root().fingerprint()
    }

    /// Where a rotation stands.
    pub fn rotation(&self) -> Rotation {
        self.ca().rotation()
    }

    /// Takes a peer's bundle into the trust in force, in the place of the former one.
    pub fn trust_peer(&self, bundle: &Arc<Bundle>) {
        self.inner.tls.trust().update(|trust| trust.bundles.insert(Arc::clone(bundle)));
        self.touch();
    }

    /// Takes a peer out: its live connections end at once.
    pub fn distrust(&self, domain: &TrustDomain) {
        if domain == self.domain() {
            return;
        }
        self.inner.tls.trust().update(|trust| {
            drop(trust.bundles.remove(domain));
            trust.told.set(domain, Arc::default());
        });
        self.touch();
    }

    fn touch(&self) {
        self.inner.trust_changed.send_modify(|n| *n += 1);
    }

    /// One step of a root rotation: `publish`, `activate` or `retire`.
    ///
    /// # Errors
    /// The rules do not allow it now, or a root could not be made or kept.
    pub fn rotate(&self, phase: &str, consent: Consent) -> Result<Rotation, RotateError> {
        let now = SystemTime::now();
        let writing = self.writing();
        let mut ca = self.ca();
        let before = ca.to_state()?;
        let unwritten = self.inner.unwritten.load(Ordering::Relaxed);
        match phase {
            "publish" => drop(ca.prepare_next(now)?),
            "activate" => drop(ca.activate_next(now, consent)?),
            _ => {
                let oldest = ca.rotation().retired.first().map(|old| old.0);
                let oldest = oldest.ok_or(RotateRefusal::NotPrepared)?;
                ca.retire(oldest, now, consent)?;
            }
        }
        if let Err(error) = self.write(&mut ca) {
            // A root that is published but lost at the next start would be worse than none.
            *ca = Ca::from_state(&before)?;
            self.inner.unwritten.store(unwritten, Ordering::Relaxed);
            return Err(error.into());
        }
        let rotation = ca.rotation();
        let bundle = Arc::new(ca.bundle());
        let renewed = own_identity(&ca);
        drop(ca);
        drop(writing);
        self.inner.tls.trust().update(|trust| trust.bundles.insert(Arc::clone(&bundle)));
        self.inner.bundle.send_replace(bundle);
        self.touch();
        self.replace(renewed);
        info!(target: "audit", event = "root_rotation", phase, active = %rotation.active);
        Ok(rotation)
    }

    fn replace(&self, identity: Result<Identity, AuthorityError>) {
        let replaced = identity.and_then(|new| Ok(self.inner.tls.keys().replace(new)?));
        if let Err(error) = replaced {
            error!(%error, "the controller's own certificate could not be renewed");
        }
    }

    /// Renews the controller's own certificate until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let writing = self.clone();
        tokio::join!(self.renew(&stop), writing.keep(&stop));
    }

    async fn renew(&self, stop: &CancellationToken) {
        loop {
            let draw = rand::rng().random::<f64>();
            let at = self.inner.tls.keys().renew_at(draw);
            let wait = at.duration_since(SystemTime::now()).unwrap_or_default();
            // At least a second, so that a wrong clock makes no busy loop.
            let sleep = tokio::time::sleep(wait.max(Duration::from_secs(1)));
            if stop.run_until_cancelled(sleep).await.is_none() {
                return;
            }
            let renewed = own_identity(&self.ca());
            self.replace(renewed);
        }
    }

    /// Writes the CA file again for as long as it could not be written.
    async fn keep(&self, stop: &CancellationToken) {
        let mut tick = tokio::time::interval(WRITE_AGAIN);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            if self.written() {
                continue;
            }
            let authority = self.clone();
            let saved = tokio::task::spawn_blocking(move || authority.save().is_ok());
            if matches!(stop.run_until_cancelled(saved).await, Some(Ok(true))) {
                info!(path = %self.inner.path.display(), "the CA file is written again");
            }
        }
    }

    /// Writes what is in force now. May take as long as the disk does.
    fn save(&self) -> Result<(), CaError> {
        let _writing = self.writing();
        let state = {
            let mut ca = self.ca();
            ca.set_denied(self.listed());
            ca.to_state()
        };
        self.put(state)
    }

    /// As `save`, for a change of the CA that nobody may see before it is written. The caller holds
    /// `writing`.
    fn write(&self, ca: &mut Ca) -> Result<(), CaError> {
        ca.set_denied(self.listed());
        self.put(ca.to_state())
    }

    fn put(&self, state: Result<String, CaError>) -> Result<(), CaError> {
        let saved = state.and_then(|state| Ok(write_secret(&self.inner.path, state.as_bytes())?));
        self.inner.unwritten.store(saved.is_err(), Ordering::Relaxed);
        if saved.is_ok() {
            let former = self.inner.former.lock().unwrap_or_else(PoisonError::into_inner).take();
            former.iter().for_each(denials::leave);
        }
        saved
    }

    /// Whether what is in force could be written; the log says why not, and `keep` tries again.
    async fn save_or_say(&self) -> bool {
        let authority = self.clone();
        let saved = tokio::task::spawn_blocking(move || say(&authority.inner.path, authority.save()));
        saved.await.unwrap_or(false)
    }
}

/// Whether the CA could be written; the log says why not.
fn say(path: &Path, saved: Result<(), CaError>) -> bool {
    if let Err(error) = &saved {
        let code = config::STATE_UNWRITABLE;
        warn!(%code, object = %path.display(), %error, next = code.next, "the CA file cannot be written");
    }
    saved.is_ok()
}

fn open_ca(path: &Path, domain: &TrustDomain, leaf_life: Duration) -> Result<Ca, AuthorityError> {
    let broken = |error| AuthorityError::Ca { path: path.to_owned(), error };
    match Ca::load(path) {
        Ok(ca) if ca.trust_domain() == domain => Ok(ca),
        Ok(ca) => Err(AuthorityError::OtherDomain {
            path: path.to_owned(),
            found: ca.trust_domain().clone(),
            configured: domain.clone(),
        }),
        Err(CaError::Store(error)) if error.is_missing() => {
            let options = CaOptions { leaf_life, ..CaOptions::default() };
            let ca = Ca::create(domain.clone(), options, SystemTime::now()).map_err(broken)?;
            if let Err(error) = ca.save(path) {
                warn!(code = %config::STATE_UNWRITABLE, object = %path.display(), %error,
                    "the CA cannot be kept; after a restart every server must enrol again");
            }
            info!(target: "audit", event = "ca_created", domain = %domain, root = %ca.active_root().fingerprint());
            Ok(ca)
        }
        Err(error) => Err(broken(error)),
    }
}

fn own_identity(ca: &Ca) -> Result<Identity, AuthorityError> {
    let request = KeyRequest::new(SpiffeId::of(ca.trust_domain(), &Role::Controller))?;
    let leaf = ca.sign(&Role::Controller, request.csr(), SystemTime::now())?;
    Ok(request.complete(vec![leaf])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path, domain: &str) -> Result<Authority, AuthorityError> {
        let store = Store::open(&dir.join("nowhere")).unwrap();
        Authority::open(dir, &domain.parse().unwrap(), Duration::from_secs(3600), store)
    }

    #[test]
    fn the_root_stays_across_restarts_and_domains_do_not_mix() {
        let dir = tempfile::tempdir().unwrap();
        let root = open(dir.path(), "a").unwrap().root();
        assert_eq!(open(dir.path(), "a").unwrap().root(), root);
        assert!(matches!(open(dir.path(), "b"), Err(AuthorityError::OtherDomain { .. })));
        std::fs::write(dir.path().join(CA_FILE), "{").unwrap();
        assert!(matches!(open(dir.path(), "a"), Err(AuthorityError::Ca { .. })));
    }

    #[test]
    fn a_root_is_not_retired_before_the_longest_life_it_signed_whatever_is_configured_now() {
        let dir = tempfile::tempdir().unwrap();
        let start = |life| {
            let store = Store::open(&dir.path().join("nowhere")).unwrap();
            Authority::open(dir.path(), &"a".parse().unwrap(), Duration::from_secs(life), store).unwrap()
        };
        let all = Consent { acknowledged: true, force: false };
        drop(start(3_600));
        drop(start(30 * 86_400));
        let authority = start(1);
        authority.rotate("publish", all).unwrap();
        authority.rotate("activate", all).unwrap();
        drop(authority);
        let authority = start(1);
        // Beyond the life in force today; the authority asks the system's clock.
        std::thread::sleep(Duration::from_millis(1_100));
        let refused = authority.rotate("retire", all).unwrap_err();
        assert!(matches!(refused, RotateError::Refused(RotateRefusal::LeavesLive(_))), "{refused}");
    }

    #[test]
    fn a_rotation_publishes_first_and_survives() {
        let dir = tempfile::tempdir().unwrap();
        let authority = open(dir.path(), "a").unwrap();
        let old = authority.root();
        authority.rotate("publish", Consent::default()).unwrap();
        assert_eq!(authority.bundle().borrow().roots.len(), 2);
        assert!(authority.rotate("activate", Consent::default()).is_err());
        authority.rotate("activate", Consent { acknowledged: true, force: false }).unwrap();
        let again = open(dir.path(), "a").unwrap();
        assert_ne!(again.root(), old);
        assert_eq!(again.bundle().borrow().roots.len(), 2);
        assert!(again.rotate("retire", Consent { acknowledged: true, force: false }).is_err());
        again.rotate("retire", Consent { acknowledged: false, force: true }).unwrap();
        assert_eq!(again.bundle().borrow().roots.len(), 1);
    }
}
