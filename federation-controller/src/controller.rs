//! The wiring: bind everything, then run, then shut down in order.
//!
//! Called by `hansa controller` and by tests. Nothing is served before everything is bound, and the
//! process is ready when routes and zone are open. Going away changes nothing for gateways and DNS
//! servers: they keep what they hold.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hansa_core::code::{Code, cli, config as codes};
use hansa_proto::wire::feed::v1::feed_server::FeedServer;
use hansa_proto::wire::join::v1::join_server::JoinServer;
use hansa_proto::wire::trust::v1::trust_server::TrustServer;
use hansa_runtime::admin::{self, Admin, Pages};
use hansa_runtime::drain::Drain;
use hansa_runtime::files::{self, FileError};
use hansa_runtime::limits;
use hansa_runtime::logs::Logs;
use hansa_runtime::metrics::Families;
use hansa_runtime::ready::Ready;
use hansa_runtime::tasks::{TaskFailure, Tasks};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::service::Routes;
use tracing::{info, warn};

use crate::authority::{Authority, AuthorityError};
use crate::config::Config;
use crate::control::{Control, State};
use crate::endpoint::Endpoint;
use crate::feeds::Feeds;
use crate::fuse::{Facts, Fuse, Parts, View};
use crate::index;
use crate::join::{JoinService, Joiner};
use crate::leftovers;
use crate::listen::{self, Listen};
use crate::metrics;
use crate::nodes::Nodes;
use crate::peers::Peers;
use crate::relay::{Gateways, Relay};
use crate::roster::Roster;
use crate::secrets::Secrets;
use crate::serve::{Ears, FeedService, TrustService};
use crate::source::Own;
use crate::source::folder::Folder;
use crate::store::{Store, StoreError};
use crate::vips::Vips;

/// How long tasks have to end.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// What the process gives its controller.
#[derive(Clone)]
pub struct Process {
    /// Where everything runs.
    pub tasks: Tasks,
    /// The drain of the process.
    pub drain: Drain,
    /// Its readiness.
    pub ready: Ready,
    /// Its logs, for the admin endpoint.
    pub logs: Option<Logs>,
}

/// Why a controller cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration contradicts itself.
    #[error(transparent)]
    Config(#[from] hansa_runtime::settings::Inconsistent),
    /// The state folder cannot be used.
    #[error(transparent)]
    Folder(#[from] FileError),
    /// The state file cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no identity.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A port is taken.
    #[error(transparent)]
    Listen(#[from] listen::BindError),
    /// The admin or health port is taken.
    #[error(transparent)]
    Admin(#[from] admin::BindError),
    /// The control socket cannot be had.
    #[error("{path}: {error}")]
    Control {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
}

impl StartError {
    /// The code for messages.
    pub fn code(&self) -> Code {
        match self {
            Self::Config(_) => codes::CONFIG_INVALID,
            Self::Folder(_) => codes::STATE_UNWRITABLE,
            Self::Store(StoreError::InUse(_)) => codes::STATE_IN_USE,
            Self::Store(StoreError::Open(..)) => codes::STATE_CORRUPT,
            Self::Authority(error) => error.code(),
            // Most often a port in use: the cause below says so.
            Self::Listen(_) | Self::Admin(_) | Self::Control { .. } => cli::SERVER_FAILED,
        }
    }
}

/// A controller whose ports are bound.
pub struct Controller {
    process: Process,
    listen: Listen,
    control: Control,
    admin: Admin,
    endpoint: Option<Endpoint>,
    routes: Routes,
    state: State,
    folder: Folder,
    fuse: Fuse,
    peers: Peers,
    ears: Ears,
}

impl Controller {
    /// Opens the state, reads the source once and binds every port.
    ///
    /// # Errors
    /// [`StartError`]; nothing is served then.
    pub async fn bind(config: Config, process: Process) -> Result<Self, StartError> {
        Self::bind_with(config, process, None).await
    }

    /// As [`Controller::bind`], with another way to other members than the own gateways: for tests.
    ///
    /// # Errors
    /// [`StartError`]; nothing is served then.
    pub async fn bind_with(
        config: Config,
        process: Process,
        relay: Option<Arc<dyn Relay>>,
    ) -> Result<Self, StartError> {
        config.check()?;
        raise_limits();
        if let Err(error) = files::private_folder(&config.state_dir) {
            // The store then says that it runs from memory; keys need the folder and will fail.
            warn!(code = %codes::STATE_UNWRITABLE, %error, "the state folder cannot be made");
        }
        let store = Store::open(&config.state_dir)?;
        leftovers::remove(&config.state_dir);
        let domain = config.trust_domain();
        let authority = Authority::open(&config.state_dir, &domain, config.ca.leaf_ttl.0, store.clone())?;
        let listen = Listen::bind(&config.listen).await?;
        let index = index::Facts { cluster: config.cluster.clone(), locality: config.locality.clone() };
        let (folder, own) =
            Folder::bind(config.source.folder.clone(), index, &config.state_dir, store.clone()).await;
        let (fuse, view) = Fuse::new(parts(&config, own, authority, store));
        let relay = relay.unwrap_or_else(|| {
            let (authority, nodes) = (fuse.parts().authority.clone(), fuse.parts().nodes.clone());
            Arc::new(Gateways::new(authority, nodes, process.tasks.clone()))
        });
        let state = state(fuse.parts(), &relay, view, addresses(&config, &listen));
        let peers = Peers {
            cluster: state.facts.cluster.clone(),
            authority: state.authority.clone(),
            roster: state.roster.clone(),
            relay,
            view: state.view.clone(),
            tasks: process.tasks.clone(),
        };
        let (routes, ears) = services(&state);
        let socket = config.socket();
        let control = Control::bind(&socket).await;
        let control = control.map_err(|error| StartError::Control { path: socket, error })?;
        let pages = pages(&config, &process, &state);
        let admin = Admin::bind(config.admin.listen, config.health.listen, pages).await?;
        let endpoint = match &config.bundle_endpoint {
            Some(endpoint) => Some(Endpoint::bind(endpoint.listen).await?),
            None => None,
        };
        Ok(Self { process, listen, control, admin, endpoint, routes, state, folder, fuse, peers, ears })
    }

    /// The addresses bound for gateways, DNS servers and peers.
    pub fn addresses(&self) -> Vec<std::net::SocketAddr> {
        self.listen.addresses()
    }

    /// What the controller knows, for tests and benches.
    pub fn state(&self) -> State {
        self.state.clone()
    }

    /// Serves until the process drains or a critical task failed, then shuts down.
    ///
    /// # Errors
    /// The critical task that failed.
    pub async fn run(self) -> Result<(), TaskFailure> {
        let Self { process, listen, control, admin, endpoint, routes, state, folder, fuse, peers, ears } =
            self;
        let tasks = process.tasks;
        if let Some(endpoint) = endpoint {
            tasks.spawn_critical("bundle-endpoints", endpoint.run(state.authority.clone(), tasks.clone()));
        }
        let open = process.ready.condition("routes and zone");
        tasks.spawn_critical("admin", admin.run(tasks.clone(), tasks.token()));
        tasks.spawn_until_shutdown("source", folder.run());
        tasks.spawn_until_shutdown("state", state.store.clone().keep_well());
        tasks.spawn_until_shutdown("followers", ears.run());
        tasks.spawn_critical("fuse", ended(fuse.run(tasks.token())));
        tasks.spawn_critical("own-certificate", ended(state.authority.clone().run(tasks.token())));
        tasks.spawn_critical("peers", ended(peers.run(tasks.token())));
        tasks.spawn_critical("listen", listen.run(state.authority.clone(), routes, tasks.clone()));
        tasks.spawn_critical("control", control.run(state.clone(), tasks.clone()));
        let feeds = state.feeds.clone();
        tasks.spawn_until_shutdown("opening", async move {
            feeds.all_open().await;
            info!(epoch = feeds.epoch(), "serving");
            open.set();
        });
        tokio::select! {
            () = process.drain.begun().cancelled_owned() => {}
            () = tasks.token().cancelled_owned() => {}
        }
        // No step for the data plane: gateways and DNS servers go on with what they hold.
        if !tasks.shutdown(SHUTDOWN).await {
            warn!(left = tasks.len(), "some tasks did not end in time");
        }
        tasks.failure().map_or(Ok(()), Err)
    }
}

async fn ended(work: impl Future<Output = ()>) -> Result<(), std::convert::Infallible> {
    work.await;
    Ok(())
}

fn raise_limits() {
    if let Err(error) = limits::raise_open_files() {
        warn!(%error, "the limit of open files stays");
    }
}

/// What enrolment tokens name: as configured, else where we listen, as far as others can use that.
fn addresses(config: &Config, listen: &Listen) -> Vec<String> {
    if !config.advertise.is_empty() {
        return config.advertise.clone();
    }
    listen.addresses().iter().map(ToString::to_string).collect()
}

fn parts(config: &Config, own: watch::Receiver<Arc<Own>>, authority: Authority, store: Store) -> Parts {
    let facts = Facts {
        cluster: config.cluster.clone(),
        locality: config.locality.clone(),
        failback: config.failover.failback(),
    };
    Parts {
        roster: Roster::load(facts.cluster.clone(), authority.clone(), store.clone()),
        nodes: Nodes::load(&store),
        feeds: Feeds::begin(&store),
        vips: Vips::load(&config.vip, &store),
        rejected: Counter::default(),
        facts,
        own,
        authority,
        store,
    }
}

fn state(
    parts: &Parts,
    relay: &Arc<dyn Relay>,
    view: watch::Receiver<Option<Arc<View>>>,
    addresses: Vec<String>,
) -> State {
    let secrets = Secrets::load(parts.store.clone());
    let joiner = Joiner {
        facts: parts.facts.clone(),
        authority: parts.authority.clone(),
        roster: parts.roster.clone(),
        secrets: secrets.clone(),
        relay: Arc::clone(relay),
        view: view.clone(),
    };
    State {
        facts: parts.facts.clone(),
        authority: parts.authority.clone(),
        roster: parts.roster.clone(),
        nodes: parts.nodes.clone(),
        feeds: parts.feeds.clone(),
        store: parts.store.clone(),
        rejected: parts.rejected.clone(),
        started: Instant::now(),
        transitions: Arc::new(Mutex::default()),
        addresses,
        secrets,
        joiner,
        view,
    }
}

fn services(state: &State) -> (Routes, Ears) {
    let State { authority, roster, nodes, feeds, secrets, joiner, .. } = state;
    let (feed, ears) = FeedService::new(authority.clone(), roster.clone(), nodes.clone(), feeds.clone());
    let trust = TrustService { authority: authority.clone(), secrets: secrets.clone() };
    let routes = Routes::new(FeedServer::new(feed))
        .add_service(TrustServer::new(trust))
        .add_service(JoinServer::new(JoinService(joiner.clone())));
    (routes, ears)
}

fn pages(config: &Config, process: &Process, state: &State) -> Pages {
    let mut families = Families::new();
    metrics::register(&mut families, state.clone());
    let (view, text): (watch::Receiver<_>, String) = (state.view.clone(), config.to_json());
    let pages = Pages::new(process.ready.clone())
        .metrics(families.finish())
        .snapshot(move || {
            let view: Option<Arc<View>> = view.borrow().clone();
            view.map_or_else(|| "null".to_owned(), |view| view.to_json())
        })
        .config(move || text.clone());
    match &process.logs {
        Some(logs) => pages.logs(logs.clone()),
        None => pages,
    }
}
