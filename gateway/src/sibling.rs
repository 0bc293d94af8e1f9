//! Sibling gateways stand in for each other: whose virtual addresses we hold now.
//!
//! Each gateway watches the others over their relay ports. When one dies, the next one in order
//! brings its addresses up; when it returns, it asks for them and gets them once no connection on
//! them is left (at once where both are on one host). It moves no byte of a client.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hansa_core::mesh::{RouteTable, Sibling};
use hansa_core::name::NodeId;
use hansa_identity::tls::Tls;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::plane::Plane;
use crate::relay::{self, Ask};
use crate::vip::Addresses;

mod watch_one;

/// A sibling that was never met is not taken for dead before so long after our start: it may be
/// starting too.
const PATIENCE: Duration = Duration::from_millis(2_500);
/// Who asked so lately is not dead.
const FRESH: Duration = Duration::from_millis(700);
/// How often waiting handovers are looked at.
const TICK: Duration = Duration::from_millis(100);

/// What the keeper is given.
pub(crate) struct Parts {
    /// Identity and trust.
    pub(crate) tls: Tls,
    /// The configuration.
    pub(crate) config: Config,
    /// The inside port, if there is one.
    pub(crate) relay: Option<TcpListener>,
}

/// Whose addresses are ours to serve.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    /// Gateways whose listeners we hold, ourselves included once our addresses are ours.
    pub(crate) owners: watch::Receiver<Arc<BTreeSet<NodeId>>>,
    /// Why our own addresses are not up; none when they are.
    pub(crate) held: watch::Receiver<Option<String>>,
}

/// What a watch over one sibling says.
#[derive(Debug)]
pub(super) enum Seen {
    /// Its relay answers; our own addresses are not yet known to be free.
    Up(NodeId),
    /// It says that it does not hold our addresses.
    Granted(NodeId),
    /// It does not answer.
    Dead(NodeId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unknown,
    Up { granted: bool },
    Dead { met: bool },
}

/// Begins to keep addresses on the plane's tasks.
pub(crate) fn begin(plane: &Arc<Plane>, parts: Parts) -> Standing {
    let (owners, owners_seen) = watch::channel(Arc::default());
    let (held, held_seen) = watch::channel(Some("not yet asked of the siblings".to_owned()));
    let (asks, asked) = mpsc::channel(32);
    if let Some(listener) = parts.relay {
        let serve = relay::run(plane.clone(), parts.tls.clone(), listener, asks.clone());
        plane.tasks.spawn_until_shutdown("relay", serve);
    }
    let (seen, events) = mpsc::channel(64);
    let addresses = Addresses::new(&parts.config.vip, parts.config.relay.listen);
    let keeper = Keeper {
        plane: plane.clone(),
        tls: parts.tls,
        addresses,
        owners,
        held,
        states: BTreeMap::new(),
        watches: BTreeMap::new(),
        leaving: BTreeMap::new(),
        asked: BTreeMap::new(),
        hangups: BTreeMap::new(),
        seen,
        begun: Instant::now(),
        returned: false,
    };
    plane.tasks.spawn_until_shutdown("siblings", keeper.run(events, asked, asks));
    Standing { owners: owners_seen, held: held_seen }
}

struct Keeper {
    plane: Arc<Plane>,
    tls: Tls,
    addresses: Addresses,
    owners: watch::Sender<Arc<BTreeSet<NodeId>>>,
    held: watch::Sender<Option<String>>,
    states: BTreeMap<NodeId, State>,
    watches: BTreeMap<NodeId, (std::net::SocketAddr, CancellationToken)>,
    /// Siblings that want their addresses back, with those who wait for the answer.
    leaving: BTreeMap<NodeId, Vec<oneshot::Sender<()>>>,
    /// When a sibling last asked: it lives, whatever an older look at it said.
    asked: BTreeMap<NodeId, Instant>,
    /// Ends the connection that a sibling last asked on: one for each own gateway. It may ask before the table
    /// names it.
    hangups: BTreeMap<NodeId, CancellationToken>,
    seen: mpsc::Sender<Seen>,
    begun: Instant,
    /// A sibling gave our addresses back: neighbours may still look for them there.
    returned: bool,
}

impl Keeper {
    async fn run(
        mut self,
        mut events: mpsc::Receiver<Seen>,
        mut asked: mpsc::Receiver<Ask>,
        _asks: mpsc::Sender<Ask>,
    ) {
        let mut table = self.plane.table.clone();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let now = table.borrow_and_update().clone();
            self.follow(&now);
            self.settle(&now);
            tokio::select! {
                changed = table.changed() => if changed.is_err() {
                    // Whoever made the table is gone; it stays in force.
                    std::future::pending::<()>().await;
                },
                Some(seen) = events.recv() => self.saw(seen),
                Some(ask) = asked.recv() => self.ask(ask),
                _ = tick.tick(), if self.is_waiting() => {}
            }
        }
    }

    /// Watches exactly the siblings of the table.
    fn follow(&mut self, table: &RouteTable) {
        let others = || table.siblings.values().filter(|s| s.id != self.plane.id);
        let wanted: BTreeMap<_, _> = others().filter_map(|s| Some((s.id.clone(), s.relay?))).collect();
        self.watches.retain(|id, (relay, stop)| {
            let keep = wanted.get(id) == Some(relay);
            if !keep {
                stop.cancel();
            }
            keep
        });
        self.states.retain(|id, _| wanted.contains_key(id));
        for (id, relay) in wanted {
            self.states.entry(id.clone()).or_insert(State::Unknown);
            if !self.watches.contains_key(&id) {
                let stop = CancellationToken::new();
                let watch = watch_one::run(self.tls.clone(), id.clone(), relay, self.seen.clone());
                let end = stop.clone();
                self.plane.tasks.spawn_until_shutdown("sibling", async move {
                    end.run_until_cancelled(watch).await;
                });
                self.watches.insert(id, (relay, stop));
            }
        }
    }

    fn ask(&mut self, ask: Ask) {
        let id = ask.sibling;
        self.asked.insert(id.clone(), Instant::now());
        self.hangups.insert(id.clone(), ask.hangup);
        if let Some(State::Dead { .. }) = self.states.get(&id) {
            // Else its addresses would be taken again as soon as they are given back.
            self.states.insert(id.clone(), State::Up { granted: true });
        }
        self.leaving.entry(id).or_default().push(ask.released);
    }

    fn saw(&mut self, seen: Seen) {
        let (id, next) = match seen {
            // The grant may come before the first ping's answer.
            Seen::Up(id) => {
                let granted = matches!(self.states.get(&id), Some(State::Up { granted: true }));
                (id, State::Up { granted })
            }
            Seen::Granted(id) => {
                self.returned = true;
                (id, State::Up { granted: true })
            }
            Seen::Dead(id) => {
                if self.asked.get(&id).is_some_and(|at| at.elapsed() < FRESH) {
                    return;
                }
                let met = match self.states.get(&id) {
                    Some(State::Up { .. }) => true,
                    Some(State::Dead { met }) => *met,
                    _ => false,
                };
                (id, State::Dead { met })
            }
        };
        let Some(state) = self.states.get_mut(&id) else { return };
        if *state != next {
            tracing::info!(sibling = %id, state = ?next, "sibling");
            *state = next;
        }
    }

    fn is_waiting(&self) -> bool {
        !self.leaving.is_empty()
            || (self.begun.elapsed() < PATIENCE * 2
                && self.states.values().any(|s| !matches!(s, State::Up { .. })))
            || self.held.borrow().is_some()
    }

    /// Brings up and gives back what the states ask for.
    fn settle(&mut self, table: &RouteTable) {
        let mut owners = BTreeSet::clone(&self.owners.borrow());
        let me = self.plane.id.clone();
        if !owners.contains(&me) && self.own_is_free() && table.siblings.contains_key(&me) {
            owners.insert(me.clone());
        }
        let mut taken = Vec::new();
        for (id, state) in &self.states {
            let dead = match state {
                State::Dead { met } => *met || self.begun.elapsed() >= PATIENCE,
                State::Up { .. } | State::Unknown => false,
            };
            let ours = dead && !self.leaving.contains_key(id) && owners.contains(&me) && self.is_next(id);
            if ours && owners.insert(id.clone()) {
                taken.push(id.clone());
            }
        }
        // One that was only slow does not know that it lost them: now it has to ask.
        taken.iter().filter_map(|id| self.hangups.remove(id)).for_each(|hangup| hangup.cancel());
        owners.retain(|id| *id == me || self.states.contains_key(id));
        self.give_back(&mut owners, table);
        self.bring_up(&owners, table);
        let reason = match owners.contains(&me) {
            true => self.addresses.problem(&me).map(str::to_owned),
            false => Some(self.why_not(table)),
        };
        self.held.send_if_modified(|old| {
            let changed = *old != reason;
            *old = reason;
            changed
        });
        self.plane.metrics.taken_over.set(owners.iter().filter(|id| **id != me).count() as i64);
        if **self.owners.borrow() != owners {
            tracing::info!(?owners, "virtual addresses held");
            self.owners.send_replace(Arc::new(owners));
        }
    }

    fn own_is_free(&self) -> bool {
        self.states.values().all(|s| matches!(s, State::Up { granted: true } | State::Dead { .. }))
    }

    fn why_not(&self, table: &RouteTable) -> String {
        if !table.siblings.contains_key(&self.plane.id) {
            return "this gateway is not in the table yet".to_owned();
        }
        let waiting = |s: &State| !matches!(s, State::Up { granted: true } | State::Dead { .. });
        let of: Vec<_> = self.states.iter().filter(|(_, s)| waiting(s)).map(|(id, _)| id.as_str()).collect();
        format!("waiting for {} to give the addresses back", of.join(", "))
    }

    /// True if we are the first living gateway after `dead` in the circle of ids.
    fn is_next(&self, dead: &NodeId) -> bool {
        let me = &self.plane.id;
        let living = |id: &NodeId| matches!(self.states.get(id), Some(State::Up { .. }));
        let mut circle: Vec<&NodeId> = self.states.keys().chain([me]).collect();
        circle.sort();
        let after = circle.iter().filter(|id| **id > dead);
        let before = circle.iter().filter(|id| **id < dead);
        after.chain(before).find(|id| **id == me || living(id)) == Some(&me)
    }

    /// Answers those who asked, once nothing runs on their addresses.
    fn give_back(&mut self, owners: &mut BTreeSet<NodeId>, table: &RouteTable) {
        let plane = &self.plane;
        let mut free = Vec::new();
        for id in self.leaving.keys() {
            let local = table.siblings.get(id).is_none_or(is_loopback);
            if !owners.contains(id) || local || plane.tenants.count(id) == 0 {
                free.push(id.clone());
            }
        }
        for id in free {
            if owners.remove(&id) {
                tracing::info!(?owners, "virtual addresses held");
                // Listeners first: who asked binds the same addresses next.
                self.owners.send_replace(Arc::new(owners.clone()));
                let wait = plane.tenants.closed(&id);
                let (plane, answers) = (plane.clone(), self.leaving.remove(&id).unwrap_or_default());
                self.addresses.down(&id);
                plane.tasks.clone().spawn_until_shutdown("handover", async move {
                    let _ = tokio::time::timeout(Duration::from_secs(1), wait).await;
                    tell(answers);
                });
            } else {
                let answers = self.leaving.remove(&id).unwrap_or_default();
                tell(answers);
            }
        }
    }

    fn bring_up(&mut self, owners: &BTreeSet<NodeId>, table: &RouteTable) {
        for id in owners {
            let Some(sibling) = table.siblings.get(id) else { continue };
            let vips = || {
                let rows = table.services.values();
                let hosts = |row: &Arc<hansa_core::mesh::ServiceRoute>| -> Vec<std::net::IpAddr> {
                    let own = row.vips.get(id).into_iter().flatten().copied();
                    let hosts = row.hosts.iter().filter_map(|h| h.vips.get(id)).flatten().copied();
                    own.chain(hosts).collect()
                };
                rows.flat_map(hosts).collect::<Vec<_>>()
            };
            if *id == self.plane.id && std::mem::take(&mut self.returned) {
                self.addresses.again(&self.plane, id, vips);
            }
            self.addresses.up(&self.plane, id, &sibling.blocks, vips);
        }
    }
}

/// Who asked may be gone; then nobody needs the answer.
fn tell(answers: Vec<oneshot::Sender<()>>) {
    for answer in answers {
        let _ = answer.send(());
    }
}

fn is_loopback(sibling: &Sibling) -> bool {
    sibling.blocks.iter().all(|block| block.addr().is_loopback())
}
