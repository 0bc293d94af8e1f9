//! A publisher: one table of rows, its epoch, and the news that it changed.
//!
//! Made by the controller, one per projection; [`serve()`](crate::feed::serve()) reads it. Keeps no
//! queue per follower: what one lacks is computed from what it acknowledged.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use hansa_core::table::{Delta, Table};
use tokio::sync::watch;

use super::Position;
use crate::convert::Rows;

struct State {
    epoch: u64,
    table: Table<Bytes>,
}

impl State {
    fn position(&self) -> Position {
        Position { epoch: self.epoch, version: self.table.version(), digest: self.table.digest() }
    }
}

struct Shared {
    state: Mutex<State>,
    position: watch::Sender<Position>,
    sessions: AtomicU64,
}

/// What a follower lacks.
pub(super) struct Lack {
    pub(super) from: Option<Position>,
    pub(super) to: Position,
    pub(super) changed: Vec<(String, Bytes)>,
    pub(super) removed: Vec<String>,
}

/// The follower is ahead of this publisher.
pub(super) struct Ahead;

/// Rows of one type for any number of followers. Clones share them.
#[derive(Clone)]
pub struct Publisher(Arc<Shared>);

impl Publisher {
    /// Without rows yet, at `version` of `epoch`.
    ///
    /// The epoch must be higher than any this cluster published before; a publisher that lost its
    /// memory takes one from the clock, or from [`Hello::held`](super::Hello) of its followers by
    /// [`set_epoch`](Self::set_epoch).
    pub fn new(epoch: u64, version: u64) -> Self {
        Self::with(State { epoch, table: Table::new(version) })
    }

    /// With the rows another replica published under this epoch and version.
    pub fn mirror(epoch: u64, version: u64, rows: Rows) -> Self {
        Self::with(State { epoch, table: Table::at(version, rows) })
    }

    fn with(state: State) -> Self {
        let position = watch::Sender::new(state.position());
        Self(Arc::new(Shared { state: Mutex::new(state), position, sessions: AtomicU64::new(1) }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the table whole: rows are changed by methods that do not panic.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, state: &State) {
        self.0.position.send_replace(state.position());
    }

    /// Publishes exactly these rows. True, with a new version, if anything changed.
    pub fn replace(&self, rows: Rows) -> bool {
        let mut state = self.lock();
        let changed = state.table.replace(rows);
        if changed {
            self.tell(&state);
        }
        changed
    }

    /// Publishes rows and removes keys, leaving the others.
    pub fn update(&self, set: Rows, remove: Vec<String>) -> bool {
        let mut state = self.lock();
        let changed = state.table.update(set, remove);
        if changed {
            self.tell(&state);
        }
        changed
    }

    /// Re-serves what another replica published. An older position is ignored.
    pub fn replace_at(&self, epoch: u64, version: u64, rows: Rows) {
        let mut state = self.lock();
        if (epoch, version) < (state.epoch, state.table.version()) {
            return;
        }
        if epoch != state.epoch && version < state.table.version() {
            state.table = Table::at(version, rows);
        } else {
            state.table.replace_at(version, rows);
        }
        state.epoch = epoch;
        self.tell(&state);
    }

    /// Begins a higher epoch with the same rows. A lower one is ignored.
    pub fn set_epoch(&self, epoch: u64) {
        let mut state = self.lock();
        if epoch > state.epoch {
            state.epoch = epoch;
            self.tell(&state);
        }
    }

    /// Where it is now.
    pub fn position(&self) -> Position {
        *self.0.position.borrow()
    }

    /// Follows its position.
    pub fn watch(&self) -> watch::Receiver<Position> {
        self.0.position.subscribe()
    }

    /// A copy of all rows.
    pub fn rows(&self) -> Rows {
        self.lock().table.rows().iter().map(|(key, row)| (key.clone(), row.body.clone())).collect()
    }

    /// A number no other session of this publisher has.
    pub(super) fn session(&self) -> u64 {
        self.0.sessions.fetch_add(1, Ordering::Relaxed)
    }

    /// What a follower at `held` lacks; `None` if nothing.
    pub(super) fn lack(&self, held: Option<Position>) -> Result<Option<Lack>, Ahead> {
        let state = self.lock();
        let to = state.position();
        let since = match held {
            None => None,
            Some(held) if held == to => return Ok(None),
            Some(held) if to.is_before(&held) => return Err(Ahead),
            // After a switch, equal content is taken over without sending it again.
            Some(held) if held.epoch != to.epoch && held.digest == to.digest => {
                return Ok(Some(Lack { from: Some(held), to, changed: Vec::new(), removed: Vec::new() }));
            }
            Some(held) if held.epoch != to.epoch || held.version == to.version => None,
            Some(held) => Some(held.version),
        };
        let Delta { from, changed, removed, .. } = state.table.diff(since);
        Ok(Some(Lack { from: from.and(held), to, changed, removed }))
    }
}
