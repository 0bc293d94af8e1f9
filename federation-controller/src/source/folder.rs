//! The folder source: YAML files in one watched folder, as objects of this cluster.
//!
//! Called by the controller's wiring. A file that cannot be read keeps its last good objects, and so
//! does an object that is refused; a folder that is gone keeps everything, also across a restart. Only
//! a file's removal, or its valid new text, removes objects. Never writes into the folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hansa_core::Millis;
use hansa_core::code::manifest;
use hansa_core::name::ServiceName;
use hansa_runtime::files;
use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, watch};

use super::{Own, Problem};
use crate::index::{self, Facts};
use crate::store::{Batch, Store};

mod file;
mod kept;
mod scan;

use scan::Scanner;

/// How long a burst of changes must be quiet before it is read, and how long a burst may last. Short,
/// because propagation is promised in less than a second.
const QUIET: Duration = Duration::from_millis(15);
const BURST: Duration = Duration::from_millis(150);
/// Change events can be lost (network file systems, folder replaced): everything is looked at again.
const POLL: Duration = Duration::from_secs(2);

/// A folder that is being followed.
pub struct Folder {
    path: PathBuf,
    scanner: Scanner,
    facts: Facts,
    first_seen: FirstSeen,
    store: Store,
    events: mpsc::Receiver<()>,
    /// Dropping it ends the events.
    watcher: Option<RecommendedWatcher>,
    wake: mpsc::Sender<()>,
    own: watch::Sender<Arc<Own>>,
}

impl Folder {
    /// Reads the folder once and begins to watch it. A missing folder is a problem shown, not an error;
    /// what `store` has of it stays in force then.
    pub async fn bind(
        path: PathBuf,
        facts: Facts,
        state: &Path,
        store: Store,
    ) -> (Self, watch::Receiver<Arc<Own>>) {
        let (mut folder, reader) = Self::new(path, facts, state, store);
        folder.look().await;
        while folder.scanner.undecided() {
            // Files are going missing: a second look tells whether they were removed, half a second at most.
            tokio::time::sleep(QUIET).await;
            folder.look().await;
        }
        (folder, reader)
    }

    /// With what is kept, before the first look.
    fn new(path: PathBuf, facts: Facts, state: &Path, store: Store) -> (Self, watch::Receiver<Arc<Own>>) {
        let (wake, events) = mpsc::channel(1);
        let (own, reader) = watch::channel(Arc::default());
        let first_seen = FirstSeen::load(state.join("first-seen.json"));
        let scanner = Scanner::new(path.clone(), store.scan(kept::PREFIX));
        (Self { path, scanner, facts, first_seen, store, events, watcher: None, wake, own }, reader)
    }

    /// Follows changes. Never ends by itself: dropping the future stops it.
    pub async fn run(mut self) {
        loop {
            let wait = if self.scanner.undecided() { QUIET } else { POLL };
            let woken = tokio::time::timeout(wait, self.events.recv()).await;
            if woken.is_ok() {
                self.settle().await;
            }
            self.look().await;
        }
    }

    async fn settle(&mut self) {
        let end = tokio::time::Instant::now() + BURST;
        while tokio::time::Instant::now() < end {
            if tokio::time::timeout(QUIET, self.events.recv()).await.is_err() {
                return;
            }
        }
    }

    async fn look(&mut self) {
        self.watch();
        self.look_by(Scanner::scan).await;
    }

    /// Looks by `scan`, which tells whether anything changed.
    async fn look_by(&mut self, scan: fn(&mut Scanner) -> bool) {
        let mut scanner = std::mem::take(&mut self.scanner);
        // Reading and parsing block: they are done off the runtime's workers.
        let done = tokio::task::spawn_blocking(move || {
            let changed = scan(&mut scanner);
            let batch = scanner.changes();
            (scanner, changed, batch)
        });
        let Ok((scanner, changed, batch)) = done.await else {
            self.look_again();
            return;
        };
        self.scanner = scanner;
        if changed {
            self.publish();
        }
        self.keep(batch).await;
    }

    /// After a look that panicked, which its hook has logged: what is in force stays, or at the start
    /// what is kept, and all is read again.
    fn look_again(&mut self) {
        let problem = look_failed(&self.path);
        let known = self.store.scan(kept::PREFIX);
        self.scanner = Scanner::new(self.path.clone(), known).unread(problem.clone());
        let first = **self.own.borrow() == Own::default();
        if first {
            self.publish();
            return;
        }
        self.own.send_if_modified(|current| {
            let news = !current.problems.contains(&problem);
            if news {
                let own = Arc::make_mut(current);
                own.hidden.all = true;
                own.problems.push(problem);
                own.problems.sort();
            }
            news
        });
    }

    /// Writes down what a restart must know. A disk that takes nothing is told of by the store, which
    /// writes it later.
    async fn keep(&self, batch: Batch) {
        self.store.commit(batch).await;
    }

    fn watch(&mut self) {
        if self.watcher.is_some() && self.scanner.folder_ok() {
            return;
        }
        let wake = self.wake.clone();
        let notify = move |event: notify::Result<notify::Event>| {
            // Our own looks open and read the folder: they must not ask for the next look.
            let looked = |kind: AccessKind| kind != AccessKind::Close(AccessMode::Write);
            if matches!(&event, Ok(event) if matches!(event.kind, EventKind::Access(kind) if looked(kind))) {
                return;
            }
            // A full channel means that a look is due anyway.
            let _full = wake.try_send(());
        };
        self.watcher =
            notify::recommended_watcher(notify).ok().and_then(|mut watcher: RecommendedWatcher| {
                watcher.watch(self.scanner.path(), RecursiveMode::NonRecursive).ok().map(|()| watcher)
            });
    }

    fn publish(&mut self) {
        let seen = &self.first_seen;
        let now = now();
        let mut own = index::own(self.scanner.objects(), &self.facts, |name| seen.get(name).unwrap_or(now));
        own.problems.extend(self.scanner.problems());
        own.hidden = self.scanner.hidden();
        let names = own.exports.keys().chain(own.invalid.keys()).cloned();
        // What stands in something that cannot be read comes back with the age it had.
        let whole = self.scanner.whole();
        if let Err(problem) = self.first_seen.keep(names.collect(), whole, now) {
            own.problems.push(problem);
        }
        own.problems.sort();
        for problem in &own.problems {
            if !self.own.borrow().problems.contains(problem) {
                let code = format!("HNS-{:04}", problem.code);
                tracing::warn!(code, object = %problem.object, "{}", problem.message);
            }
        }
        self.own.send_if_modified(|current| {
            let changed = **current != own;
            if changed {
                *current = Arc::new(own);
            }
            changed
        });
    }
}

fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// When exports without a creationTimestamp were first seen: their age must survive a restart,
/// because it decides conflicts.
struct FirstSeen {
    path: PathBuf,
    times: BTreeMap<ServiceName, Millis>,
}

impl FirstSeen {
    fn load(path: PathBuf) -> Self {
        let times = match files::read_limited(&path, 64 << 20) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                let kept = files::set_aside(&path).map(|p| p.display().to_string()).unwrap_or_default();
                tracing::warn!(code = "HNS-1004", file = %path.display(), kept, %error, "state file was corrupt");
                BTreeMap::new()
            }),
            Err(_) => BTreeMap::new(),
        };
        Self { path, times }
    }

    fn get(&self, name: &ServiceName) -> Option<Millis> {
        self.times.get(name).copied()
    }

    /// Remembers these; with `whole`, no others.
    fn keep(&mut self, names: Vec<ServiceName>, whole: bool, now: Millis) -> Result<(), Problem> {
        let named: BTreeMap<ServiceName, Millis> = names
            .into_iter()
            .map(|n| {
                let t = self.get(&n).unwrap_or(now);
                (n, t)
            })
            .collect();
        let mut next = if whole { BTreeMap::new() } else { self.times.clone() };
        next.extend(named);
        if next == self.times {
            return Ok(());
        }
        self.times = next;
        let bytes = serde_json::to_vec(&self.times).unwrap_or_default();
        files::write_atomic(&self.path, &bytes, files::PUBLIC).map_err(|error| Problem {
            object: self.path.display().to_string(),
            code: hansa_core::code::config::STATE_UNWRITABLE.number,
            message: format!("ages of exports are not kept across a restart: {error}"),
        })
    }
}

/// The problem of a folder that cannot be read.
fn folder_gone(path: &Path, error: &std::io::Error) -> Problem {
    Problem {
        object: path.display().to_string(),
        code: manifest::FOLDER_GONE.number,
        message: format!("{error}; what was known stays in force"),
    }
}

/// The problem of a look that did not end.
fn look_failed(path: &Path) -> Problem {
    Problem {
        object: path.display().to_string(),
        code: manifest::FOLDER_GONE.number,
        message:
            "reading it ended in a fault of this controller, which its log tells; what was known stays in \
                  force"
                .to_owned(),
    }
}

#[cfg(test)]
mod tests;
