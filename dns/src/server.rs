//! The wiring of a DNS server: bind all, then run, then drain.
//!
//! Called by the command line and by tests. Names are answered from the first moment on (from the
//! zone on disk, or SERVFAIL without one); enrolling and following go on beside it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hansa_core::code::dns::ZONE_MISSING;
use hansa_core::spiffe::Role;
use hansa_link::{Credential, Link};
use hansa_proto::convert::report::NodeInfo;
use hansa_proto::feed::Status;
use hansa_runtime::admin::{Admin, Pages};
use hansa_runtime::drain::Drain;
use hansa_runtime::logs::Logs;
use hansa_runtime::metrics::Families;
use hansa_runtime::ready::Ready;
use hansa_runtime::tasks::Tasks;
use serde_json::json;
use tokio::sync::{Semaphore, watch};

use crate::answer::Responder;
use crate::config::Config;
use crate::forward::Forwarder;
use crate::metrics::DnsMetrics;
use crate::tcp::Tcp;
use crate::udp::{self, Udp};
use crate::zone::{Keeper, Shelf};

/// What the process gives its server.
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

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration does not fit together.
    #[error(transparent)]
    Config(#[from] hansa_runtime::settings::Inconsistent),
    /// A port of names.
    #[error("cannot listen on {address} ({transport}): {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// `udp` or `tcp`.
        transport: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The admin or health port.
    #[error(transparent)]
    Admin(#[from] hansa_runtime::admin::BindError),
    /// The state folder.
    #[error(transparent)]
    State(#[from] hansa_runtime::files::FileError),
    /// The forwarder.
    #[error("cannot forward: {0}")]
    Forward(String),
}

/// Why a server ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It cannot get an identity.
    #[error(transparent)]
    Link(#[from] hansa_link::StartError),
    /// A part failed that it cannot do without.
    #[error(transparent)]
    Task(#[from] hansa_runtime::tasks::TaskFailure),
}

/// A DNS server whose ports are bound.
pub struct Server {
    config: Config,
    process: Process,
    udp: Vec<Udp>,
    tcp: Vec<Tcp>,
    addresses: Vec<SocketAddr>,
    admin: Admin,
    responder: Responder,
    forwarder: Option<Arc<Forwarder>>,
    keeper: Keeper,
    shelf: Shelf,
    status: watch::Sender<Status>,
}

impl Server {
    /// Binds every port and takes the zone from disk.
    ///
    /// # Errors
    /// [`StartError`]; nothing stays bound.
    pub async fn bind(config: Config, process: Process) -> Result<Self, StartError> {
        config.check()?;
        hansa_runtime::files::private_folder(&config.state_dir)?;
        let metrics = DnsMetrics::default();
        let mut families = Families::new();
        metrics.register(&mut families);
        families.add_process();
        families.add_build_info("hansa", "dns", env!("CARGO_PKG_VERSION"), "");
        let forwarder = Forwarder::new(&config.forward, metrics.clone());
        let forwarder = forwarder.map_err(|error| StartError::Forward(error.to_string()))?.map(Arc::new);
        let shelf = Shelf::default();
        let zone = process.ready.condition("zone");
        zone.unset(format!("{ZONE_MISSING} {}: {}", ZONE_MISSING.title, ZONE_MISSING.cause));
        let keeper = Keeper::load(&config.state_dir, shelf.clone(), zone, metrics.clone());
        let responder = Responder::new(shelf.clone(), forwarder.clone(), metrics);
        let (mut udp, mut tcp, mut addresses) = (Vec::new(), Vec::new(), Vec::new());
        let places = Arc::new(Semaphore::new(config.tcp.connections as usize));
        for &address in &config.listen {
            let failed = |transport| move |source| StartError::Listen { address, transport, source };
            let (sockets, listener) = both(address, &config, &places).await.map_err(|(t, e)| failed(t)(e))?;
            addresses.extend(sockets.first().and_then(|socket| socket.local_addr().ok()));
            udp.extend(sockets);
            tcp.push(listener);
        }
        let status = watch::Sender::new(Status::default());
        let pages = pages(&config, &process, (&shelf, &status)).metrics(families.finish());
        let admin = Admin::bind(config.admin.listen, config.health.listen, pages).await?;
        Ok(Self { config, process, udp, tcp, addresses, admin, responder, forwarder, keeper, shelf, status })
    }

    /// The addresses on which names are answered, with their real ports.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The admin address, with its real port.
    pub fn admin_address(&self) -> std::io::Result<SocketAddr> {
        self.admin.local_addr()
    }

    /// The zone in use: for tests and tools.
    pub fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    /// Answers until the drain is over. The caller then shuts its tasks down.
    ///
    /// # Errors
    /// [`RunError`]: no identity can be had, or a part failed.
    pub async fn run(self) -> Result<(), RunError> {
        let Self {
            config, process, udp, tcp, addresses, admin, responder, forwarder, keeper, status, ..
        } = self;
        let tasks = process.tasks.clone();
        for socket in udp {
            tasks.spawn_critical("udp", socket.run(responder.clone(), tasks.clone()));
        }
        for listener in tcp {
            tasks.spawn_critical("tcp", listener.run(responder.clone(), tasks.clone()));
        }
        tasks.spawn_critical("admin", admin.run(tasks.clone(), tasks.token()));
        if let Some(forwarder) = forwarder {
            tasks.spawn_until_shutdown("loop-guard", forwarder.watch_for_loops());
        }
        tracing::info!(?addresses, "answering");
        let node = watch::Sender::new(node(&addresses, &process));
        let follow = follow(&config, &tasks, keeper, (node.subscribe(), status));
        tokio::pin!(follow);
        let begun = process.drain.begun();
        let (ready, told) = (process.ready.clone(), node.clone());
        tasks.spawn_until_shutdown("node", async move {
            let mut beat = tokio::time::interval(Duration::from_secs(1));
            loop {
                beat.tick().await;
                let now = ready.is_ready();
                told.send_if_modified(|node| std::mem::replace(&mut node.ready, now) != now);
            }
        });
        let ended = tokio::select! {
            error = &mut follow => Err(RunError::Link(error)),
            failure = tasks.failed() => Err(RunError::Task(failure)),
            () = begun.cancelled() => Ok(()),
        };
        if let Err(error) = ended {
            process.drain.close_now(error.to_string());
            return Err(error);
        }
        process.ready.withdraw("draining");
        node.send_modify(|node| {
            node.ready = false;
            node.draining = true;
        });
        // Clients still ask until their resolver list changes: names are answered meanwhile.
        let closing = process.drain.closing();
        tokio::select! {
            _ = tokio::time::timeout(config.drain.0, closing.cancelled()) => {}
            error = &mut follow => tracing::warn!(%error, "the link ended while draining"),
        }
        process.drain.finish(Duration::ZERO).await;
        Ok(())
    }
}

type Both = (Vec<Udp>, Tcp);

async fn both(
    address: SocketAddr,
    config: &Config,
    places: &Arc<Semaphore>,
) -> Result<Both, (&'static str, std::io::Error)> {
    // A free port for TCP may be taken for UDP: then another one, where any will do. TCP first, whose ports are
    // the scarcer ones: a closed connection holds its own for a minute.
    for last in [false, false, false, true] {
        let listener = Tcp::bind(address, &config.tcp, places).await.map_err(|error| ("tcp", error))?;
        let local = listener.local_addr().unwrap_or(address);
        match udp::bind(local) {
            Ok(sockets) => return Ok((sockets, listener)),
            Err(error) if last || address.port() != 0 => return Err(("udp", error)),
            Err(_) => {}
        }
    }
    Err(("udp", std::io::ErrorKind::AddrInUse.into()))
}

/// Enrols where needed and follows; returns only with an error.
async fn follow(
    config: &Config,
    tasks: &Tasks,
    keeper: Keeper,
    (node, status): (watch::Receiver<NodeInfo>, watch::Sender<Status>),
) -> hansa_link::StartError {
    let account = config.service_account.as_ref().map(|account| Credential::ServiceAccount {
        token: account.token_file.clone(),
        bundle: account.bundle_file.clone(),
        trust_domain: account.trust_domain.clone(),
    });
    let link = hansa_link::Config {
        role: Role::Dns(config.id.clone()),
        cluster: config.cluster.clone(),
        state_dir: config.state_dir.clone(),
        controllers: config.controller.clone(),
        credential: account.or_else(|| config.enroll_token.clone().map(Credential::Token)),
    };
    match Link::start(link, tasks).await {
        Err(error) => error,
        Ok(link) => {
            keeper.follow(link, node, status).await;
            hansa_link::StartError::Cancelled
        }
    }
}

fn node(addresses: &[SocketAddr], process: &Process) -> NodeInfo {
    let addresses = addresses.iter().map(ToString::to_string).collect();
    NodeInfo { addresses, ready: process.ready.is_ready(), ..NodeInfo::default() }
}

fn pages(config: &Config, process: &Process, (shelf, status): (&Shelf, &watch::Sender<Status>)) -> Pages {
    let (shelf, status) = (shelf.clone(), status.subscribe());
    let snapshot = move || {
        let status = status.borrow().clone();
        let served = shelf.load();
        let at =
            |position: Option<hansa_proto::feed::Position>| position.map(|position| position.to_string());
        let value = json!({
            "connected": status.connected,
            "applied": at(status.applied),
            "published": at(status.published),
            "heardSecondsAgo": status.heard.map(|heard| heard.elapsed().as_secs()),
            "currentSecondsAgo": status.current.map(|current| current.elapsed().as_secs()),
            "error": status.error.map(|error| error.to_string()),
            "refusals": status.refusals,
            "services": served.as_ref().map(|served| served.zone.services.len()),
            "zone": served.as_ref().map(|served| served.zone.clone()),
        });
        value.to_string()
    };
    // A token may stand in the configuration itself.
    let mut shown = config.clone();
    shown.enroll_token =
        shown.enroll_token.map(|text| if text.starts_with("hansa1.") { "…".into() } else { text });
    let shown = serde_json::to_string(&shown).unwrap_or_else(|_| "{}".to_owned());
    let mut pages = Pages::new(process.ready.clone()).snapshot(snapshot).config(move || shown.clone());
    if let Some(logs) = &process.logs {
        pages = pages.logs(logs.clone());
    }
    pages
}
