//! Runs a bound gateway and takes it away in order: withdrawn, still accepting, finishing, closed.

use std::sync::Arc;
use std::time::Duration;

use hansa_core::mesh::RouteTable;
use hansa_identity::tls::Tls;
use hansa_proto::convert::report::NodeInfo;
use hansa_proto::feed::Handle;
use hansa_runtime::ready::Condition;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Feed, Gateway, Process, counted};
use crate::config::Config;
use crate::listen::Bound;
use crate::plane::Plane;
use crate::table::{Current, adopt_trust};
use crate::tunnel::{Incoming, SETTLE};
use crate::{follow, inbound, reach, report, sibling};

/// How long peers get to act on the withdrawal before GOAWAY.
const TELL: Duration = Duration::from_secs(2);
/// How long the last words of ended connections may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl Gateway {
    /// Runs until the drain of the process has ended, or until a part without which it is useless
    /// failed; then the cause is returned.
    ///
    /// # Errors
    /// The failed part and its cause.
    pub async fn run(self) -> Result<(), String> {
        let Self {
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
            // They end when this run does, however it does.
            threads: _threads,
        } = self;
        let Process { tasks, drain, ready, .. } = process;
        let served = ready.condition("listeners");
        let end = tasks.token();
        let stop = end.child_token();
        tasks.spawn_critical("admin", admin.run(tasks.clone(), end.clone()));
        let (tunnels, cancel) = (plane.tunnels.clone(), end.clone());
        tasks.spawn("tunnels", async move { tunnels.run(cancel).await });
        take_requests(&plane, incoming, &end);
        tasks.spawn_until_shutdown("joins", inbound::joins(plane.clone(), joins));
        look_after_paths(&plane, &config, &end);
        let parts = sibling::Parts { tls: tls.clone(), config: config.clone(), relay };
        let standing = sibling::begin(&plane, parts);
        tasks.spawn("listeners", listeners.run(tables, standing.owners.clone(), stop.clone()));
        tasks.spawn_until_shutdown("readiness", readiness(bound.clone(), served));
        let handle = match feed {
            Feed::Controller { link, tables } => {
                let feed = follow::begin(&plane, &link, &tables);
                let handle = feed.handle.clone();
                let about = report::About { node: node(&config), ready: ready.clone() };
                let held = standing.held.clone();
                let reports = report::run(plane.clone(), about, handle.clone(), bound, held);
                tasks.spawn_until_shutdown("report", reports);
                let following = follow::run(plane.clone(), link, *tables, feed, end.clone());
                tasks.spawn_critical("feed", following);
                Some(handle)
            }
            Feed::Fixed { table, current } => {
                tasks.spawn_until_shutdown("table", fixed(plane.clone(), tls, table, current));
                None
            }
        };
        let begun = drain.begun();
        tokio::select! {
            () = begun.cancelled() => {}
            failure = tasks.failed() => {
                drain.close_now(failure.to_string());
                tasks.shutdown(LAST_WORDS).await;
                return Err(failure.to_string());
            }
        }
        go(&config, &plane, handle.as_ref(), &stop).await;
        tasks.shutdown(LAST_WORDS * 3).await;
        Ok(())
    }
}

/// Serves what each shard's tunnels bring, on that shard.
fn take_requests(plane: &Arc<Plane>, incoming: Incoming, end: &CancellationToken) {
    for (shard, requests) in incoming.by_shard().into_iter().enumerate() {
        let (serve, end) = (inbound::run(plane.clone(), requests), end.clone());
        let serve = async move { end.run_until_cancelled(serve).await.unwrap_or(()) };
        plane.shards.spawn(shard, &plane.tasks, "inbound", serve);
    }
}

/// Probes what failed, keeps it on disk, and looks at endpoints beforehand where that is asked for.
fn look_after_paths(plane: &Arc<Plane>, config: &Config, end: &CancellationToken) {
    let probing = reach::prober::run(plane.clone(), plane.tunnels.reach(), end.clone());
    plane.tasks.spawn_until_shutdown("prober", probing);
    let keeping = reach::saved::keep(plane.tracks.clone(), config.state_dir.clone(), end.clone());
    plane.tasks.spawn("paths", keeping);
    if let Some(every) = config.endpoint_health.interval {
        let looking = reach::prober::look_after_endpoints(plane.clone(), every.get());
        plane.tasks.spawn_until_shutdown("endpoint health", looking);
    }
}

/// The order of going away. With the controller gone nobody can be told, so nobody is waited for.
async fn go(config: &Config, plane: &Arc<Plane>, handle: Option<&Handle>, stop: &CancellationToken) {
    let connected = handle.is_some_and(|handle| handle.status().borrow().connected);
    let accept = if connected { config.drain.accept.get() } else { Duration::ZERO };
    let deadline = config.drain.deadline.get();
    let open = plane.limits.connections as usize - plane.places.available_permits();
    tracing::info!(connected, ?accept, ?deadline, connections = open, "draining");
    let tell = TELL.min(accept);
    tokio::time::sleep(tell).await;
    let (goaway, rest) = (Instant::now(), accept.saturating_sub(tell));
    // Tunnels outlive the deadline by their last words: what the deadline ends says so, and not that it lost
    // its path.
    let limit = rest.max(SETTLE) + deadline + LAST_WORDS;
    let tunnels = plane.tunnels.clone();
    plane.tasks.spawn_until_shutdown("goaway", async move {
        tunnels.drain(limit).await;
    });
    tokio::time::sleep(rest).await;
    stop.cancel();
    // Nothing tells that no request is on its way any more: only time does.
    tokio::time::sleep_until(goaway + SETTLE).await;
    let clean = plane.drain.finish(deadline).await;
    if !clean {
        // What the closing phase ends writes its record.
        plane.drain.finish(LAST_WORDS).await;
    }
    tracing::info!(clean, "drained");
}

async fn readiness(mut bound: watch::Receiver<Bound>, served: Condition) {
    loop {
        let version = bound.borrow_and_update().version;
        match version {
            0 => served.unset("no table is bound yet"),
            _ => served.set(),
        }
        if bound.changed().await.is_err() {
            return;
        }
    }
}

fn node(config: &Config) -> NodeInfo {
    NodeInfo {
        relay: config.relay.listen,
        addresses: if config.tunnel.dial_only { Vec::new() } else { config.tunnel.advertise.clone() },
        dial_only: config.tunnel.dial_only,
        ..NodeInfo::default()
    }
}

/// Counts the versions of a table that is given.
async fn fixed(
    plane: Arc<Plane>,
    tls: Tls,
    mut table: watch::Receiver<Arc<RouteTable>>,
    current: watch::Sender<Current>,
) {
    let mut version = 1;
    while table.changed().await.is_ok() {
        let next = table.borrow_and_update().clone();
        adopt_trust(tls.trust(), &next, Some(&current.borrow().table));
        plane.tracks.adopt(&next);
        version += 1;
        current.send_replace(Current { table: next, position: Some(counted(version)) });
    }
    // Whoever gave it may be gone; it stays in force.
    std::future::pending::<()>().await;
}
