//! What failed and is coming back: one memory for peers, services behind peers, and endpoints.
//!
//! Called by outbound and inbound (what happened), by the prober, and by every decision through a
//! snapshot. Only what is not plainly up is remembered; the arithmetic is `hansa_core::reach`. It
//! probes nothing itself.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use hansa_core::Millis;
use hansa_core::catalog::{LocalService, Protocol};
use hansa_core::mesh::{Failback, RouteTable};
use hansa_core::name::{ClusterId, ServiceName};
use hansa_core::reach::{self, Event, Reach, Track};
use hansa_core::route::{self, Reason, Standing};
use serde::{Deserialize, Serialize};

pub(crate) mod prober;
pub(crate) mod saved;

/// Milliseconds since the Unix epoch.
pub(crate) fn now() -> Millis {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as Millis)
}

/// A path that has a memory.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Path {
    /// The tunnels to a peer.
    Peer(ClusterId),
    /// One service port behind a peer.
    Service(ClusterId, ServiceName, Protocol, u16),
    /// One endpoint of our own.
    Endpoint(SocketAddr),
}

impl Path {
    fn text(&self) -> String {
        match self {
            Path::Peer(cluster) => format!("peer {cluster}"),
            Path::Service(cluster, service, Protocol::Tcp, port) => format!("{service}:{port} in {cluster}"),
            Path::Service(cluster, service, protocol, port) => {
                format!("{service}:{port}/{protocol} in {cluster}")
            }
            Path::Endpoint(address) => format!("endpoint {address}"),
        }
    }
}

/// The memory of one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Memory {
    /// Its track.
    pub(crate) track: Track,
    /// When the present reason began.
    pub(crate) since: Millis,
    /// Probes since it went down.
    #[serde(skip)]
    pub(crate) attempt: u32,
    /// When the next probe is due.
    #[serde(skip)]
    pub(crate) due: Millis,
}

/// An immutable view of all memories and of the tunnels' reach.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    paths: HashMap<Path, Memory>,
    peers: HashMap<ClusterId, Seen>,
}

/// What the tunnels say of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    reach: Reach,
    since: Millis,
    /// It was reachable once: only then a loss is a failure.
    met: bool,
}

/// The one memory. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Tracks {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<Snapshot>,
    published: ArcSwap<Snapshot>,
    failback: Mutex<Failback>,
    wake: tokio::sync::Notify,
}

impl Default for Tracks {
    fn default() -> Self {
        let inner = Inner {
            state: Mutex::default(),
            published: ArcSwap::default(),
            failback: Mutex::new(Failback::default()),
            wake: tokio::sync::Notify::new(),
        };
        Self { inner: Arc::new(inner) }
    }
}

impl Tracks {
    /// The present view.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.inner.published.load_full()
    }

    /// Something happened on a path. Successes cost nothing while the path is plainly up.
    pub(crate) fn record(&self, path: &Path, event: Event) {
        let good = matches!(event, Event::Succeeded | Event::ProbePassed | Event::Tick);
        if good && !self.inner.published.load().paths.contains_key(path) {
            return;
        }
        self.change(|state, failback| {
            step(state, path, event, failback, now());
        });
        if !good {
            self.inner.wake.notify_one();
        }
    }

    /// The tunnels' reach of a peer changed.
    pub(crate) fn reached(&self, peer: &ClusterId, reach: Reach) {
        let now = now();
        self.change(|state, failback| {
            let old = state.peers.get(peer).copied();
            let met = old.is_some_and(|o| o.met) || reach == Reach::Reachable;
            let since = old.filter(|o| o.reach == reach).map_or(now, |o| o.since);
            state.peers.insert(peer.clone(), Seen { reach, since, met });
            let path = Path::Peer(peer.clone());
            match reach {
                Reach::Unreachable if old.is_some_and(|o| o.met && o.reach != reach) => {
                    step(state, &path, Event::Failed, failback, now);
                }
                Reach::Reachable if state.paths.contains_key(&path) => {
                    step(state, &path, Event::ProbePassed, failback, now);
                }
                _ => {}
            }
        });
    }

    /// Takes the table's settings and forgets what is in no table any more.
    pub(crate) fn adopt(&self, table: &RouteTable) {
        *self.inner.failback.lock().unwrap_or_else(PoisonError::into_inner) = table.failback;
        if table.peers.is_empty() && table.services.is_empty() {
            // Nothing is known yet: what was remembered over a restart waits for the table.
            return;
        }
        let endpoints: std::collections::HashSet<_> =
            table.services.values().filter_map(|s| s.local.as_ref()).flat_map(sockets).collect();
        self.change(|state, _| {
            state.peers.retain(|peer, _| table.peers.contains_key(peer));
            state.paths.retain(|path, _| match path {
                Path::Peer(peer) => table.peers.contains_key(peer),
                Path::Service(cluster, service, protocol, port) => {
                    let row = table.services.get(service).and_then(|s| s.candidate(cluster));
                    row.is_some_and(|c| c.ports.contains(&(*protocol, *port)))
                }
                Path::Endpoint(address) => endpoints.contains(address),
            });
        });
    }

    /// Lets time pass: what has fully come back is forgotten.
    fn tick(&self) {
        self.change(|state, failback| {
            let now = now();
            for memory in state.paths.values_mut() {
                let next = reach::age(memory.track, failback, now);
                if next != memory.track {
                    memory.track = next;
                    memory.since = now;
                }
            }
            state.paths.retain(|_, memory| memory.track != Track::Up);
        });
    }

    /// Counts the endpoints of the own cluster: ready, not ready, and ready but failing from here.
    fn census(&self, table: &RouteTable) -> [(&'static str, i64); 3] {
        let view = self.snapshot();
        let (mut ready, mut unready, mut down) = (0, 0, 0);
        let local = table.services.values().filter_map(|row| row.local.as_ref());
        for endpoint in local.flat_map(|local| &local.endpoints) {
            for port in &endpoint.ports {
                let path = Path::Endpoint(SocketAddr::new(endpoint.address, port.target));
                match (endpoint.ready, view.track(&path)) {
                    (false, _) => unready += 1,
                    (true, Track::Down { .. }) => down += 1,
                    (true, _) => ready += 1,
                }
            }
        }
        [("ready", ready), ("unready", unready), ("down", down)]
    }

    fn failback(&self) -> Failback {
        *self.inner.failback.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Snapshot, &Failback)) {
        let failback = self.failback();
        let mut state: MutexGuard<'_, Snapshot> =
            self.inner.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = (state.paths.clone(), state.peers.clone());
        change(&mut state, &failback);
        if before.0 != state.paths || before.1 != state.peers {
            self.inner.published.store(Arc::new(state.clone()));
        }
    }

    /// How a remote candidate stands.
    pub(crate) fn standing(&self, view: &Snapshot, cluster: &ClusterId, path: &Path) -> Standing {
        let reach = view.peers.get(cluster).map_or(Reach::Unknown, |seen| seen.reach);
        let tracks = [view.track(&Path::Peer(cluster.clone())), view.track(path)];
        route::standing(reach, tracks, &self.failback(), now())
    }

    /// The share of its normal traffic that a path may get now.
    pub(crate) fn weight(&self, view: &Snapshot, path: &Path) -> f64 {
        match view.paths.get(path) {
            None => 1.0,
            Some(memory) => reach::weight(memory.track, &self.failback(), now()),
        }
    }

    /// How the own cluster stands: by the tracks of its ready endpoints.
    pub(crate) fn local_standing(
        &self,
        view: &Snapshot,
        local: &LocalService,
        port: (Protocol, u16),
    ) -> Standing {
        let (failback, now) = (self.failback(), now());
        let tracks: Vec<Track> = dialable(local, port)
            .map(|address| reach::age(view.track(&Path::Endpoint(address)), &failback, now))
            .collect();
        if tracks.is_empty() {
            return Standing { factor: 0.0, reason: Reason::NoEndpoints, proven: false };
        }
        let whole: f64 = tracks.iter().map(|t| reach::weight(*t, &failback, now)).sum();
        let factor = whole / tracks.len() as f64;
        let any = |wanted: fn(&Track) -> bool| tracks.iter().any(wanted);
        let reason = match () {
            () if any(|t| matches!(t, Track::Up)) => Reason::Healthy,
            () if any(|t| matches!(t, Track::Ramp { .. })) => Reason::Ramp,
            () if any(|t| matches!(t, Track::HoldDown { .. })) => Reason::HoldDown,
            () => Reason::Down,
        };
        Standing { factor, reason, proven: reason != Reason::Down }
    }
}

fn step(state: &mut Snapshot, path: &Path, event: Event, failback: &Failback, now: Millis) {
    let old = state.paths.get(path).copied();
    let before = old.map_or(Track::Up, |m| m.track);
    let mut track = reach::step(before, event, failback, now);
    if let (Track::Down { since, .. }, Track::Down { .. }) = (before, track) {
        // Failures of a storm are one failure: the backoff counts probes alone.
        track = Track::Down { since, failed_probes: 0 };
    }
    let changed = std::mem::discriminant(&before) != std::mem::discriminant(&track);
    if changed {
        tracing::info!(path = %path.text(), from = name(before), to = name(track), "path");
    }
    if track == Track::Up {
        state.paths.remove(path);
        return;
    }
    let kept = old.filter(|_| !changed);
    let fresh = Memory { track, since: now, attempt: 0, due: now };
    let memory = kept.map_or(fresh, |m| Memory { track, ..m });
    state.paths.insert(path.clone(), memory);
}

fn name(track: Track) -> &'static str {
    match track {
        Track::Up => "up",
        Track::Down { .. } => "down",
        Track::HoldDown { .. } => "hold-down",
        Track::Ramp { .. } => "ramp",
    }
}

impl Snapshot {
    /// The track of a path; up unless something else is remembered.
    pub(crate) fn track(&self, path: &Path) -> Track {
        self.paths.get(path).map_or(Track::Up, |memory| memory.track)
    }

    /// Since when the worse of peer and path is as it is; none if it always was so.
    pub(crate) fn since(&self, cluster: &ClusterId, path: &Path) -> Option<Millis> {
        let peer = self.paths.get(&Path::Peer(cluster.clone())).map(|m| m.since);
        let own = self.paths.get(path).map(|m| m.since);
        let lost = self.peers.get(cluster).filter(|s| s.reach != Reach::Reachable).map(|s| s.since);
        [peer, own, lost].into_iter().flatten().max()
    }

    /// What the tunnels say of a peer.
    pub(crate) fn reach(&self, cluster: &ClusterId) -> Reach {
        self.peers.get(cluster).map_or(Reach::Unknown, |seen| seen.reach)
    }

    /// Nothing was tried there yet: no dial has ended, and no failure is remembered.
    pub(crate) fn is_new(&self, cluster: &ClusterId, path: &Path) -> bool {
        let up = |path: &Path| self.track(path) == Track::Up;
        self.reach(cluster) == Reach::Unknown && up(path) && up(&Path::Peer(cluster.clone()))
    }

    /// All memories by name, for the debug page.
    pub(crate) fn shown(&self) -> BTreeMap<String, Memory> {
        self.paths.iter().map(|(path, memory)| (path.text(), *memory)).collect()
    }
}

/// Addresses of the ready endpoints that serve a service port.
pub(crate) fn dialable(local: &LocalService, port: (Protocol, u16)) -> impl Iterator<Item = SocketAddr> + '_ {
    local.endpoints.iter().filter(|e| e.ready).flat_map(move |e| {
        let serves = move |t: &&hansa_core::catalog::TargetPort| (t.protocol, t.service) == port;
        e.ports.iter().filter(serves).map(move |t| SocketAddr::new(e.address, t.target))
    })
}

fn sockets(local: &LocalService) -> impl Iterator<Item = SocketAddr> + '_ {
    local.endpoints.iter().flat_map(|e| e.ports.iter().map(|t| SocketAddr::new(e.address, t.target)))
}

#[cfg(test)]
mod tests;
