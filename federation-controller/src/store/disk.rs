//! The store's file: opening, checking, setting aside, and its copy in memory.
//!
//! Part of `store`. Nothing here keeps anything between calls.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use hansa_core::code::config;
use hansa_runtime::files;
use redb::backends::InMemoryBackend;
use redb::{Database, DatabaseError, ReadableTable, StorageBackend, StorageError};
use tracing::{error, warn};

use super::{CACHE, Place, ROWS, StoreError};

/// Largest file that is copied to memory; a real one has a few megabytes.
const MOST_COPIED: u64 = 256 << 20;

/// What opening the file gave.
pub(super) enum Opened {
    Good(Database),
    InUse,
    Corrupt(String),
    Unusable(String),
}

/// Says that nothing can be written.
pub(super) fn say(path: &Path, cause: &str) {
    error!(code = %config::STATE_UNWRITABLE, object = %path.display(), cause,
        "state cannot be written; running from memory");
}

/// Opens with redb, which asserts what it reads; a file with flipped bits may trip one of these.
fn guarded(open: impl FnOnce() -> Result<Database, redb::Error>) -> Result<Database, Opened> {
    match catch_unwind(AssertUnwindSafe(open)) {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(redb::Error::DatabaseAlreadyOpen)) => Err(Opened::InUse),
        Ok(Err(redb::Error::Io(error))) => Err(match error.kind() {
            // What redb says of a file that is not its own, or was cut.
            std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => {
                Opened::Corrupt(error.to_string())
            }
            _ => Opened::Unusable(error.to_string()),
        }),
        Ok(Err(error)) => Err(Opened::Corrupt(error.to_string())),
        Err(_) => Err(Opened::Corrupt("its structure is not valid".to_owned())),
    }
}

/// Opens the file, or makes it.
pub(super) fn attempt(path: &Path) -> Opened {
    let opened = guarded(|| {
        private(path);
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE);
        let database = builder.create(path)?;
        check(&database)?;
        Ok(database)
    });
    opened.map_or_else(|why| why, Opened::Good)
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

/// Sets a corrupt file aside and begins a new one.
pub(super) fn begin_anew(path: &Path, cause: &str) -> Result<Place, StoreError> {
    match files::set_aside(path) {
        Ok(aside) => {
            error!(code = %config::STATE_CORRUPT, object = %path.display(), aside = %aside.display(), cause,
                "the state file was corrupt and has been set aside; peers must join again");
        }
        Err(error) => {
            say(path, &format!("{cause}; {error}"));
            return in_memory(path);
        }
    }
    match attempt(path) {
        Opened::Good(database) => Ok(Place::File(database)),
        Opened::InUse => Err(StoreError::InUse(path.to_owned())),
        Opened::Corrupt(cause) | Opened::Unusable(cause) => {
            say(path, &cause);
            in_memory(path)
        }
    }
}

/// A store in memory with everything that can be read from the file.
pub(super) fn in_memory(path: &Path) -> Result<Place, StoreError> {
    match files::read_limited(path, MOST_COPIED) {
        Ok(bytes) if !bytes.is_empty() => match guarded(|| copy(&bytes)) {
            Ok(database) => return Ok(Place::Memory { database, whole: true }),
            Err(_) => warn!(code = %config::STATE_CORRUPT, object = %path.display(),
                "the state file cannot be used even as a copy; nothing of it is known now"),
        },
        Ok(_) => {}
        Err(error) if error.is_not_found() => {}
        Err(error) => warn!(code = %config::STATE_UNWRITABLE, %error, "the state file cannot be read either"),
    }
    let whole = !path.exists();
    let opened = guarded(|| {
        let database = Database::builder().create_with_backend(InMemoryBackend::new())?;
        check(&database)?;
        Ok(database)
    });
    let cause = |why| match why {
        Opened::Corrupt(cause) | Opened::Unusable(cause) => cause,
        Opened::Good(_) | Opened::InUse => String::new(),
    };
    let database = opened.map_err(|why| StoreError::Open(path.to_owned(), cause(why)))?;
    Ok(Place::Memory { database, whole })
}

fn copy(bytes: &[u8]) -> Result<Database, redb::Error> {
    let backend = InMemoryBackend::new();
    backend.set_len(bytes.len() as u64)?;
    backend.write(0, bytes)?;
    let database = Database::builder().create_with_backend(backend)?;
    check(&database)?;
    Ok(database)
}

// Named so that the conversions `?` relies on above are visible in one place.
const _: fn(DatabaseError) -> redb::Error = redb::Error::from;
const _: fn(StorageError) -> redb::Error = redb::Error::from;
