//! How a gateway or DNS server belongs to its cluster: enrol once, renew for ever, connect to the
//! controller over mutual TLS.
//!
//! Called by the wiring of gateways and DNS servers. Never sends a secret: knowledge of it is proved
//! bound to the connection. Never lets a running server end because the controller is away.

mod dial;
mod enroll;
mod error;
mod renew;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hansa_core::code::{config, trust};
use hansa_core::name::ClusterId;
use hansa_core::spiffe::{Role, SpiffeId, TrustDomain};
use hansa_identity::bundle::{Bundle, BundleSet};
use hansa_identity::store::{Identity, Keys, Store};
use hansa_identity::tls::{ALPN_H2, Tls};
use hansa_identity::verify::{Trust, TrustSnapshot};
use hansa_runtime::files::read_limited;
use hansa_runtime::tasks::Tasks;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

pub use error::{ConnectError, StartError};

use dial::Dialer;

/// File in the state folder: the controllers that the token named, one a line.
const CONTROLLERS: &str = "controllers";
/// For one address: connect and TLS handshake.
const DIAL: Duration = Duration::from_secs(2);
/// For one call of the controller.
const CALL: Duration = Duration::from_secs(5);

/// How a server proves who it is the first time.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A one-use token: its text, or the path of a file with it.
    Token(String),
    /// A projected service account token of Kubernetes, with the cluster's bundle beside it.
    ServiceAccount {
        /// File with the token; read anew for every try.
        token: PathBuf,
        /// File with the SPIFFE bundle (JWKS) of the cluster.
        bundle: PathBuf,
        /// The cluster's trust domain.
        trust_domain: TrustDomain,
    },
}

/// Who this server is, and where its controllers are.
#[derive(Clone, Debug)]
pub struct Config {
    /// Gateway or DNS server, with its id.
    pub role: Role,
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// Folder for key, chain and bundle; made if missing.
    pub state_dir: PathBuf,
    /// `host:port` of the controllers. May be empty if the token names them.
    pub controllers: Vec<String>,
    /// Needed until the first enrolment succeeded, and again if the leaf expired.
    pub credential: Option<Credential>,
}

struct Inner {
    tls: Tls,
    store: Store,
    dialer: Dialer,
    connector: TlsConnector,
    /// One bundle at a time is judged and kept.
    bundles: Mutex<()>,
}

/// An enrolled server's tie to its controllers. Clones share it.
#[derive(Clone)]
pub struct Link(Arc<Inner>);

impl Link {
    /// Takes the identity from disk, or enrols: tries until it succeeds, until the refusal is final,
    /// or until `tasks` shut down. Then renews in a task of `tasks`.
    ///
    /// Errors: [`StartError`], each with what to do.
    pub async fn start(config: Config, tasks: &Tasks) -> Result<Self, StartError> {
        hansa_runtime::files::private_folder(&config.state_dir)?;
        let store = Store::new(&config.state_dir);
        let kept = load(&config, &store)?;
        let usable = kept.filter(|(identity, _)| {
            let alive = SystemTime::now() < identity.leaf().not_after;
            if !alive {
                tracing::warn!(code = %trust::CERT_NOT_VALID_NOW, id = %identity.leaf().id,
                    "the certificate on disk has expired");
            }
            alive || config.credential.is_none()
        });
        let (identity, bundle, dialer) = match usable {
            Some((identity, bundle)) => (identity, bundle, Dialer::new(addresses(&config))?),
            None => enroll::until_done(&config, &store, &tasks.token()).await?,
        };
        let link = Self::assemble(identity, bundle, store, dialer);
        let renewal = link.clone();
        tasks.spawn_until_shutdown("renew", async move { renew::run(renewal).await });
        Ok(link)
    }

    fn assemble(identity: Identity, bundle: Bundle, store: Store, dialer: Dialer) -> Self {
        let domain = identity.leaf().trust_domain().clone();
        let bundles: BundleSet = [bundle].into_iter().collect();
        let trust = Trust::new(TrustSnapshot { bundles, ..TrustSnapshot::default() });
        let tls = Tls::new(Keys::new(identity), trust);
        let connector = TlsConnector::from(Arc::new(tls.client_to_controller(&domain, &[ALPN_H2])));
        Self(Arc::new(Inner { tls, store, dialer, connector, bundles: Mutex::new(()) }))
    }

    /// Identity and trust for further configurations; both are swapped under way.
    pub fn tls(&self) -> &Tls {
        &self.0.tls
    }

    /// The identity in use.
    pub fn keys(&self) -> &Keys {
        self.0.tls.keys()
    }

    /// The trust in force. Gateways add the bundles of peers and the deny list.
    pub fn trust(&self) -> &Trust {
        self.0.tls.trust()
    }

    /// The own SPIFFE id.
    pub fn id(&self) -> SpiffeId {
        self.keys().id()
    }

    /// The own trust domain.
    pub fn trust_domain(&self) -> TrustDomain {
        self.id().trust_domain().clone()
    }

    /// A mutually authenticated connection to any controller (ALPN `h2`), the one that answered last
    /// first. For `feed::follow`.
    pub async fn connect(&self) -> Result<TlsStream<TcpStream>, ConnectError> {
        self.0.dialer.connect(&self.0.connector).await
    }

    /// Takes a newer bundle of the own domain (JWKS), from a feed or a renewal: keeps it on disk and
    /// puts it in force. True if it changed anything; refused ones are logged and change nothing.
    pub fn adopt_bundle(&self, json: &str) -> bool {
        let _one = self.0.bundles.lock().unwrap_or_else(PoisonError::into_inner);
        let domain = self.trust_domain();
        let current = self.trust().current();
        let held = current.bundles.get(&domain);
        let offered = match Bundle::from_json(&domain, json.as_bytes()) {
            Ok(offered) => offered,
            Err(error) => {
                tracing::warn!(code = %trust::BUNDLE_REFUSED, %domain, %error, "trust bundle refused");
                return false;
            }
        };
        use hansa_identity::bundle::{Accepted, accept};
        match accept(held.map(AsRef::as_ref), &offered) {
            Ok(Accepted::Unchanged) => return false,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(code = %trust::BUNDLE_REFUSED, %domain, %error, "trust bundle refused");
                return false;
            }
        }
        if let Err(error) = self.0.store.save_bundle(&offered) {
            tracing::warn!(code = %config::STATE_UNWRITABLE, %domain, %error,
                "the trust bundle is in force but could not be kept on disk");
        }
        tracing::info!(%domain, sequence = offered.sequence, roots = offered.roots.len(), "new trust bundle");
        let offered = Arc::new(offered);
        self.trust().update(|snapshot| snapshot.bundles.insert(offered.clone()));
        true
    }
}

/// The configured controllers, else those the token named when it was used.
fn addresses(config: &Config) -> Vec<String> {
    if !config.controllers.is_empty() {
        return config.controllers.clone();
    }
    let kept = read_limited(&config.state_dir.join(CONTROLLERS), 64 * 1024).unwrap_or_default();
    String::from_utf8_lossy(&kept).lines().map(str::to_owned).collect()
}

type Kept = Option<(Identity, Bundle)>;

/// What is on disk, if it belongs to this server. What cannot be read is set aside.
fn load(config: &Config, store: &Store) -> Result<Kept, StartError> {
    let identity = match store.load() {
        Ok(Some(identity)) => identity,
        Ok(None) => return Ok(None),
        Err(hansa_identity::store::IdentityError::Store(error)) => {
            return Err(StartError::Store(error.into()));
        }
        Err(error) => {
            let aside = hansa_identity::store::set_aside(&store.identity_path());
            tracing::warn!(code = %config::STATE_CORRUPT, %error, aside = ?aside.ok(),
                "the identity on disk is damaged; set aside");
            return Ok(None);
        }
    };
    let expected = SpiffeId::of(identity.leaf().trust_domain(), &config.role);
    let found = &identity.leaf().id;
    if *found != expected {
        return Err(StartError::OtherIdentity { found: found.clone(), expected });
    }
    match store.load_bundle(identity.leaf().trust_domain()) {
        Ok(Some(bundle)) => Ok(Some((identity, bundle))),
        Ok(None) => Ok(None),
        Err(error) => {
            let aside = hansa_identity::store::set_aside(&store.bundle_path());
            tracing::warn!(code = %config::STATE_CORRUPT, %error, aside = ?aside.ok(),
                "the trust bundle on disk is damaged; set aside");
            Ok(None)
        }
    }
}

pub(crate) fn never(token: &CancellationToken) -> StartError {
    debug_assert!(token.is_cancelled(), "only a shutdown ends the tries");
    StartError::Cancelled
}
