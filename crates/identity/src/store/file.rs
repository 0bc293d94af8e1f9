//! Files of the state folder: secrets with mode 0600, atomic writes, setting aside what is broken.
//!
//! Called by `store` and `ca`. Never follows a symbolic link for a secret and never deletes a file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hansa_core::code::{Code, config, trust};

/// Why a file of the state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The secret may be read or changed by others.
    #[error("{path} has mode {mode:04o}, a secret must have 0600: chmod 600 {path}")]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not a regular file, so not written by hansa.
    #[error("{0} is not a regular file")]
    NotAFile(PathBuf),
    /// Larger than a file of this kind can be.
    #[error("{path} is larger than {limit} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The greatest size in bytes.
        limit: u64,
    },
    /// Reading or writing failed.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
}

impl StoreError {
    /// The file is not there, which may be quite right.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { error, .. } if error.kind() == io::ErrorKind::NotFound)
    }

    /// The code for messages.
    pub fn code(&self) -> Code {
        match self {
            Self::Permissions { .. } => trust::KEY_PERMISSIONS,
            Self::NotAFile(_) | Self::TooLarge { .. } => config::STATE_CORRUPT,
            Self::Io { .. } => config::STATE_UNWRITABLE,
        }
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |error| StoreError::Io { path, error }
}

/// Reads a secret of at most `limit` bytes; refused if others may read or change it.
pub fn read_secret(path: &Path, limit: u64) -> Result<Vec<u8>, StoreError> {
    read(path, limit, true)
}

pub(super) fn read_public(path: &Path, limit: u64) -> Result<Vec<u8>, StoreError> {
    read(path, limit, false)
}

fn read(path: &Path, limit: u64, secret: bool) -> Result<Vec<u8>, StoreError> {
    let seen = fs::symlink_metadata(path).map_err(io_error(path))?;
    if !seen.file_type().is_file() {
        return Err(StoreError::NotAFile(path.to_owned()));
    }
    let file = File::open(path).map_err(io_error(path))?;
    // Judged by the open file: the name may have been exchanged since.
    let meta = file.metadata().map_err(io_error(path))?;
    if meta.ino() != seen.ino() || meta.dev() != seen.dev() {
        return Err(StoreError::NotAFile(path.to_owned()));
    }
    let mode = meta.permissions().mode() & 0o7777;
    if secret && mode & 0o077 != 0 {
        return Err(StoreError::Permissions { path: path.to_owned(), mode });
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(io_error(path))?;
    if bytes.len() as u64 > limit {
        return Err(StoreError::TooLarge { path: path.to_owned(), limit });
    }
    Ok(bytes)
}

/// Writes a secret with mode 0600: after a crash either the old or the new content is there.
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    write(path, bytes, 0o600)
}

/// Writes a file all may read, all or nothing.
pub fn write_public(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    write(path, bytes, 0o644)
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), StoreError> {
    let name = path.file_name().ok_or_else(|| StoreError::NotAFile(path.to_owned()))?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = dir.join(format!(".{}.{}.new", name.to_string_lossy(), std::process::id()));
    let outcome = write_temporary(&temporary, bytes, mode).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = outcome {
        // Our own half-written file; the target is untouched.
        let _ = fs::remove_file(&temporary);
        return Err(io_error(path)(error));
    }
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error(dir))
}

fn write_temporary(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    // The umask may have taken bits away; a secret never gets more than 0600.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Moves a file that cannot be read out of the way, to the first free `NAME.corrupt-N`.
pub fn set_aside(path: &Path) -> Result<PathBuf, StoreError> {
    let name = path.file_name().ok_or_else(|| StoreError::NotAFile(path.to_owned()))?;
    for number in 1..1000 {
        let target = path.with_file_name(format!("{}.corrupt-{number}", name.to_string_lossy()));
        if fs::symlink_metadata(&target).is_ok() {
            continue;
        }
        fs::rename(path, &target).map_err(io_error(path))?;
        return Ok(target);
    }
    Err(StoreError::Io { path: path.to_owned(), error: io::Error::other("too many files set aside") })
}
