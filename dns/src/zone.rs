//! Where the zone comes from: the disk at start, then the controller's feed.
//!
//! Run by the server. The last zone stays in use while every controller is away; every change is
//! acknowledged after it is in use, because withdrawals wait for that.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use arc_swap::{ArcSwapOption, Guard};
use hansa_core::code::config::{STATE_CORRUPT, STATE_UNWRITABLE};
use hansa_core::code::control::{CONTROLLER_LOST, ROW_REFUSED};
use hansa_core::zone::Zone;
use hansa_link::Link;
use hansa_proto::convert::Apply;
use hansa_proto::convert::report::NodeInfo;
use hansa_proto::convert::zone::ZoneRows;
use hansa_proto::feed::follow::Applied;
use hansa_proto::feed::{self, Config, FollowEvent, Handle, Kind, Saved, Status};
use hansa_runtime::files::{read_limited, set_aside, write_atomic};
use hansa_runtime::ready::Condition;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::metrics::DnsMetrics;

/// Largest zone file read.
const MAX_FILE: u64 = 512 << 20;
/// Between two writes of the zone to disk.
const SAVE: Duration = Duration::from_secs(1);
/// Between two tries while the disk takes nothing.
const SAVE_AGAIN: Duration = Duration::from_secs(5);

/// A zone in use.
#[derive(Debug, Clone)]
pub struct Served {
    /// The zone.
    pub zone: Arc<Zone>,
    /// Its serial: the feed's version.
    pub serial: u32,
}

/// The zone now in use, if there is one. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Shelf(Arc<ArcSwapOption<Served>>);

impl Shelf {
    /// The zone now in use.
    pub fn load(&self) -> Guard<Option<Arc<Served>>> {
        self.0.load()
    }

    /// Puts a zone in use.
    pub fn store(&self, served: Served) {
        self.0.store(Some(Arc::new(served)));
    }
}

/// Keeps the shelf filled.
pub(crate) struct Keeper {
    shelf: Shelf,
    rows: ZoneRows,
    saved: Saved,
    path: PathBuf,
    unsaved: bool,
    /// When the disk last refused, until it takes the zone.
    failed: Option<Instant>,
    refused: usize,
    ready: Condition,
    metrics: DnsMetrics,
}

impl Keeper {
    /// Takes the zone from disk, if there is one.
    pub(crate) fn load(
        state_dir: &std::path::Path,
        shelf: Shelf,
        ready: Condition,
        metrics: DnsMetrics,
    ) -> Self {
        let path = state_dir.join("zone.feed");
        let (rows, saved) = (ZoneRows::default(), Saved::empty());
        let (unsaved, failed, refused) = (false, None, 0);
        let mut keeper = Self { shelf, rows, saved, path, unsaved, failed, refused, ready, metrics };
        match read_limited(&keeper.path, MAX_FILE) {
            Ok(bytes) => keeper.restore(&bytes),
            Err(error) if error.is_not_found() => {}
            Err(error) => tracing::warn!(code = %STATE_CORRUPT, %error, "the saved zone cannot be read"),
        }
        keeper
    }

    fn restore(&mut self, bytes: &[u8]) {
        match Saved::decode(bytes) {
            Ok(saved) => {
                let rows: Vec<_> = saved.rows.iter().map(|(key, body)| (key.clone(), body.clone())).collect();
                self.refused = self.rows.apply(&rows, &[], true).len();
                self.saved = saved;
                self.publish();
                tracing::info!(position = %self.saved.position, "serving the zone from disk");
            }
            Err(error) => {
                let aside = set_aside(&self.path).ok();
                tracing::warn!(code = %STATE_CORRUPT, %error, ?aside, "the saved zone is damaged; set aside");
            }
        }
    }

    /// What is held, for the feed to go on from.
    pub(crate) fn resume(&self) -> Option<&Saved> {
        (!self.saved.rows.is_empty()).then_some(&self.saved)
    }

    fn publish(&self) {
        let Some(zone) = self.rows.zone() else { return };
        self.metrics.zone(zone.services.len(), self.refused);
        // Serials wrap; nothing compares them.
        let serial = self.saved.position.version as u32;
        self.shelf.store(Served { zone, serial });
        self.ready.set();
    }

    /// Follows the controller until the token of the caller's task ends it.
    pub(crate) async fn follow(
        mut self,
        link: Link,
        node: watch::Receiver<NodeInfo>,
        told: watch::Sender<Status>,
    ) {
        let config = Config::new(own_id(&link), Kind::Zone);
        let connect = {
            let link = link.clone();
            move || {
                let link = link.clone();
                async move { link.connect().await }
            }
        };
        let (handle, mut events, run) = feed::follow(config, connect, self.resume());
        handle.node(node.borrow().clone());
        let work = async {
            let mut tick = interval(SAVE);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut node = node;
            let since = Instant::now();
            loop {
                tokio::select! {
                    event = events.recv() => match event {
                        Some(event) => self.take(event, &handle, &link),
                        None => return,
                    },
                    Ok(()) = node.changed() => handle.node(node.borrow_and_update().clone()),
                    _ = tick.tick() => {
                        self.save().await;
                        self.tell(&handle, &link, since, &told);
                    }
                }
            }
        };
        tokio::join!(run, work);
    }

    fn take(&mut self, event: FollowEvent, handle: &Handle, link: &Link) {
        match event {
            FollowEvent::Connected { protocol, software } => {
                tracing::info!(protocol, software, "following the controller");
            }
            FollowEvent::Applied(change) => self.change(&change, handle, link),
            FollowEvent::Heartbeat { .. } => {}
            FollowEvent::Question(question) => {
                let answer = match question.kind.as_str() {
                    "snapshot" => Ok(self.snapshot().into()),
                    other => Err(format!("a DNS server does not answer \"{other}\"")),
                };
                handle.reply(question.id, answer);
            }
            FollowEvent::Lost { error, retry_in } => {
                let code = error.code().unwrap_or(CONTROLLER_LOST);
                tracing::warn!(%code, %error, ?retry_in, "controller lost; the last zone stays in use");
            }
        }
    }

    fn change(&mut self, change: &Applied, handle: &Handle, link: &Link) {
        let refused = self.rows.apply(&change.changed, &change.removed, change.snapshot);
        for row in &refused {
            tracing::warn!(code = %ROW_REFUSED, key = row.key, reason = row.reason, "row of the zone refused");
        }
        self.saved.apply(change);
        self.unsaved = true;
        self.refused = refused.len() + change.refused.len();
        self.publish();
        if let Some(bundle) = self.rows.bundle().filter(|bundle| !bundle.is_empty()) {
            link.adopt_bundle(bundle);
        }
        // Only now: a withdrawn address is no longer answered.
        handle.applied(change, refused);
    }

    /// Writes the zone down if it changed. A full disk is told once, and tried again.
    async fn save(&mut self) {
        if !self.unsaved || self.failed.is_some_and(|at| at.elapsed() < SAVE_AGAIN) {
            return;
        }
        let (bytes, path) = (self.saved.encode(), self.path.clone());
        let written = tokio::task::spawn_blocking(move || write_atomic(&path, &bytes, 0o600)).await;
        let error = written.map_or_else(|e| Some(e.to_string()), |w| w.err().map(|e| e.to_string()));
        self.unsaved = error.is_some();
        let failed = error.is_some().then(Instant::now);
        match (std::mem::replace(&mut self.failed, failed), error) {
            (None, Some(error)) => {
                let next = STATE_UNWRITABLE.next;
                tracing::warn!(code = %STATE_UNWRITABLE, %error, next, "the zone is in use, but cannot be kept on disk");
            }
            (Some(_), None) => tracing::info!("the zone is kept on disk again"),
            _ => {}
        }
    }

    fn tell(&self, handle: &Handle, link: &Link, since: Instant, told: &watch::Sender<Status>) {
        let status = handle.status().borrow().clone();
        let age = status.current.unwrap_or(since).elapsed().as_secs_f64();
        let expires = link.keys().expires().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.metrics.link(status.connected, age, i64::try_from(expires.as_secs()).unwrap_or(i64::MAX));
        told.send_replace(status);
    }

    fn snapshot(&self) -> String {
        let zone = self.rows.zone().unwrap_or_default();
        serde_json::to_string(&*zone).unwrap_or_else(|_| "{}".to_owned())
    }
}

fn own_id(link: &Link) -> String {
    use hansa_core::spiffe::Role;
    match link.id().role() {
        Some(Role::Dns(id) | Role::Gateway(id)) => id.to_string(),
        _ => String::new(),
    }
}
