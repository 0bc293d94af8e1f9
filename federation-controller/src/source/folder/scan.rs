//! One look at the folder: reads files that changed, keeps the last good objects of the others.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hansa_api::convert::{self, MAX_FILE, Object};
use hansa_core::code::{Code, manifest};

use crate::source::Problem;

/// What tells a changed file: modification time (s, ns), size, inode.
type Stamp = (i64, i64, u64, u64);

#[derive(Default)]
struct File {
    stamp: Stamp,
    objects: Vec<Object>,
    problems: Vec<Problem>,
}

/// The files of one folder.
#[derive(Default)]
pub(super) struct Scanner {
    path: PathBuf,
    files: BTreeMap<String, File>,
    gone: Option<Problem>,
    looked: bool,
}

impl Scanner {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, ..Self::default() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn folder_ok(&self) -> bool {
        self.gone.is_none()
    }

    /// All objects, files in name order.
    pub(super) fn objects(&self) -> impl Iterator<Item = (&str, &Object)> {
        self.files.iter().flat_map(|(name, file)| file.objects.iter().map(move |o| (name.as_str(), o)))
    }

    pub(super) fn problems(&self) -> impl Iterator<Item = Problem> {
        self.files.values().flat_map(|f| &f.problems).chain(&self.gone).cloned()
    }

    /// Looks at every file; true if anything changed.
    pub(super) fn scan(&mut self) -> bool {
        let first = !std::mem::replace(&mut self.looked, true);
        let names = match list(&self.path) {
            Ok(names) => names,
            Err(error) => {
                let problem = Some(super::folder_gone(&self.path, &error));
                let changed = first || self.gone != problem;
                self.gone = problem;
                return changed;
            }
        };
        let mut changed = self.gone.take().is_some() || first;
        let before = self.files.len();
        self.files.retain(|name, _| names.contains_key(name));
        changed |= self.files.len() != before;
        for (name, stamp) in names {
            let known = self.files.get(&name).map(|f| f.stamp);
            if known != Some(stamp) {
                let path = self.path.join(&name);
                self.files.entry(name.clone()).or_default().reread(&path, &name, stamp);
                changed = true;
            }
        }
        changed
    }
}

/// Manifest files by name. Hidden entries (among them Kubernetes' `..data`) are passed over; symbolic
/// links are followed, and folders passed over.
fn list(path: &Path) -> std::io::Result<BTreeMap<String, Stamp>> {
    let mut names = BTreeMap::new();
    for entry in std::fs::read_dir(path)? {
        let Ok(name) = entry?.file_name().into_string() else { continue };
        let manifest = [".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end));
        if !manifest || name.starts_with('.') {
            continue;
        }
        let file = path.join(&name);
        // A file that vanished between the two calls is simply not there; a link that leads nowhere is
        // a swap under way, and reading it says so.
        let Ok(meta) = std::fs::metadata(&file).or_else(|_| std::fs::symlink_metadata(&file)) else {
            continue;
        };
        if !meta.is_dir() {
            names.insert(name, (meta.mtime(), meta.mtime_nsec(), meta.len(), meta.ino()));
        }
    }
    Ok(names)
}

impl File {
    fn reread(&mut self, path: &Path, name: &str, stamp: Stamp) {
        self.stamp = stamp;
        let problem = |object: &str, code: Code, message: String| {
            let gap = if object.is_empty() { "" } else { ": " };
            Problem { object: format!("{name}{gap}{object}"), code: code.number, message }
        };
        let parsed = read(path)
            .and_then(|text| convert::read(&text).map_err(|refused| (refused.code, refused.message)));
        match parsed {
            Ok((objects, refused)) => {
                self.objects = objects;
                self.problems = refused.into_iter().map(|r| problem(&r.object, r.code, r.message)).collect();
            }
            Err((code, message)) => self.problems = vec![problem("", code, message)],
        }
    }
}

fn read(path: &Path) -> Result<String, (Code, String)> {
    let unreadable = |e: std::io::Error| (manifest::YAML_INVALID, e.to_string());
    // Without waiting, and then a regular file: a pipe in its place would hold us for ever.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(unreadable)?;
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err((manifest::YAML_INVALID, "it is not a regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    // One byte more than is taken, so that a larger file shows without being read.
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err((manifest::YAML_TOO_LARGE, format!("more than {MAX_FILE} bytes; split the file")));
    }
    String::from_utf8(bytes).map_err(|_| (manifest::YAML_INVALID, "the file is not UTF-8 text".to_owned()))
}
