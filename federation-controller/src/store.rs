//! The embedded store: one redb file in the state folder, rows of text key and bytes.
//!
//! Called by `controller` at start and by the parts that own the rows. Its caller keeps its own
//! copy: when the disk is full or read-only the controller runs from memory, says so, and writes
//! everything down once it can. A corrupt file is set aside and never deleted. Keys of the CA are not
//! here (see `authority`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use hansa_core::code::config;
use redb::{Database, ReadableDatabase, ReadableTable, StorageError, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::{error, info, warn};

mod disk;

use disk::Opened;

/// The name of the file within the state folder.
pub const FILE: &str = "controller.redb";
const ROWS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("rows");
/// Pages kept in memory by redb; the whole store has a few megabytes.
const CACHE: usize = 4 << 20;
/// Between two looks at a disk that could not be written.
const HEAL: Duration = Duration::from_secs(2);

/// Why the store cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another controller has it open.
    #[error("{0} is in use by another controller")]
    InUse(PathBuf),
    /// Neither the file nor a store in memory could be opened.
    #[error("{0}: {1}")]
    Open(PathBuf, String),
}

/// A change of several rows, made all or nothing.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    rows: Vec<(String, Change)>,
}

#[derive(Debug, Clone)]
enum Change {
    Put(Vec<u8>),
    Delete,
    /// Every row whose key begins so.
    DeleteAll,
}

impl Batch {
    /// Sets a row.
    pub fn put(&mut self, key: impl Into<String>, body: impl Into<Vec<u8>>) -> &mut Self {
        self.rows.push((key.into(), Change::Put(body.into())));
        self
    }

    /// Sets a row to a JSON value.
    pub fn put_json(&mut self, key: impl Into<String>, value: &impl Serialize) -> &mut Self {
        match serde_json::to_vec(value) {
            Ok(body) => self.put(key, body),
            Err(error) => {
                error!(%error, "a row could not be written as JSON");
                self
            }
        }
    }

    /// Removes a row.
    pub fn delete(&mut self, key: impl Into<String>) -> &mut Self {
        self.rows.push((key.into(), Change::Delete));
        self
    }

    /// Removes every row whose key begins with `prefix`, also one that cannot be read now.
    pub fn delete_all(&mut self, prefix: impl Into<String>) -> &mut Self {
        self.rows.push((prefix.into(), Change::DeleteAll));
        self
    }

    /// Adds the changes of another batch behind these.
    pub fn append(&mut self, other: Batch) {
        self.rows.extend(other.rows);
    }

    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// The store. Clones share it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    /// Written only to change the place.
    place: RwLock<Place>,
    healthy: AtomicBool,
    /// What was removed while the file could not even be read: key, and whether it is a prefix. It
    /// goes from the file before anything of it counts again.
    removed: Mutex<BTreeSet<(String, bool)>>,
}

/// Where the rows are now.
enum Place {
    /// On disk.
    File(Database),
    /// In memory until the disk takes them again. `whole`: everything that is on disk stands here too.
    Memory { database: Database, whole: bool },
    /// Nowhere: between two places, under the lock.
    Moving,
}

/// Keys with their bodies.
type Rows = Vec<(String, Vec<u8>)>;

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the file in `dir`, which must exist. A corrupt file is set aside and a new one begun;
    /// where none can be written the store lives in memory, with what could be read.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        let place = match disk::attempt(&path) {
            Opened::Good(database) => Place::File(database),
            Opened::InUse => return Err(StoreError::InUse(path)),
            Opened::Unusable(cause) => {
                disk::say(&path, &cause);
                disk::in_memory(&path)?
            }
            Opened::Corrupt(cause) => disk::begin_anew(&path, &cause)?,
        };
        let healthy = AtomicBool::new(matches!(place, Place::File(_)));
        let (place, removed) = (RwLock::new(place), Mutex::default());
        Ok(Self { inner: Arc::new(Inner { path, place, healthy, removed }) })
    }

    /// Whether the last write reached the disk.
    pub fn healthy(&self) -> bool {
        self.inner.healthy.load(Ordering::Relaxed)
    }

    /// All rows whose key begins with `prefix`, in order, without the prefix.
    pub fn scan(&self, prefix: &str) -> Vec<(String, Vec<u8>)> {
        match self.inner.scan(prefix) {
            Ok(rows) => rows,
            Err(error) => {
                self.inner.failed(&error.to_string());
                Vec::new()
            }
        }
    }

    /// As [`Store::scan`], read as JSON. A row that cannot be read is left out and named in the log.
    pub fn scan_json<T: DeserializeOwned>(&self, prefix: &str) -> Vec<(String, T)> {
        let rows =
            self.scan(prefix).into_iter().filter_map(|(key, body)| match serde_json::from_slice(&body) {
                Ok(value) => Some((key, value)),
                Err(error) => {
                    warn!(code = %config::STATE_CORRUPT, key = %format!("{prefix}{key}"), %error,
                        "a row of the state file cannot be read; left out");
                    None
                }
            });
        rows.collect()
    }

    /// One row.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        let read = || -> Result<Option<Vec<u8>>, redb::Error> {
            let place = self.inner.place();
            let table = place.database()?.begin_read()?.open_table(ROWS)?;
            Ok(table.get(key)?.map(|row| row.value().to_vec()))
        };
        read().unwrap_or_else(|error| {
            self.inner.failed(&error.to_string());
            None
        })
    }

    /// Writes a batch, durable when this returns true. False: it is not on disk, the log says why,
    /// and the caller goes on from its own memory.
    pub async fn commit(&self, batch: Batch) -> bool {
        if batch.is_empty() {
            return true;
        }
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || inner.commit(&batch)).await.unwrap_or(false)
    }

    /// [`Store::commit`] for the start, before anything is served.
    pub fn commit_now(&self, batch: &Batch) -> bool {
        self.inner.commit(batch)
    }

    /// Takes the rows back to the disk once it can be written again, looking every two seconds.
    /// Never ends by itself.
    pub async fn keep_well(self) {
        loop {
            tokio::time::sleep(HEAL).await;
            if !self.healthy() {
                let store = self.clone();
                // A panic in there is logged by its hook; the next look tries again.
                let _ = tokio::task::spawn_blocking(move || store.heal()).await;
            }
        }
    }

    /// One try of [`Store::keep_well`]. True: the rows are on disk.
    pub fn heal(&self) -> bool {
        self.inner.heal()
    }
}

impl Place {
    fn database(&self) -> Result<&Database, redb::Error> {
        match self {
            Self::File(database) | Self::Memory { database, .. } => Ok(database),
            Self::Moving => Err(StorageError::Corrupted("the store is closed".to_owned()).into()),
        }
    }

    /// All rows whose key begins with `prefix`, in order, without the prefix.
    fn scan(&self, prefix: &str) -> Result<Rows, redb::Error> {
        let table = self.database()?.begin_read()?.open_table(ROWS)?;
        let mut rows = Vec::new();
        for row in table.range(prefix..)? {
            let (key, body) = row?;
            let Some(rest) = key.value().strip_prefix(prefix) else { break };
            rows.push((rest.to_owned(), body.value().to_vec()));
        }
        Ok(rows)
    }

    fn write(&self, batch: &Batch) -> Result<(), redb::Error> {
        let transaction = self.database()?.begin_write()?;
        {
            let mut table = transaction.open_table(ROWS)?;
            for (key, body) in &batch.rows {
                match body {
                    Change::Put(body) => drop(table.insert(key.as_str(), body.as_slice())?),
                    Change::Delete => drop(table.remove(key.as_str())?),
                    Change::DeleteAll => {
                        let mut keys = Vec::new();
                        for row in table.range(key.as_str()..)? {
                            let found = row?.0.value().to_owned();
                            if !found.starts_with(key.as_str()) {
                                break;
                            }
                            keys.push(found);
                        }
                        for key in keys {
                            drop(table.remove(key.as_str())?);
                        }
                    }
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// Takes over rows of another place. Rows that were removed there go; with `all`, so do rows that
    /// are not among them.
    fn adopt(&self, rows: Rows, removed: &BTreeSet<(String, bool)>, all: bool) -> Result<(), redb::Error> {
        let mut batch = Batch::default();
        if all {
            batch.delete_all("");
        }
        for (key, prefix) in removed {
            if *prefix {
                batch.delete_all(key)
            } else {
                batch.delete(key)
            };
        }
        for (key, body) in rows {
            batch.put(key, body);
        }
        self.write(&batch)
    }
}

impl Inner {
    fn place(&self) -> RwLockReadGuard<'_, Place> {
        self.place.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn scan(&self, prefix: &str) -> Result<Rows, redb::Error> {
        self.place().scan(prefix)
    }

    fn commit(&self, batch: &Batch) -> bool {
        let written = {
            let place = self.place();
            self.remember(&place, batch);
            place.write(batch).map(|()| matches!(*place, Place::File(_)))
        };
        written.unwrap_or_else(|error| {
            self.failed(&error.to_string());
            self.retreat(batch);
            false
        })
    }

    /// Leaves a file that cannot be written: redb refuses even to read it after a failed write.
    fn retreat(&self, batch: &Batch) {
        let mut place = self.place.write().unwrap_or_else(PoisonError::into_inner);
        if matches!(*place, Place::File(_)) {
            // Closed before it is read again.
            *place = Place::Moving;
            match disk::in_memory(&self.path) {
                Ok(memory) => *place = memory,
                Err(error) => error!(%error, "no store even in memory"),
            }
        }
        self.remember(&place, batch);
        if let Err(error) = place.write(batch) {
            error!(%error, "rows could not be kept even in memory");
        }
    }

    /// Keeps in mind what a batch removes that may stand in a file which cannot be read.
    fn remember(&self, place: &Place, batch: &Batch) {
        if !matches!(place, Place::Memory { whole: false, .. }) {
            return;
        }
        let mut removed = self.removed.lock().unwrap_or_else(PoisonError::into_inner);
        removed.extend(batch.rows.iter().filter_map(|(key, change)| match change {
            Change::Put(_) => None,
            Change::Delete => Some((key.clone(), false)),
            Change::DeleteAll => Some((key.clone(), true)),
        }));
    }

    fn heal(&self) -> bool {
        let mut place = self.place.write().unwrap_or_else(PoisonError::into_inner);
        let (rows, whole) = match &*place {
            // A read that failed left the file in its place.
            Place::File(_) if place.write(&Batch::default()).is_ok() => {
                self.healthy.store(true, Ordering::Relaxed);
                return true;
            }
            Place::File(_) => {
                drop(place);
                self.retreat(&Batch::default());
                return false;
            }
            Place::Memory { whole, .. } => (place.scan(""), *whole),
            Place::Moving => (Ok(Vec::new()), false),
        };
        let (Ok(rows), Opened::Good(database)) = (rows, disk::attempt(&self.path)) else { return false };
        let file = Place::File(database);
        let mut removed = self.removed.lock().unwrap_or_else(PoisonError::into_inner);
        if file.adopt(rows, &removed, whole).is_err() {
            return false;
        }
        removed.clear();
        drop(removed);
        *place = file;
        self.healthy.store(true, Ordering::Relaxed);
        info!(path = %self.path.display(), "state can be written again, and is");
        true
    }

    fn failed(&self, cause: &str) {
        if self.healthy.swap(false, Ordering::Relaxed) {
            disk::say(&self.path, cause);
        }
    }
}

#[cfg(test)]
mod tests;
