//! Careful files: atomic replacement, secrets that only their owner reads, limited reading, and
//! broken files that are set aside instead of deleted.
//!
//! Called by everything that keeps state or keys on disk. It never removes a file it did not
//! make.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Mode of files with keys or secrets in them.
pub const SECRET: u32 = 0o600;
/// Mode of files anybody on the machine may read.
pub const PUBLIC: u32 = 0o644;

/// How many set-aside copies of one file may exist; beyond it something is badly wrong and the
/// disk must not fill up with evidence.
const MOST_SET_ASIDE: u32 = 1_000;

/// Why a file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system refused.
    #[error("cannot {doing} {path}: {source}")]
    Io {
        /// What was tried, as a verb.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A secret that others than its owner can read.
    #[error("{path} holds a secret but has mode {mode:04o}; run: chmod 600 {path}")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// More bytes than the caller allows.
    #[error("{path} is larger than {limit} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
}

impl FileError {
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.to_owned(), source }
    }

    /// Whether the file simply is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Replaces `path` with `bytes` so that a reader, a crash or a full disk sees the old content or
/// the new, never a part: temporary file in the same folder, fsync, rename, fsync of the folder.
///
/// # Errors
/// [`FileError::Io`]; the old file is then untouched.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let folder = folder_of(path);
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".tmp-{}", std::process::id()));
    let temporary = folder.join(name);
    let written = write_new(&temporary, bytes, mode)
        .and_then(|()| fs::rename(&temporary, path).map_err(FileError::io("replace", path)));
    if let Err(e) = written {
        // Ours and unfinished; when even this fails the first error is the one to tell.
        let _ = fs::remove_file(&temporary);
        return Err(e);
    }
    sync_folder(folder)
}

/// Reads a whole file of at most `limit` bytes.
///
/// # Errors
/// [`FileError::TooLarge`] without reading beyond the limit; [`FileError::Io`].
pub fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let file = File::open(path).map_err(FileError::io("open", path))?;
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(FileError::io("read", path))?;
    if bytes.len() as u64 > limit {
        return Err(FileError::TooLarge { path: path.to_owned(), limit });
    }
    Ok(bytes)
}

/// Reads a secret of at most `limit` bytes, and only if nobody but its owner can.
///
/// # Errors
/// [`FileError::Exposed`] when group or others have any right on it; as [`read_limited`].
pub fn read_secret(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    check_secret(path)?;
    read_limited(path, limit)
}

/// Checks that nobody but its owner can read `path`.
///
/// # Errors
/// [`FileError::Exposed`], [`FileError::Io`].
pub fn check_secret(path: &Path) -> Result<(), FileError> {
    let mode = fs::metadata(path).map_err(FileError::io("inspect", path))?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(FileError::Exposed { path: path.to_owned(), mode });
    }
    Ok(())
}

/// Makes a folder, and its parents, that only its owner can enter. One that exists is left as
/// it is.
///
/// # Errors
/// [`FileError::Io`].
pub fn private_folder(path: &Path) -> Result<(), FileError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(path).map_err(FileError::io("make the folder", path))
}

/// Renames a file that cannot be understood to `name.corrupt-<n>` beside it and returns the new
/// name. It is evidence, so it is never deleted and never overwritten.
///
/// # Errors
/// [`FileError::Io`].
pub fn set_aside(path: &Path) -> Result<PathBuf, FileError> {
    for n in 1..=MOST_SET_ASIDE {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".corrupt-{n}"));
        let aside = PathBuf::from(name);
        // A hard link fails if the name exists, where a rename would overwrite it.
        match fs::hard_link(path, &aside) {
            Ok(()) => {
                fs::remove_file(path).map_err(FileError::io("set aside", path))?;
                sync_folder(folder_of(path))?;
                return Ok(aside);
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(FileError::io("set aside", path)(e)),
        }
    }
    let full = io::Error::other(format!("{MOST_SET_ASIDE} corrupt copies are there already"));
    Err(FileError::io("set aside", path)(full))
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode);
    let mut file = options.open(path).map_err(FileError::io("create", path))?;
    // The umask may have taken rights away, and an old temporary file may have others.
    file.set_permissions(fs::Permissions::from_mode(mode)).map_err(FileError::io("chmod", path))?;
    file.write_all(bytes).map_err(FileError::io("write", path))?;
    file.sync_all().map_err(FileError::io("sync", path))
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn sync_folder(folder: &Path) -> Result<(), FileError> {
    let handle = File::open(folder).map_err(FileError::io("open", folder))?;
    handle.sync_all().map_err(FileError::io("sync", folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_files_with_the_wanted_mode_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        write_atomic(&path, b"one", SECRET).unwrap();
        write_atomic(&path, b"two", SECRET).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, SECRET);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_leaves_the_old_content_and_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        fs::create_dir(&path).unwrap();
        let error = write_atomic(&path, b"x", PUBLIC).unwrap_err();
        assert!(error.to_string().starts_with("cannot replace "), "{error}");
        assert!(path.is_dir());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let missing = write_atomic(&dir.path().join("no/such"), b"x", PUBLIC).unwrap_err();
        assert!(missing.is_not_found());
    }

    #[test]
    fn an_exposed_secret_is_refused_with_the_command_that_mends_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_atomic(&path, b"k", 0o640).unwrap();
        let error = read_secret(&path, 10).unwrap_err().to_string();
        assert!(error.contains("0640") && error.contains("chmod 600"), "{error}");
        write_atomic(&path, b"k", SECRET).unwrap();
        assert_eq!(read_secret(&path, 10).unwrap(), b"k");
    }

    #[test]
    fn reading_stops_at_the_limit_even_without_an_end() {
        let endless = read_limited(Path::new("/dev/zero"), 1_000).unwrap_err();
        assert!(matches!(endless, FileError::TooLarge { limit: 1_000, .. }));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, b"12345").unwrap();
        assert_eq!(read_limited(&path, 5).unwrap(), b"12345");
        assert!(read_limited(&path, 4).is_err());
    }

    #[test]
    fn set_aside_never_overwrites_evidence() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        for n in 1..=3 {
            fs::write(&path, format!("broken {n}")).unwrap();
            let aside = set_aside(&path).unwrap();
            assert_eq!(aside, dir.path().join(format!("store.db.corrupt-{n}")));
            assert!(!path.exists());
        }
        assert_eq!(fs::read(dir.path().join("store.db.corrupt-1")).unwrap(), b"broken 1");
        assert!(set_aside(&path).unwrap_err().is_not_found());
    }

    #[test]
    fn private_folders_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        private_folder(&path).unwrap();
        private_folder(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
    }
}
