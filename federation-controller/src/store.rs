//! The embedded store: one redb file in the state folder, rows of text key and bytes.
//!
//! Called by `controller` at start and by the parts that own the rows. Its caller keeps its own
//! copy: when the disk is full or read-only the controller runs from memory, and says so. A corrupt
//! file is set aside and never deleted. Keys of the CA are not here (see `authority`).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hansa_core::code::config;
use hansa_runtime::files;
use redb::backends::InMemoryBackend;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::{error, info, warn};

/// The name of the file within the state folder.
pub const FILE: &str = "controller.redb";
const ROWS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("rows");
/// Pages kept in memory by redb; the whole store has a few megabytes.
const CACHE: usize = 4 << 20;

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
    rows: Vec<(String, Option<Vec<u8>>)>,
}

impl Batch {
    /// Sets a row.
    pub fn put(&mut self, key: impl Into<String>, body: impl Into<Vec<u8>>) -> &mut Self {
        self.rows.push((key.into(), Some(body.into())));
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
        self.rows.push((key.into(), None));
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
    database: Database,
    healthy: AtomicBool,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

enum Opened {
    Good(Database),
    InUse,
    Corrupt(String),
    Unusable(String),
}

impl Store {
    /// Opens the file in `dir`, which must exist. A corrupt file is set aside and a new one begun;
    /// where none can be written the store lives in memory.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        let (database, healthy) = match attempt(&path) {
            Opened::Good(database) => (database, true),
            Opened::InUse => return Err(StoreError::InUse(path)),
            Opened::Unusable(cause) => (in_memory(&path, &cause)?, false),
            Opened::Corrupt(cause) => begin_anew(&path, &cause)?,
        };
        Ok(Self { inner: Arc::new(Inner { path, database, healthy: AtomicBool::new(healthy) }) })
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
            let table = self.inner.database.begin_read()?.open_table(ROWS)?;
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
}

impl Inner {
    fn scan(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, redb::Error> {
        let table = self.database.begin_read()?.open_table(ROWS)?;
        let mut rows = Vec::new();
        for row in table.range(prefix..)? {
            let (key, body) = row?;
            let Some(rest) = key.value().strip_prefix(prefix) else { break };
            rows.push((rest.to_owned(), body.value().to_vec()));
        }
        Ok(rows)
    }

    fn commit(&self, batch: &Batch) -> bool {
        let write = || -> Result<(), redb::Error> {
            let transaction = self.database.begin_write()?;
            {
                let mut table = transaction.open_table(ROWS)?;
                for (key, body) in &batch.rows {
                    match body {
                        Some(body) => drop(table.insert(key.as_str(), body.as_slice())?),
                        None => drop(table.remove(key.as_str())?),
                    }
                }
            }
            transaction.commit()?;
            Ok(())
        };
        match write() {
            Ok(()) => {
                if !self.healthy.swap(true, Ordering::Relaxed) {
                    info!(path = %self.path.display(), "state can be written again");
                }
                true
            }
            Err(error) => {
                self.failed(&error.to_string());
                false
            }
        }
    }

    fn failed(&self, cause: &str) {
        if self.healthy.swap(false, Ordering::Relaxed) {
            error!(code = %config::STATE_UNWRITABLE, object = %self.path.display(), %cause,
                "state cannot be written; running from memory");
        }
    }
}

fn attempt(path: &Path) -> Opened {
    // redb asserts what it reads; a file with flipped bits may trip one of these.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        private(path);
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE);
        let database = builder.create(path)?;
        check(&database)?;
        Ok::<_, redb::Error>(database)
    }));
    match opened {
        Ok(Ok(database)) => Opened::Good(database),
        Ok(Err(redb::Error::DatabaseAlreadyOpen)) => Opened::InUse,
        Ok(Err(redb::Error::Io(error))) => match error.kind() {
            // What redb says of a file that is not its own, or was cut.
            std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => {
                Opened::Corrupt(error.to_string())
            }
            _ => Opened::Unusable(error.to_string()),
        },
        Ok(Err(error)) => Opened::Corrupt(error.to_string()),
        Err(_) => Opened::Corrupt("its structure is not valid".to_owned()),
    }
}

/// Makes the file with mode 0600 before redb opens it.
fn private(path: &Path) {
    use std::os::unix::fs::OpenOptionsExt;
    // An error shows again, with its cause, when redb opens the file.
    let _ = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path);
}

/// Reads every row once, so that damage is found at the start and not in the middle of the night.
fn check(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let table = transaction.open_table(ROWS)?;
        for row in table.iter()? {
            row?;
        }
    }
    transaction.commit()?;
    Ok(())
}

fn begin_anew(path: &Path, cause: &str) -> Result<(Database, bool), StoreError> {
    match files::set_aside(path) {
        Ok(aside) => {
            error!(code = %config::STATE_CORRUPT, object = %path.display(), aside = %aside.display(), cause,
                "the state file was corrupt and has been set aside; peers must join again");
        }
        Err(error) => return Ok((in_memory(path, &format!("{cause}; {error}"))?, false)),
    }
    match attempt(path) {
        Opened::Good(database) => Ok((database, true)),
        Opened::InUse => Err(StoreError::InUse(path.to_owned())),
        Opened::Corrupt(cause) | Opened::Unusable(cause) => Ok((in_memory(path, &cause)?, false)),
    }
}

fn in_memory(path: &Path, cause: &str) -> Result<Database, StoreError> {
    error!(code = %config::STATE_UNWRITABLE, object = %path.display(), cause,
        "state cannot be written; running from memory");
    let open = || -> Result<Database, redb::Error> {
        let database = Database::builder().create_with_backend(InMemoryBackend::new())?;
        check(&database)?;
        Ok(database)
    };
    open().map_err(|error| StoreError::Open(path.to_owned(), error.to_string()))
}

// Named so that the conversions `?` relies on above are visible in one place.
const _: fn(DatabaseError) -> redb::Error = redb::Error::from;
const _: fn(StorageError) -> redb::Error = redb::Error::from;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn put(store: &Store, key: &str, body: &str) -> bool {
        let mut batch = Batch::default();
        batch.put(key, body);
        store.commit_now(&batch)
    }

    #[test]
    fn rows_survive_and_scan_by_prefix() {
        let dir = tempfile::tempdir().unwrap();
        {
            let store = Store::open(dir.path()).unwrap();
            assert!(put(&store, "peer/b", "2") && put(&store, "peer/a", "1") && put(&store, "q", "x"));
            assert!(matches!(Store::open(dir.path()), Err(StoreError::InUse(_))));
        }
        let store = Store::open(dir.path()).unwrap();
        let rows = store.scan("peer/");
        assert_eq!(rows, [("a".to_owned(), b"1".to_vec()), ("b".to_owned(), b"2".to_vec())]);
        assert_eq!(store.get("q"), Some(b"x".to_vec()));
        let mode = std::fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_corrupt_file_is_set_aside_and_a_new_one_begun() {
        for damage in ["garbage", "cut", "flipped"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(FILE);
            {
                let store = Store::open(dir.path()).unwrap();
                for i in 0..200 {
                    put(&store, &format!("row/{i}"), &"x".repeat(200));
                }
            }
            let mut bytes = std::fs::read(&path).unwrap();
            match damage {
                "garbage" => bytes = b"not a store".repeat(1000),
                "cut" => bytes.truncate(bytes.len() / 3),
                _ => bytes.iter_mut().skip(512).for_each(|b| *b = !*b),
            }
            std::fs::write(&path, &bytes).unwrap();
            let store = Store::open(dir.path()).unwrap();
            assert!(store.scan("").is_empty(), "{damage}");
            assert!(put(&store, "a", "b") && store.healthy(), "{damage}");
            let aside = dir.path().join(format!("{FILE}.corrupt-1"));
            assert_eq!(std::fs::read(aside).unwrap(), bytes, "{damage}");
        }
    }

    #[test]
    fn without_a_folder_it_runs_from_memory() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("missing")).unwrap();
        assert!(!store.healthy());
        assert!(put(&store, "a", "b"));
        assert_eq!(store.get("a"), Some(b"b".to_vec()));
    }
}
