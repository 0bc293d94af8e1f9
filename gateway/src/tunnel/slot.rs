//! The driver of one wanted tunnel: carries out what the state machine in `peer` says.
//!
//! One task per slot, kept by `hub` in step with the table. Decides nothing itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{AbortHandle, Abortable, Aborted};
use futures::stream::{FuturesUnordered, StreamExt};
use hansa_core::Millis;
use hansa_core::backoff::Backoff;
use hansa_core::code::gateway;
use hansa_core::mesh::{RouteTable, Transport};
use hansa_core::name::{ClusterId, NodeId};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::dial::{self, DialError, Fresh, Target};
use super::error::Cut;
use super::hub::Hub;
use super::link::{Condition, Link, PeerId};
use super::live::{self, live};
use super::names::{self, Names};
use super::peer::{Action, Event, Lane, Now, Rules, State, step};

/// Which wanted tunnel: peer, its gateway, number, and whether they ask.
pub(crate) type Slot = (ClusterId, NodeId, usize, bool);

/// A slot's task as `hub` holds it.
#[derive(Debug)]
pub(crate) struct Running {
    shard: usize,
    wanted: watch::Sender<Wanted>,
    end: CancellationToken,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    target: Target,
    transport: Transport,
}

/// Starts, changes and ends slots so that they are those of the table.
pub(crate) fn reconcile(hub: &Arc<Hub>, table: &RouteTable, slots: &mut BTreeMap<Slot, Running>) {
    let wanted = wanted(hub, table);
    slots.retain(|slot, running| {
        let stays = wanted.contains_key(slot);
        if !stays {
            running.end.cancel();
        }
        stays
    });
    for (slot, want) in wanted {
        if let Some(running) = slots.get(&slot) {
            running.wanted.send_if_modified(|now| {
                let differs = *now != want;
                if differs {
                    *now = want;
                }
                differs
            });
            continue;
        }
        let (sender, receiver) = watch::channel(want);
        // Peers ask nothing more on a reverse tunnel while we drain; ours outlive the drain.
        let end = if slot.3 { hub.draining.child_token() } else { CancellationToken::new() };
        let shard = shard(&slot, slots, hub.config.shards.count());
        hub.spawn_on(shard, "slot", run(hub.clone(), receiver, end.clone()));
        slots.insert(slot, Running { shard, wanted: sender, end });
    }
}

/// Where a new slot lives, for good: on the shard that has the fewest to this peer, then the fewest at all.
fn shard((peer, _, _, turned): &Slot, slots: &BTreeMap<Slot, Running>, count: usize) -> usize {
    let load = |shard: usize| {
        let here = || slots.iter().filter(move |(_, running)| running.shard == shard);
        let same = here().filter(|((of, _, _, way), _)| (of, way) == (peer, turned));
        (same.count(), here().count())
    };
    (0..count).min_by_key(|shard| load(*shard)).unwrap_or(0)
}

/// Tunnels to all gateways of one peer together, for shards; more shards share them.
const SPREAD: usize = 4;

/// How many tunnels to each of `gateways` gateways: enough that, up to a few, each shard has one to the peer.
fn each(hub: &Hub, gateways: usize) -> usize {
    let spread = hub.config.shards.count().min(SPREAD).div_ceil(gateways.max(1));
    spread.max(usize::from(hub.config.connections_per_gateway))
}

fn wanted(hub: &Hub, table: &RouteTable) -> BTreeMap<Slot, Wanted> {
    let mut all = BTreeMap::new();
    let turns = hub.config.dial_only && !hub.draining.is_cancelled();
    for peer in table.peers.values() {
        let gateways = || peer.gateways.values().filter(|gateway| !gateway.addresses.is_empty());
        let count = gateways().count();
        for gateway in gateways() {
            let id = PeerId {
                cluster: peer.cluster.clone(),
                trust_domain: peer.trust_domain.clone(),
                gateway: gateway.id.clone(),
            };
            for number in 0..each(hub, count) {
                for turned in [false, true].into_iter().filter(|turned| !turned || turns) {
                    let addresses = gateway.addresses.clone();
                    let target = Target { peer: id.clone(), addresses, turned };
                    let slot = (peer.cluster.clone(), gateway.id.clone(), number, turned);
                    all.insert(slot, Wanted { target, transport: peer.transport });
                }
            }
        }
    }
    all
}

type Dialled = (Lane, Result<Result<Fresh, DialError>, Aborted>);

struct Driver {
    hub: Arc<Hub>,
    wanted: watch::Receiver<Wanted>,
    rules: Rules,
    state: State,
    begun: Instant,
    dials: FuturesUnordered<futures::future::BoxFuture<'static, Dialled>>,
    running: BTreeMap<Lane, AbortHandle>,
    /// Just dialled, until the next action says what becomes of it.
    fresh: Option<Fresh>,
    current: Option<Arc<Link>>,
    trial: Option<Arc<Link>>,
    said: Option<DialError>,
    names: Names,
}

async fn run(hub: Arc<Hub>, wanted: watch::Receiver<Wanted>, end: CancellationToken) {
    let rules = rules(&hub, wanted.borrow().transport);
    let (begun, pace) = (Instant::now(), hub.config.timing.names);
    let state = State::first(&rules, Now { at: 0, draw: 0.0 });
    let mut driver = Driver {
        hub,
        wanted,
        rules,
        state,
        begun,
        dials: FuturesUnordered::new(),
        running: BTreeMap::new(),
        fresh: None,
        current: None,
        trial: None,
        said: None,
        names: Names::new(begun, pace),
    };
    driver.handle(Event::Tick);
    loop {
        tokio::select! {
            () = end.cancelled() => break,
            event = driver.next() => {
                if let Some(event) = event {
                    driver.handle(event);
                }
            }
        }
    }
    // The tunnels stay until their requests are over, or until the audit cuts them.
    for link in driver.current.iter().chain(&driver.trial) {
        link.retire();
    }
    driver.hub.registry.refresh();
}

fn rules(hub: &Hub, transport: Transport) -> Rules {
    let millis = |duration: Duration| Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX);
    let timing = &hub.config.timing;
    Rules {
        transport,
        http2_delay: millis(timing.http2_delay),
        probe_every: millis(timing.quic_probe),
        trial: millis(timing.quic_trial),
        backoff: Backoff::ONLY_PATH,
    }
}

/// Completes when the condition of this tunnel changes.
async fn turn(conditions: Option<watch::Receiver<Condition>>, seen: Condition) -> Condition {
    let Some(mut conditions) = conditions else { return std::future::pending().await };
    match conditions.wait_for(|now| *now != seen).await {
        Ok(now) => *now,
        Err(_) => Condition::Closed,
    }
}

impl Driver {
    fn now(&self) -> Now {
        let at = Millis::try_from(self.begun.elapsed().as_millis()).unwrap_or(Millis::MAX);
        Now { at, draw: rand::random() }
    }

    /// Waits for the next thing that concerns the state machine.
    async fn next(&mut self) -> Option<Event> {
        let due = self.state.due(&self.rules);
        let due = due.map(|at| self.begun + Duration::from_millis(at));
        let far = self.begun + Duration::from_secs(u64::from(u32::MAX));
        let (seen, conditions) = (self.seen(), self.current.as_ref().map(|link| link.conditions()));
        let trial = self.trial.as_ref().map(|link| link.conditions());
        let young = |link: &Arc<Link>| self.hub.config.max_age.saturating_sub(link.age());
        let ages = matches!(self.state, State::Up { .. }) && self.current.is_some();
        let remote = self.current.as_ref().and_then(|link| link.facts.remote);
        let (names, look_at) = (self.wanted.borrow().target.addresses.clone(), self.names.due());
        let look = async {
            match remote {
                Some(remote) => names::look(look_at, &names, remote).await,
                None => std::future::pending().await,
            }
        };
        let left = self.current.as_ref().map_or(Duration::MAX, young);
        tokio::select! {
            biased;
            now = turn(conditions, seen) => Some(self.turned(now)),
            _ = turn(trial, Condition::Good) => {
                if let Some(link) = self.trial.take() {
                    link.close(Cut::Path("silent while on trial".to_owned()));
                }
                Some(Event::TrialLost)
            }
            Some((lane, dialled)) = self.dials.next() => self.dialled(lane, dialled),
            Ok(()) = self.wanted.changed() => {
                let transport = self.wanted.borrow_and_update().transport;
                if transport == self.rules.transport {
                    return None;
                }
                self.rules = rules(&self.hub, transport);
                Some(Event::Rules)
            }
            found = look, if ages => {
                let gone = self.names.looked(found, Instant::now());
                // As with one that is too old.
                gone.then_some(Event::GoingAway)
            }
            // It goes on taking requests until a younger one is there.
            () = tokio::time::sleep(left), if ages => Some(Event::GoingAway),
            () = sleep_until(due.unwrap_or(far)) => Some(Event::Tick),
        }
    }

    /// The condition of the tunnel in use that the state machine knows of.
    fn seen(&self) -> Condition {
        match (self.state, &self.current) {
            (State::Up { .. }, _) => Condition::Good,
            (_, Some(link)) => match link.condition() {
                Condition::Suspect => Condition::Suspect,
                Condition::Good if self.is_outlived(link) => Condition::Good,
                _ => Condition::GoingAway,
            },
            (_, None) => Condition::Closed,
        }
    }

    /// It is replaced although nothing is wrong with it.
    fn is_outlived(&self, link: &Link) -> bool {
        link.age() >= self.hub.config.max_age || self.names.is_gone() || !self.rules.allows(link.lane())
    }

    fn turned(&mut self, now: Condition) -> Event {
        match now {
            Condition::Good => Event::Relief,
            Condition::Suspect => Event::Doubt,
            Condition::GoingAway => Event::GoingAway,
            Condition::Closed => {
                self.current = None;
                Event::Lost
            }
        }
    }

    fn dialled(&mut self, lane: Lane, dialled: Result<Result<Fresh, DialError>, Aborted>) -> Option<Event> {
        let dialled = dialled.ok()?;
        self.running.remove(&lane);
        let peer = self.wanted.borrow().target.peer.clone();
        self.hub.dialled(&peer.cluster);
        match dialled {
            Ok(fresh) => {
                self.said = None;
                self.fresh = Some(fresh);
                Some(Event::Dialled(lane))
            }
            Err(error) => {
                // Said once, until something changes.
                if self.said.as_ref() != Some(&error) {
                    tracing::warn!(code = %error.message(), peer = %peer.cluster, gateway = %peer.gateway,
                        transport = lane.as_str(), %error, "cannot reach the peer's gateway");
                    self.said = Some(error);
                }
                Some(Event::Failed(lane))
            }
        }
    }

    fn handle(&mut self, event: Event) {
        let (next, actions) = step(self.state, event, &self.rules, self.now());
        self.state = next;
        for action in actions {
            match action {
                Action::Dial(lane) => self.dial(lane),
                Action::Abandon(lane) => {
                    if let Some(handle) = self.running.remove(&lane) {
                        handle.abort();
                    }
                }
                Action::Adopt => self.adopt(),
                Action::Try => self.trial = self.start(true),
                Action::Discard => {
                    // Dropping what drives it closes it.
                    self.fresh = None;
                    self.close_trial();
                }
            }
        }
    }

    fn dial(&mut self, lane: Lane) {
        let target = self.wanted.borrow().target.clone();
        let (handle, registration) = AbortHandle::new_pair();
        self.running.insert(lane, handle);
        let dialling = dial::dial(self.hub.clone(), target, lane);
        let dialling = Abortable::new(dialling, registration);
        self.dials.push(Box::pin(async move { (lane, dialling.await) }));
    }

    /// Lets the fresh tunnel live; on trial it takes no requests yet.
    fn start(&mut self, trial: bool) -> Option<Arc<Link>> {
        let Fresh { link, run } = self.fresh.take()?;
        link.set_trial(trial);
        // Before the one it replaces is retired: there is never a moment without either.
        live::enter(&self.hub, &link);
        self.hub.tasks.spawn_until_shutdown("tunnel", live(self.hub.clone(), link.clone(), run));
        Some(link)
    }

    fn close_trial(&mut self) {
        if let Some(link) = self.trial.take() {
            link.close(Cut::Drain);
        }
    }

    fn adopt(&mut self) {
        let next = match self.start(false) {
            Some(link) => link,
            None => match self.trial.take() {
                Some(link) => link,
                None => return,
            },
        };
        next.set_trial(false);
        self.names = Names::new(Instant::now(), self.hub.config.timing.names);
        if next.lane() == Lane::Http2 && self.rules.transport == Transport::Auto {
            let peer = &next.facts.peer;
            tracing::warn!(code = %gateway::UDP_BLOCKED, peer = %peer.cluster, gateway = %peer.gateway,
                "QUIC does not get through; using HTTP/2");
        }
        if let Some(old) = self.current.replace(next.clone()) {
            old.retire();
            if old.lane() != next.lane() {
                let (peer, from, to) = (&next.facts.peer, old.lane(), next.lane());
                self.hub.metrics.fallback(from, to);
                tracing::info!(peer = %peer.cluster, gateway = %peer.gateway, from = from.as_str(),
                    to = to.as_str(), "tunnel moved");
            }
        }
        self.hub.registry.refresh();
    }
}
