//! One listener for each virtual address and port that is ours now.
//!
//! Follows the table and the set of gateways whose addresses we hold; hands accepted connections to
//! outbound. What cannot be bound is reported with its reason, and the others go on. It chooses no
//! destination.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use hansa_core::catalog::Protocol;
use hansa_core::code::config as codes;
use hansa_core::mesh::RouteTable;
use hansa_core::name::NodeId;
use hansa_core::policy::Refusal;
use hansa_runtime::shards;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::outbound::{self, Held};
use crate::plane::{Plane, Tenant, What};
use crate::table::Current;

/// Connections waiting in the kernel for one address.
const BACKLOG: i32 = 1_024;
/// Pause after an accept that failed for lack of descriptors.
const PAUSE: Duration = Duration::from_millis(50);
/// Listeners opened in one turn.
const BATCH: usize = 16;
/// What could not be bound is tried again this often.
const RETRY: Duration = Duration::from_millis(500);

/// Where a listener is.
pub(crate) type Place = (SocketAddr, Protocol);

/// What is bound now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Bound {
    /// The table version whose listeners are all bound, those in `unbound` excepted; 0 before any,
    /// and while our own addresses are not ours.
    pub(crate) version: u64,
    /// What could not be bound, by row key.
    pub(crate) unbound: Vec<Refusal>,
    /// Listeners open.
    pub(crate) open: usize,
}

struct Open {
    what: Arc<What>,
    stop: CancellationToken,
}

/// The owner of all listeners.
pub(crate) struct Listeners {
    plane: Arc<Plane>,
    open: HashMap<Place, Open>,
    /// Counts them: they go round the shards.
    opened: usize,
    /// Something could not be bound: to be tried again.
    again: bool,
    bound: watch::Sender<Bound>,
}

/// Every listener wanted for the tables of `owners`.
pub(crate) fn wanted(table: &RouteTable, owners: &BTreeSet<NodeId>) -> BTreeMap<Place, (What, NodeId)> {
    let mut wanted = BTreeMap::new();
    for row in table.services.values() {
        let mut add = |vips: &BTreeMap<NodeId, Vec<IpAddr>>, host: Option<_>| {
            for (owner, addresses) in vips.iter().filter(|(owner, _)| owners.contains(owner)) {
                for address in addresses {
                    for port in &row.ports {
                        let what = What {
                            service: row.service.clone(),
                            host: Option::clone(&host),
                            port: port.port,
                        };
                        let place = (SocketAddr::new(*address, port.port), port.protocol);
                        wanted.insert(place, (what, owner.clone()));
                    }
                }
            }
        };
        add(&row.vips, None);
        for host in &row.hosts {
            add(&host.vips, Some((host.hostname.clone(), host.cluster.clone())));
        }
    }
    wanted
}

impl Listeners {
    /// No listener yet. The receiver tells what is bound.
    pub(crate) fn new(plane: Arc<Plane>) -> (Self, watch::Receiver<Bound>) {
        let (bound, seen) = watch::channel(Bound::default());
        (Self { plane, open: HashMap::new(), opened: 0, again: false, bound }, seen)
    }

    /// Follows table and ownership until `stop`; then closes all, with nothing lost from the queues.
    pub(crate) async fn run(
        mut self,
        mut tables: watch::Receiver<Current>,
        mut owners: watch::Receiver<Arc<BTreeSet<NodeId>>>,
        stop: CancellationToken,
    ) {
        loop {
            let current = tables.borrow_and_update().clone();
            let owned = owners.borrow_and_update().clone();
            self.reconcile(&current, &owned).await;
            let retry = self.again;
            tokio::select! {
                changed = tables.changed() => if changed.is_err() { break },
                changed = owners.changed() => if changed.is_err() { break },
                () = tokio::time::sleep(RETRY), if retry => {}
                () = stop.cancelled() => break,
            }
        }
        for open in self.open.values() {
            open.stop.cancel();
        }
        self.plane.metrics.listeners.set(0);
    }

    async fn reconcile(&mut self, current: &Current, owners: &BTreeSet<NodeId>) {
        let wanted = wanted(&current.table, owners);
        self.open.retain(|place, open| {
            let keep = wanted.get(place).is_some_and(|(what, _)| *what == *open.what);
            if !keep {
                open.stop.cancel();
            }
            keep
        });
        let mut unbound = BTreeMap::new();
        self.again = false;
        for (place, (what, owner)) in wanted {
            if self.open.contains_key(&place) {
                continue;
            }
            if self.opened.is_multiple_of(BATCH) {
                // A thousand take a while: tunnels must not wait for them.
                tokio::task::yield_now().await;
            }
            match self.bind(place, &what, &owner) {
                Ok(open) => {
                    self.open.insert(place, open);
                }
                Err(error) => {
                    let code = match error.kind() {
                        io::ErrorKind::AddrInUse => codes::PORT_IN_USE,
                        _ if is_exhausted(&error) => codes::FILES_EXHAUSTED,
                        _ => hansa_core::code::gateway::VIP_UNBINDABLE,
                    };
                    let reason = format!("{code} {}/{}: {error}", place.0, place.1);
                    self.again = true;
                    // A sibling's address that cannot be had says nothing of our own ones.
                    match owner == self.plane.id {
                        true => {
                            unbound.entry(format!("service/{}", what.service)).or_insert(reason);
                        }
                        false => tracing::debug!(%owner, reason, "cannot listen for a sibling"),
                    }
                }
            }
        }
        self.publish(current, owners, unbound);
    }

    fn publish(&self, current: &Current, owners: &BTreeSet<NodeId>, unbound: BTreeMap<String, String>) {
        let ours = owners.contains(&self.plane.id);
        let version = current.position.filter(|_| ours).map_or(0, |p| p.version);
        let unbound: Vec<Refusal> =
            unbound.into_iter().map(|(key, reason)| Refusal { key, reason }).collect();
        let metrics = &self.plane.metrics;
        metrics.listeners.set(self.open.len() as i64);
        metrics.unbound.set(unbound.len() as i64);
        let bound = Bound { version, unbound, open: self.open.len() };
        self.bound.send_if_modified(|old| {
            if old.unbound != bound.unbound {
                for row in &bound.unbound {
                    tracing::warn!(object = %row.key, reason = %row.reason, "cannot listen");
                }
            }
            let changed = *old != bound;
            *old = bound;
            changed
        });
    }

    fn bind(&mut self, (address, protocol): Place, what: &What, owner: &NodeId) -> io::Result<Open> {
        let what = Arc::new(what.clone());
        let stop = CancellationToken::new();
        let plane = self.plane.clone();
        let shards = plane.shards.clone();
        self.opened = self.opened.wrapping_add(1);
        let shard = self.opened % shards.count();
        let _entered = shards.enter(shard);
        match protocol {
            Protocol::Tcp => {
                let listener = TcpListener::from_std(socket(address, Type::STREAM)?.into())?;
                let tenant = self.plane.tenants.listener(owner);
                // The drain waits until its queue is empty.
                let hold = plane.drain.hold();
                let accept = accept(plane, (listener, tenant), what.clone(), stop.clone());
                let accept = async move {
                    accept.await;
                    drop(hold);
                };
                shards.spawn(shard, &self.plane.tasks, "listener", accept);
            }
            Protocol::Udp => {
                let socket = UdpSocket::from_std(socket(address, Type::DGRAM)?.into())?;
                let tenant = self.plane.tenants.listener(owner);
                let serve = crate::udp::outbound::serve(plane, (socket, tenant), what.clone(), stop.clone());
                shards.spawn(shard, &self.plane.tasks, "udp-listener", serve);
            }
        }
        Ok(Open { what, stop })
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        for open in self.open.values() {
            open.stop.cancel();
        }
    }
}

fn socket(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, kind.nonblocking().cloexec(), None)?;
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    if !address.ip().is_loopback() {
        // The address may come up a moment later, or be routed here without being assigned.
        match address {
            SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
            SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
        }
    }
    if domain == Domain::IPV6 {
        socket.set_only_v6(true)?;
    }
    socket.bind(&SockAddr::from(address))?;
    if kind == Type::STREAM {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}

async fn accept(
    plane: Arc<Plane>,
    (listener, tenant): (TcpListener, Tenant),
    what: Arc<What>,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, client)) => begin(&plane, &what, &tenant, (stream, client)),
            Err(error) if is_exhausted(&error) => {
                exhausted(&plane, &error);
                tokio::time::sleep(PAUSE).await;
            }
            // The client gave up while it waited in the queue.
            Err(error) => tracing::debug!(%error, "accept"),
        }
    }
    // What the kernel had already completed is served, not reset.
    while let Some(Ok((stream, client))) = listener.accept().now_or_never() {
        begin(&plane, &what, &tenant, (stream, client));
    }
    drop(listener);
    drop(tenant);
}

fn begin(plane: &Arc<Plane>, what: &Arc<What>, tenant: &Tenant, (stream, client): (TcpStream, SocketAddr)) {
    let Ok(place) = plane.places.clone().try_acquire_owned() else {
        crate::splice::reset_on_drop(&stream);
        let record = crate::plane::Record::new("outbound", what.authority(), client.to_string());
        record.finish(&plane.metrics, crate::outcome::Outcome::Limit);
        return;
    };
    let (shard, load) = plane.shards.place();
    let hold = plane.drain.hold();
    let held = Held { _place: place, _tenant: tenant.connection(), _load: load, _hold: hold };
    if shard == shards::here() || plane.shards.count() == 1 {
        let serve = outbound::serve(plane.clone(), what.clone(), (stream, client), held);
        return plane.tasks.spawn("connection", serve);
    }
    // Taken from this shard's event queue here, and put into the other's there.
    let Ok(stream) = stream.into_std() else { return };
    let (there, what) = (plane.clone(), what.clone());
    plane.shards.spawn(shard, &plane.tasks, "connection", async move {
        if let Ok(stream) = TcpStream::from_std(stream) {
            outbound::serve(there, what, (stream, client), held).await;
        }
    });
}

fn is_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|e| [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].contains(&e))
}

/// Says it once per second, however many listeners suffer.
fn exhausted(plane: &Plane, error: &io::Error) {
    static LAST: AtomicU64 = AtomicU64::new(0);
    plane.metrics.exhausted.inc();
    let now = crate::reach::now() / 1_000;
    if LAST.swap(now, Ordering::Relaxed) != now {
        let code = codes::FILES_EXHAUSTED;
        tracing::error!(%code, %error, next = code.next, "cannot accept connections");
    }
}

#[cfg(test)]
mod tests;
