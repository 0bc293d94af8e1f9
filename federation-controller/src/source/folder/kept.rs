//! The last good objects of every file, kept in the store for a restart.
//!
//! Called by the scanner. One row per file, written only when its objects changed. The rows hold what
//! the manifests hold, no more; they are as private as the store's file.

use std::collections::BTreeMap;

use hansa_api::convert::Object;
use hansa_core::code::{config, manifest};
use tracing::warn;

use super::file::File;
use crate::source::Problem;
use crate::store::Batch;

/// The rows: `manifest/FILE`.
pub(super) const PREFIX: &str = "manifest/";
/// Most bytes of one row. Larger than any file: the names of fields are written out.
const MOST_FILE: usize = 16 << 20;
/// Most bytes of all rows.
const MOST_ALL: usize = 32 << 20;

/// What is kept, by size, and what is to be written.
#[derive(Default)]
pub(super) struct Kept {
    sizes: BTreeMap<String, usize>,
    /// Files of which nothing is kept, for their size.
    large: BTreeMap<String, Problem>,
    changes: Batch,
}

impl Kept {
    /// The files as they were before the restart.
    pub(super) fn load(rows: Vec<(String, Vec<u8>)>) -> (BTreeMap<String, File>, Self) {
        let mut kept = Self::default();
        let mut files = BTreeMap::new();
        for (name, body) in rows {
            match serde_json::from_slice::<Vec<Object>>(&body) {
                Ok(objects) => {
                    kept.sizes.insert(name.clone(), body.len());
                    files.insert(name, File { objects, ..File::default() });
                }
                Err(error) => warn!(code = %config::STATE_CORRUPT, file = name, %error,
                    "the last good objects of a manifest cannot be read; left out"),
            }
        }
        (files, kept)
    }

    /// Keeps the objects of a file.
    pub(super) fn note(&mut self, name: &str, objects: &[Object]) {
        self.large.remove(name);
        let before = self.sizes.remove(name).unwrap_or(0);
        let body = serde_json::to_vec(objects).unwrap_or_default();
        let all: usize = self.sizes.values().sum();
        let key = format!("{PREFIX}{name}");
        if !body.is_empty() && body.len() <= MOST_FILE && all + body.len() <= MOST_ALL {
            self.sizes.insert(name.to_owned(), body.len());
            self.changes.put(key, body);
            return;
        }
        if before > 0 {
            self.changes.delete(key);
        }
        let message =
            format!("too large to be kept for a restart: {} bytes as JSON; split the file", body.len());
        let problem = Problem { object: name.to_owned(), code: manifest::YAML_TOO_LARGE.number, message };
        self.large.insert(name.to_owned(), problem);
    }

    /// Keeps nothing of a file any more.
    pub(super) fn forget(&mut self, name: &str) {
        self.large.remove(name);
        if self.sizes.remove(name).is_some() {
            self.changes.delete(format!("{PREFIX}{name}"));
        }
    }

    /// Files that would not be known after a restart.
    pub(super) fn problems(&self) -> impl Iterator<Item = Problem> {
        self.large.values().cloned()
    }

    /// What changed since the last call.
    pub(super) fn take_changes(&mut self) -> Batch {
        std::mem::take(&mut self.changes)
    }
}
