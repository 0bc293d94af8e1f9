//! One file of the folder: its objects, and the last good version of those that are refused now.
//!
//! Called by the scanner. An object goes when its file no longer holds it, never because it is wrong.

use std::collections::BTreeSet;

use hansa_api::convert::{Object, Refused};
use hansa_core::code::Code;

use super::scan::{Parsed, Stamp};
use crate::index;
use crate::source::{Hidden, Problem};

/// What is known of one file.
#[derive(Default)]
pub(super) struct File {
    /// `None`: not read since the start.
    pub(super) stamp: Option<Stamp>,
    /// The objects in force.
    pub(super) objects: Vec<Object>,
    /// Which of them are last good versions of what is refused now.
    pub(super) kept: BTreeSet<String>,
    pub(super) wrong: Vec<Wrong>,
    pub(super) hidden: Hidden,
}

/// What is wrong with a file or with an object of it.
pub(super) struct Wrong {
    problem: Problem,
    /// The object, if its last good version is kept.
    kept: Option<String>,
}

impl Wrong {
    /// As it is shown. `elsewhere`: kept ones that give way to a valid one in another file.
    pub(super) fn shown(&self, elsewhere: &BTreeSet<String>) -> Problem {
        let mut shown = self.problem.clone();
        shown.message.push_str(match &self.kept {
            Some(id) if elsewhere.contains(id) => "; the one in another file counts",
            Some(_) => "; its last good version stays in force",
            None => "",
        });
        shown
    }
}

/// Objects that a file names and that cannot be used.
#[derive(Default)]
struct Lost {
    ids: BTreeSet<String>,
    /// One of them cannot be told by kind and name: it may be any.
    unnamed: bool,
}

/// Kind and name as [`Object::id`] writes them; `None`: it has no name.
fn id(refused: &Refused) -> Option<String> {
    let (kind, name) = refused.object.split_once(' ')?;
    if name.is_empty() || name.ends_with('/') {
        return None;
    }
    Some(match kind {
        "Service" | "EndpointSlice" | "ServiceExport" if !name.contains('/') => {
            format!("{kind} default/{name}")
        }
        // A mistyped kind must not look like the removal of a peer.
        _ if kind != "ClusterProperty"
            && (kind.starts_with("Clus") || kind.to_lowercase().contains("peer")) =>
        {
            format!("ClusterPeer {}", name.rsplit('/').next().unwrap_or_default())
        }
        _ => refused.object.clone(),
    })
}

impl Lost {
    fn of(refused: &[Refused]) -> Self {
        let mut lost = Self::default();
        for refused in refused {
            match id(refused) {
                Some(id) => drop(lost.ids.insert(id)),
                None => lost.unnamed = true,
            }
        }
        lost
    }
}

impl File {
    /// Takes what was read. True if the objects in force changed.
    pub(super) fn reread(&mut self, name: &str, stamp: Stamp, parsed: Parsed) -> bool {
        self.stamp = Some(stamp);
        match parsed {
            Ok((objects, refused)) => self.take(name, objects, refused),
            Err((code, message)) => {
                self.wrong = vec![Wrong { problem: problem(name, "", code, message), kept: None }];
                self.kept = self.objects.iter().map(Object::id).collect();
                self.hidden = Hidden { all: true, ..Hidden::default() };
                false
            }
        }
    }

    fn take(&mut self, name: &str, objects: Vec<Object>, mut refused: Vec<Refused>) -> bool {
        let mut good = Vec::with_capacity(objects.len());
        for object in objects {
            match index::sound(&object) {
                Ok(()) => good.push(object),
                Err(reason) => refused.push(reason),
            }
        }
        let lost = Lost::of(&refused);
        let present: BTreeSet<String> = good.iter().map(Object::id).collect();
        let mut kept = BTreeSet::new();
        for object in &self.objects {
            let id = object.id();
            if !present.contains(&id) && (lost.unnamed || lost.ids.contains(&id)) {
                good.push(object.clone());
                kept.insert(id);
            }
        }
        let unknown = lost.ids.iter().filter(|id| !present.contains(*id) && !kept.contains(*id));
        let peers = unknown.filter_map(|id| id.strip_prefix("ClusterPeer ")?.parse().ok());
        self.hidden = Hidden { all: lost.unnamed, peers: peers.collect() };
        let wrong = refused.into_iter().map(|refused| Wrong {
            kept: id(&refused).filter(|id| kept.contains(id)),
            problem: problem(name, &refused.object, refused.code, refused.message),
        });
        self.wrong = wrong.collect();
        self.kept = kept;
        let changed = self.objects != good;
        self.objects = good;
        changed
    }
}

fn problem(file: &str, object: &str, code: Code, message: String) -> Problem {
    let gap = if object.is_empty() { "" } else { ": " };
    Problem { object: format!("{file}{gap}{object}"), code: code.number, message }
}
