//! The wiring of a gateway: bind all, then run, then drain.
//!
//! Called by the command line and by tests. It owns no logic of connections: each part runs in a
//! task of its own, and the order of going away is here.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;

use hansa_core::mesh::RouteTable;
use hansa_core::spiffe::Role;
use hansa_identity::tls::Tls;
use hansa_link::{Credential, Link};
use hansa_proto::feed::Position;
use hansa_runtime::admin::{Admin, Pages};
use hansa_runtime::drain::Drain;
use hansa_runtime::limits;
use hansa_runtime::logs::Logs;
use hansa_runtime::metrics::Families;
use hansa_runtime::ready::Ready;
use hansa_runtime::shards::{Shards, Threads};
use hansa_runtime::tasks::Tasks;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::config::{Config, Congestion};
use crate::dial::Dialer;
use crate::explain;
use crate::listen::{Bound, Listeners};
use crate::metrics::{Metrics, register_all};
use crate::plane::{CALLS, Places, Plane};
use crate::reach::Tracks;
use crate::table::{Current, Tables, adopt_trust};
use crate::tunnel::{self, Incoming, JoinStreams, Tunnels};

mod run;

/// Where the route table comes from.
pub enum Table {
    /// From the cluster's controllers.
    Controller(Link),
    /// Given: for tests and benches. Each change counts as one version.
    Fixed(Tls, watch::Receiver<Arc<RouteTable>>),
}

/// What the process gives its gateway.
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

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It has no identity and cannot get one.
    #[error(transparent)]
    Link(#[from] hansa_link::StartError),
    /// The tunnel port.
    #[error(transparent)]
    Tunnel(#[from] tunnel::BindError),
    /// The admin or health port.
    #[error(transparent)]
    Admin(#[from] hansa_runtime::admin::BindError),
    /// The threads that move bytes.
    #[error("cannot start workers: {0}")]
    Shards(#[source] std::io::Error),
    /// Another port.
    #[error("cannot listen on {what} {address}: {source}")]
    Listen {
        /// Which.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// A gateway whose ports are bound.
pub struct Gateway {
    config: Config,
    process: Process,
    plane: Arc<Plane>,
    admin: Admin,
    incoming: Incoming,
    joins: JoinStreams,
    relay: Option<TcpListener>,
    feed: Feed,
    listeners: Listeners,
    bound: watch::Receiver<Bound>,
    tables: watch::Receiver<Current>,
    tls: Tls,
    threads: Threads,
}

enum Feed {
    Controller { link: Link, tables: Box<Tables> },
    Fixed { table: watch::Receiver<Arc<RouteTable>>, current: watch::Sender<Current> },
}

impl Gateway {
    /// Enrols where needed, then binds.
    ///
    /// # Errors
    /// [`StartError`]; each is final.
    pub async fn start(config: Config, process: Process) -> Result<Self, StartError> {
        let token = config.enroll_token.as_ref().map(|path| path.display().to_string());
        let link = hansa_link::Config {
            role: Role::Gateway(config.id.clone()),
            cluster: config.cluster.clone(),
            state_dir: config.state_dir.clone(),
            controllers: config.controller.clone(),
            credential: token.map(Credential::Token),
        };
        let link = Link::start(link, &process.tasks).await?;
        Self::bind(config, process, Table::Controller(link)).await
    }

    /// Binds every port that does not depend on the table.
    ///
    /// # Errors
    /// [`StartError`], for the first port that cannot be had.
    pub async fn bind(config: Config, process: Process, table: Table) -> Result<Self, StartError> {
        raise_limits();
        let (shards, threads) = start_shards(config.workers).map_err(StartError::Shards)?;
        let (tls, plain, tables, feed) = match table {
            Table::Controller(link) => {
                let domain = link.trust_domain();
                let tables = Tables::load(&config.state_dir, &config.cluster, &domain, link.trust().clone());
                let (plain, current) = (tables.plain(), tables.current());
                (link.tls().clone(), plain, current, Feed::Controller { link, tables: Box::new(tables) })
            }
            Table::Fixed(tls, table) => {
                let first = table.borrow().clone();
                adopt_trust(tls.trust(), &first, None);
                let current = watch::Sender::new(Current { table: first, position: Some(counted(1)) });
                let seen = current.subscribe();
                (tls, table.clone(), seen, Feed::Fixed { table, current })
            }
        };
        let (metrics, tunnel_metrics) = (Metrics::default(), tunnel::Metrics::default());
        let mut families = Families::new();
        register_all(&mut families, &metrics, &tunnel_metrics);
        let (tunnels, incoming, joins) =
            Tunnels::bind(tunnel_config(&config, &shards), tls.clone(), plain.clone(), tunnel_metrics)?;
        let plane = Arc::new(plane(&config, (&process, shards), plain, tunnels, metrics));
        plane.tracks.adopt(&plane.table());
        let pages = pages(&config, &process, &plane).metrics(families.finish());
        let admin = Admin::bind(config.admin.listen, config.health.listen, pages).await?;
        let relay = match config.relay.listen {
            Some(address) => {
                Some(crate::relay::bind(address).await.map_err(|source| StartError::Listen {
                    what: "relay",
                    address,
                    source,
                })?)
            }
            None => None,
        };
        let (listeners, bound) = Listeners::new(plane.clone());
        Ok(Self {
            config,
            process,
            plane,
            admin,
            incoming,
            joins,
            relay,
            feed,
            listeners,
            bound,
            tables,
            tls,
            threads,
        })
    }

    /// The tunnel addresses, with their real port numbers.
    pub fn tunnel_addresses(&self) -> Vec<SocketAddr> {
        self.plane.tunnels.listening()
    }

    /// The admin address, with its real port number.
    pub fn admin_address(&self) -> std::io::Result<SocketAddr> {
        self.admin.local_addr()
    }
}

/// A position that only counts, for tables that are given.
fn counted(version: u64) -> Position {
    Position { epoch: 1, version, digest: 0 }
}

/// One shard for each worker; a connection id has room for 256.
fn start_shards(workers: Option<NonZeroUsize>) -> std::io::Result<(Shards, Threads)> {
    let cores = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let count = workers.unwrap_or_else(cores).get().min(256);
    Shards::start("hansa-shard", NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN))
}

fn raise_limits() {
    match limits::raise_open_files() {
        Ok(files) => tracing::debug!(before = files.before, after = files.after, "open files"),
        Err(error) => tracing::warn!(%error, "the limit of open files stays as it is"),
    }
}

fn plane(
    config: &Config,
    (process, shards): (&Process, Shards),
    table: watch::Receiver<Arc<RouteTable>>,
    tunnels: Tunnels,
    metrics: Metrics,
) -> Plane {
    let tracks = Tracks::default();
    crate::reach::saved::load(&tracks, &config.state_dir);
    Plane {
        id: config.id.clone(),
        locality: config.locality.clone(),
        table,
        tunnels,
        dialer: Dialer::new(tracks.clone(), config.limits.dial_timeout.get()),
        tracks,
        metrics,
        limits: config.limits.clone(),
        places: Arc::new(Semaphore::new(config.limits.connections as usize)),
        tenants: crate::plane::Tenants::default(),
        drain: process.drain.clone(),
        tasks: process.tasks.clone(),
        shards,
        controllers: config.controller.clone(),
        calls: Places::new(CALLS),
    }
}

fn tunnel_config(config: &Config, shards: &Shards) -> tunnel::Config {
    let wanted = &config.tunnel;
    let defaults = tunnel::Config::default();
    let window = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
    tunnel::Config {
        listen: if wanted.dial_only { Vec::new() } else { wanted.listen.clone() },
        dial_only: wanted.dial_only,
        shards: shards.clone(),
        server_id: wanted.quic_lb.server_id.clone(),
        congestion: match wanted.congestion {
            Congestion::Bbr => tunnel::Congestion::Bbr,
            Congestion::Cubic => tunnel::Congestion::Cubic,
        },
        stream_window: window(wanted.limits.stream_window.0),
        connection_window: window(wanted.limits.window.0),
        limits: tunnel::Limits {
            tunnels_per_peer: wanted.limits.tunnels as usize,
            streams_per_tunnel: wanted.limits.streams,
            streams_per_peer: wanted.limits.streams_per_peer as usize,
            bytes_per_peer: wanted.limits.bytes.0,
            handshakes_per_second: wanted.limits.handshakes_per_second,
            ..defaults.limits
        },
        ..defaults
    }
}

fn pages(config: &Config, process: &Process, plane: &Arc<Plane>) -> Pages {
    let (shown, plane) = (config.to_json(), plane.clone());
    let pages = Pages::new(process.ready.clone())
        .config(move || shown.clone())
        .snapshot(move || explain::snapshot(&plane));
    match &process.logs {
        Some(logs) => pages.logs(logs.clone()),
        None => pages,
    }
}
