//! One look at the folder: reads files that changed, keeps the last good objects of the others.
//!
//! Called by the folder source off the runtime's workers. A file that is missing counts as removed
//! once nothing more goes missing: a folder that is being deleted is not many removals.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hansa_api::convert::{self, MAX_FILE, Object};
use hansa_core::code::{Code, manifest};

use super::file::File;
use super::kept::Kept;
use crate::source::{Hidden, Problem};
use crate::store::Batch;

/// What tells a changed file: modification time (s, ns), size, inode.
pub(super) type Stamp = (i64, i64, u64, u64);

/// How long files may go on to go missing before what is missing counts as removed all the same.
const PATIENCE: Duration = Duration::from_millis(500);

/// The files of one folder.
#[derive(Default)]
pub(super) struct Scanner {
    path: PathBuf,
    files: BTreeMap<String, File>,
    kept: Kept,
    gone: Option<Problem>,
    /// Files that the last look did not find any more, and since when any is missing.
    missing: Option<(BTreeSet<String>, Instant)>,
    looked: bool,
}

impl Scanner {
    /// Begins with the last good objects of each file, as kept before a restart.
    pub(super) fn new(path: PathBuf, known: Vec<(String, Vec<u8>)>) -> Self {
        let (files, kept) = Kept::load(known);
        Self { path, files, kept, ..Self::default() }
    }

    /// As after a look that could not read the folder.
    pub(super) fn unread(mut self, problem: Problem) -> Self {
        self.gone = Some(problem);
        self
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn folder_ok(&self) -> bool {
        self.gone.is_none()
    }

    /// Files are missing, and the next look decides whether they were removed.
    pub(super) fn undecided(&self) -> bool {
        self.missing.is_some()
    }

    /// All objects, files in name order. The last good version of what is refused now gives way to a
    /// valid one in another file, wherever that stands.
    pub(super) fn objects(&self) -> impl Iterator<Item = (&str, &Object)> {
        let elsewhere = self.elsewhere();
        let all = self
            .files
            .iter()
            .flat_map(|(name, file)| file.objects.iter().map(move |object| (name.as_str(), file, object)));
        all.filter_map(move |(name, file, object)| {
            let gives_way = !elsewhere.is_empty() && !file.kept.is_empty() && {
                let id = object.id();
                file.kept.contains(&id) && elsewhere.contains(&id)
            };
            (!gives_way).then_some((name, object))
        })
    }

    /// Objects refused in one file, with a last good version, that stand valid in another.
    fn elsewhere(&self) -> BTreeSet<String> {
        let kept: BTreeSet<&String> = self.files.values().flat_map(|file| &file.kept).collect();
        if kept.is_empty() {
            return BTreeSet::new();
        }
        let valid = self
            .files
            .values()
            .flat_map(|file| file.objects.iter().map(Object::id).filter(move |id| !file.kept.contains(id)));
        valid.filter(|id| kept.contains(id)).collect()
    }

    pub(super) fn problems(&self) -> impl Iterator<Item = Problem> {
        let elsewhere = self.elsewhere();
        let of_files = self.files.values().flat_map(|file| &file.wrong);
        let of_files = of_files.map(move |wrong| wrong.shown(&elsewhere));
        of_files.chain(self.gone.clone()).chain(self.kept.problems())
    }

    /// Peers that may stand in what cannot be read.
    pub(super) fn hidden(&self) -> Hidden {
        let mut hidden = Hidden { all: self.gone.is_some(), ..Hidden::default() };
        for file in self.files.values() {
            hidden.all |= file.hidden.all;
            hidden.peers.extend(file.hidden.peers.iter().cloned());
        }
        hidden
    }

    /// Every file could be read, and nothing in them is refused.
    pub(super) fn whole(&self) -> bool {
        let read = |file: &File| file.stamp.is_some() && file.wrong.is_empty();
        self.folder_ok() && self.files.values().all(read)
    }

    /// What is to be written down after the last look.
    pub(super) fn changes(&mut self) -> Batch {
        self.kept.take_changes()
    }

    /// Looks at every file; true if anything changed.
    pub(super) fn scan(&mut self) -> bool {
        let first = !std::mem::replace(&mut self.looked, true);
        let names = match list(&self.path) {
            Ok(names) => names,
            Err(error) => {
                self.missing = None;
                let problem = Some(super::folder_gone(&self.path, &error));
                let changed = first || self.gone != problem;
                self.gone = problem;
                return changed;
            }
        };
        let mut changed = self.gone.take().is_some() || first;
        changed |= self.remove(&names);
        for (name, stamp) in names {
            let known = self.files.get(&name).and_then(|file| file.stamp);
            if known == Some(stamp) {
                continue;
            }
            let file = self.files.entry(name.clone()).or_default();
            let path = self.path.join(&name);
            let text = read(&path);
            if file.reread(&name, stamp, text) {
                self.kept.note(&name, &file.objects);
            }
            changed = true;
        }
        changed
    }

    /// Drops files that are missing now as they were at the last look.
    fn remove(&mut self, names: &BTreeMap<String, Stamp>) -> bool {
        let missing: BTreeSet<String> =
            self.files.keys().filter(|name| !names.contains_key(*name)).cloned().collect();
        let before = self.missing.take();
        if missing.is_empty() {
            return false;
        }
        let settled =
            before.as_ref().is_some_and(|(same, since)| *same == missing || since.elapsed() > PATIENCE);
        if !settled {
            let since = before.map_or_else(Instant::now, |(_, since)| since);
            self.missing = Some((missing, since));
            return false;
        }
        for name in missing {
            self.files.remove(&name);
            self.kept.forget(&name);
        }
        true
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

/// Objects and refusals of a file, or why nothing of it can be used.
pub(super) type Parsed = Result<(Vec<Object>, Vec<convert::Refused>), (Code, String)>;

fn read(path: &Path) -> Parsed {
    let text = text(path)?;
    convert::read(&text).map_err(|refused| (refused.code, refused.message))
}

fn text(path: &Path) -> Result<String, (Code, String)> {
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
