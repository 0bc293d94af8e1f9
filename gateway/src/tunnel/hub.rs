//! What all parts of the tunnels share, and the tasks that belong to no single tunnel: following
//! the route table, auditing live tunnels, publishing reach, draining.
//!
//! Made by `Tunnels::bind`; held by every other part.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use hansa_core::code;
use hansa_core::mesh::RouteTable;
use hansa_core::name::ClusterId;
use hansa_identity::tls::Tls;
use hansa_identity::verify::{self, TrustSnapshot};
use hansa_runtime::tasks::Tasks;
use quinn::TransportConfig;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::JoinStream;
use super::budget::Budgets;
use super::config::Config;
use super::error::{Cut, plain};
use super::link::{Link, PeerId, unix_millis};
use super::metrics::Metrics;
use super::peer::Lane;
use super::reach::{self, ReachView};
use super::registry::Registry;
use super::request::Request;
use super::slot::{self, Slot};
use super::transport::{self, Diallers, Listener};

/// How often reach is published when nothing changes.
const PUBLISH: Duration = Duration::from_millis(200);
/// How long after GOAWAY what a peer had sent before may still arrive: a way there and back, and some.
pub(crate) const SETTLE: Duration = Duration::from_secs(1);
/// How often live tunnels are held against the trust snapshot.
const AUDIT: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) config: Config,
    pub(crate) identity: Tls,
    pub(crate) table: watch::Receiver<Arc<RouteTable>>,
    pub(crate) registry: Registry,
    pub(crate) budgets: Budgets,
    /// Tunnels made by each peer.
    pub(crate) made: DefaultKeyedRateLimiter<ClusterId>,
    pub(crate) metrics: Metrics,
    pub(crate) tasks: Tasks,
    pub(crate) transport: Arc<TransportConfig>,
    pub(crate) diallers: Diallers,
    pub(crate) listeners: Vec<Listener>,
    /// By shard.
    pub(crate) incoming: Vec<mpsc::Sender<Request>>,
    pub(crate) joins: mpsc::Sender<JoinStream>,
    pub(crate) reach: watch::Sender<Arc<ReachView>>,
    /// Cancelled when draining begins: no request of a peer is taken any more. Our own requests go on.
    pub(crate) draining: CancellationToken,
    /// Peers that a dial to has ended at least once.
    tried: Mutex<BTreeSet<ClusterId>>,
    /// When a refused handshake was last worth a line in the log.
    refusal_said: AtomicU64,
}

/// What [`Hub::new`] is made of besides sockets.
pub(crate) struct Inputs {
    pub(crate) config: Config,
    pub(crate) identity: Tls,
    pub(crate) table: watch::Receiver<Arc<RouteTable>>,
    pub(crate) metrics: Metrics,
}

fn budgets(config: &Config) -> Budgets {
    Budgets::new(config.limits.bytes_per_peer, config.limits.streams_per_peer as u64)
}

/// Handshakes allowed in a second, from one address and of one peer.
pub(crate) fn per_second(config: &Config) -> NonZeroU32 {
    config.limits.handshakes_per_second.try_into().unwrap_or(NonZeroU32::MIN)
}

impl Hub {
    pub(crate) fn new(
        inputs: Inputs,
        (listeners, diallers): (Vec<Listener>, Diallers),
        (incoming, joins): (Vec<mpsc::Sender<Request>>, mpsc::Sender<JoinStream>),
    ) -> Arc<Self> {
        Arc::new(Self {
            transport: transport::quic(&inputs.config),
            budgets: budgets(&inputs.config),
            made: RateLimiter::keyed(Quota::per_second(per_second(&inputs.config))),
            config: inputs.config,
            identity: inputs.identity,
            table: inputs.table,
            registry: Registry::default(),
            metrics: inputs.metrics,
            tasks: Tasks::new(),
            diallers,
            listeners,
            incoming,
            joins,
            reach: watch::Sender::default(),
            draining: CancellationToken::new(),
            tried: Mutex::default(),
            refusal_said: AtomicU64::new(0),
        })
    }

    /// Runs `work` on a shard until the tunnels end.
    pub(crate) fn spawn_on<F>(&self, shard: usize, name: &'static str, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let token = self.tasks.token();
        let work = async move {
            token.run_until_cancelled(work).await;
        };
        self.config.shards.spawn(shard, &self.tasks, name, work);
    }

    /// Logs a refused handshake; strangers fill no log, so at most one line a second.
    pub(crate) fn refused(&self, lane: Lane, from: SocketAddr, why: &str) {
        let why = plain(why);
        self.metrics.refused(lane, &why);
        let now = unix_millis();
        if now.saturating_sub(self.refusal_said.load(Ordering::Relaxed)) < 1_000 {
            tracing::debug!(%from, transport = lane.as_str(), why, "handshake refused");
            return;
        }
        self.refusal_said.store(now, Ordering::Relaxed);
        let code = code::named_in(&why).map(|code| code.to_string());
        tracing::warn!(code, %from, transport = lane.as_str(), why, "handshake refused");
    }

    /// A dial to this peer has ended: from now on, no tunnel means unreachable, not unknown.
    pub(crate) fn dialled(&self, cluster: &ClusterId) {
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        if !tried.contains(cluster) {
            tried.insert(cluster.clone());
            self.registry.changed.notify_one();
        }
    }

    /// Publishes reach at once when a tunnel changes, and every 200 ms.
    pub(crate) async fn publish(self: Arc<Self>) {
        let mut tick = interval(PUBLISH);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.registry.changed.notified() => {}
            }
            self.metrics.look_at_offload(&self.listeners, &self.diallers);
            let table = self.table.borrow().clone();
            let links = self.registry.all();
            let before = self.reach.borrow().clone();
            let next = {
                let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
                tried.retain(|cluster| table.peers.contains_key(cluster));
                reach::view(&table, &links, &tried, &before)
            };
            if next != *before {
                self.reach.send_replace(Arc::new(next));
            }
        }
    }

    /// Follows the table: slots for every gateway of every peer, and no tunnel to anybody else.
    pub(crate) async fn follow(self: Arc<Self>) {
        let mut table = self.table.clone();
        let mut slots = BTreeMap::<Slot, slot::Running>::new();
        let mut trust = Arc::<TrustSnapshot>::default();
        let mut tick = interval(AUDIT);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut changed = true;
        loop {
            let current = self.identity.trust().current();
            if changed || !Arc::ptr_eq(&current, &trust) {
                let now = table.borrow_and_update().clone();
                trust = current;
                self.audit(&now, &trust);
                slot::reconcile(&self, &now, &mut slots);
                self.registry.changed.notify_one();
            }
            changed = tokio::select! {
                _ = tick.tick() => false,
                more = table.changed() => match more {
                    Ok(()) => true,
                    // Nobody will change the table again: what stands, stands.
                    Err(_) => std::future::pending().await,
                },
            };
        }
    }

    /// Cuts every tunnel whose peer is gone or whose certificate would no longer be let in.
    fn audit(&self, table: &RouteTable, trust: &TrustSnapshot) {
        for link in self.registry.all() {
            self.judge(&link, table, trust);
        }
    }

    /// Cuts this tunnel where its peer is gone or its certificate would no longer be let in.
    pub(crate) fn judge(&self, link: &Link, table: &RouteTable, trust: &TrustSnapshot) {
        if let Err(why) = self.still_good(link, table, trust) {
            let peer = &link.facts.peer;
            tracing::warn!(peer = %peer.cluster, gateway = %peer.gateway, %why, "tunnel cut");
            link.close(Cut::Removed(why));
        }
    }

    fn still_good(&self, link: &Link, table: &RouteTable, trust: &TrustSnapshot) -> Result<(), String> {
        let PeerId { cluster, trust_domain, .. } = &link.facts.peer;
        let peer = table.peers.get(cluster).filter(|peer| peer.trust_domain == *trust_domain);
        if peer.is_none() {
            return Err(format!("{cluster} is no longer a peer"));
        }
        // Judged as of its handshake: that a leaf runs out does not end what stands.
        let admit = transport::peers(&self.identity);
        let judged = verify::check(trust, &admit, &link.facts.chain, link.side(), link.made);
        judged.map(|_| ()).map_err(|error| error.to_string())
    }

    /// Says GOAWAY on every tunnel that peers ask on, waits for what runs on them, closes them. True if nothing
    /// had to be cut. The tunnels we ask on stay: whoever still resolves to us is served to the end.
    pub(crate) async fn drain(&self, limit: Duration) -> bool {
        self.draining.cancel();
        let theirs = || {
            let links = self.registry.all();
            links.into_iter().filter(|link| !link.facts.asks).collect::<Vec<_>>()
        };
        let begun = Instant::now();
        let deadline = begun + limit;
        for listener in &self.listeners {
            listener.quic().for_each(|endpoint| endpoint.set_server_config(None));
        }
        let mut tick = interval(Duration::from_millis(50));
        let mut idle = 0;
        let clean = loop {
            let links = theirs();
            for link in &links {
                link.goaway();
            }
            // Some times in a row: a request may be between two hands.
            idle = if links.iter().all(|link| link.streams() == 0) { idle + 1 } else { 0 };
            if links.is_empty() || (idle > 4 && begun.elapsed() >= SETTLE) {
                break true;
            }
            tokio::select! {
                _ = tick.tick() => {}
                () = sleep_until(deadline) => break false,
            }
        };
        for link in theirs() {
            link.close(Cut::Drain);
        }
        clean
    }

    /// Takes a tunnel that ended out of the figures.
    pub(crate) fn gone(&self, link: &Link) {
        let PeerId { cluster, gateway, .. } = &link.facts.peer;
        let table = self.table.borrow().clone();
        let known = table.peers.get(cluster).is_some_and(|peer| peer.gateways.contains_key(gateway));
        self.metrics.gone(link, known);
    }

    /// Cuts every tunnel with this peer.
    pub(crate) fn close_peer(&self, cluster: &ClusterId, why: &str) {
        for link in self.registry.all().iter().filter(|link| link.facts.peer.cluster == *cluster) {
            link.close(Cut::Removed(why.to_owned()));
        }
    }

    /// Lets the closing packets leave.
    pub(crate) async fn flush(&self) {
        let endpoints = self.listeners.iter().flat_map(Listener::quic).chain(self.diallers.all());
        let all = futures::future::join_all(endpoints.map(quinn::Endpoint::wait_idle));
        // What the other side does not acknowledge in this time, it learns by silence.
        let _ = tokio::time::timeout(Duration::from_millis(500), all).await;
    }
}
