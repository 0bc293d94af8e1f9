//! Versioned rows: the state behind every feed (`diff`, `apply`, digest).
//!
//! A publisher keeps one [`Table`] per projection and computes what a follower lacks; it keeps no
//! queue per follower. A follower keeps a [`Held`] of keys and hashes, also of rows it refused.
//! Rows are opaque bytes here; `hansa-proto` gives them meaning.

use std::collections::BTreeMap;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// Hash of one row: the first 16 bytes of SHA-256 over key, zero byte, body.
pub type RowHash = u128;

/// Order-independent digest of a set of rows: the wrapping sum of their hashes.
pub type Digest = u128;

/// The hash of a row.
pub fn row_hash(key: &str, body: &[u8]) -> RowHash {
    let mut hasher = Sha256::new();
    hasher.update(key.as_bytes());
    hasher.update([0]);
    hasher.update(body);
    let bytes = hasher.finalize();
    bytes.iter().take(16).fold(0, |acc, b| (acc << 8) | u128::from(*b))
}

/// One row of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row<B> {
    /// Hash of key and body.
    pub hash: RowHash,
    /// The version that last changed it.
    pub changed: u64,
    /// The encoded body.
    pub body: B,
}

/// A publisher's table.
#[derive(Debug, Clone)]
pub struct Table<B> {
    version: u64,
    digest: Digest,
    rows: BTreeMap<String, Row<B>>,
    /// Removed keys and the version that removed them.
    tombstones: BTreeMap<String, u64>,
    /// Versions before this one cannot be served by a delta any more.
    floor: u64,
}

/// What takes a follower from one version to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta<B> {
    /// The version it starts from; `None` for a snapshot, which replaces everything.
    pub from: Option<u64>,
    /// The version it leads to.
    pub to: u64,
    /// The digest after it.
    pub digest: Digest,
    /// New and changed rows.
    pub changed: Vec<(String, B)>,
    /// Removed keys; empty in a snapshot.
    pub removed: Vec<String>,
}

impl<B> Delta<B> {
    /// True if it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.from.is_some() && self.changed.is_empty() && self.removed.is_empty()
    }
}

/// How many removals a table remembers before old followers need a snapshot.
const MAX_TOMBSTONES: usize = 65_536;

impl<B: AsRef<[u8]> + Clone> Table<B> {
    /// An empty table at `version`. Followers of an older version will get a snapshot.
    pub fn new(version: u64) -> Self {
        Self { version, digest: 0, rows: BTreeMap::new(), tombstones: BTreeMap::new(), floor: version }
    }

    /// A table that holds `rows` at `version`: a replica of another publisher's.
    pub fn at(version: u64, rows: BTreeMap<String, B>) -> Self {
        let mut table = Self::new(version);
        table.replace_at(version, rows);
        table
    }

    /// The current version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The digest of all rows.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// All rows by key.
    pub fn rows(&self) -> &BTreeMap<String, Row<B>> {
        &self.rows
    }

    /// Makes the table hold exactly `rows`. Returns true, with a new version, if anything changed.
    pub fn replace(&mut self, rows: BTreeMap<String, B>) -> bool {
        let gone = self.absent(&rows);
        self.update(rows, gone)
    }

    /// Makes the table hold exactly `rows` under the version another publisher gave them. A lower
    /// version than the current one is ignored.
    pub fn replace_at(&mut self, version: u64, rows: BTreeMap<String, B>) {
        if version < self.version {
            return;
        }
        let gone = self.absent(&rows);
        if self.change(version, rows, gone) && version == self.version {
            // One version with two contents: nobody may build on it.
            self.floor = version;
        }
        self.version = version;
        self.forget();
    }

    fn absent(&self, rows: &BTreeMap<String, B>) -> Vec<String> {
        self.rows.keys().filter(|k| !rows.contains_key(*k)).cloned().collect()
    }

    /// Sets some rows and removes some keys, in one version.
    pub fn update(&mut self, set: impl IntoIterator<Item = (String, B)>, remove: Vec<String>) -> bool {
        let next = self.version + 1;
        let touched = self.change(next, set, remove);
        if touched {
            self.version = next;
            self.forget();
        }
        touched
    }

    fn change(&mut self, next: u64, set: impl IntoIterator<Item = (String, B)>, remove: Vec<String>) -> bool {
        let mut touched = false;
        for key in remove {
            if let Some(row) = self.rows.remove(&key) {
                self.digest = self.digest.wrapping_sub(row.hash);
                self.tombstones.insert(key, next);
                touched = true;
            }
        }
        for (key, body) in set {
            let hash = row_hash(&key, body.as_ref());
            let old = self.rows.get(&key).map(|row| row.hash);
            if old == Some(hash) {
                continue;
            }
            self.digest = self.digest.wrapping_sub(old.unwrap_or(0)).wrapping_add(hash);
            self.tombstones.remove(&key);
            self.rows.insert(key, Row { hash, changed: next, body });
            touched = true;
        }
        touched
    }

    fn forget(&mut self) {
        if self.tombstones.len() > MAX_TOMBSTONES {
            self.floor = self.version;
            self.tombstones.clear();
        }
    }

    /// What a follower at `since` lacks. `None`, a version from the future and one before the
    /// remembered past give a snapshot.
    pub fn diff(&self, since: Option<u64>) -> Delta<B> {
        let from = since.filter(|v| (self.floor..=self.version).contains(v));
        let newer = |changed: u64| from.is_none_or(|v| changed > v);
        let rows = self.rows.iter().filter(|(_, row)| newer(row.changed));
        let removed = match from {
            None => Vec::new(),
            Some(v) => self.tombstones.iter().filter(|t| *t.1 > v).map(|t| t.0.clone()).collect(),
        };
        Delta {
            from,
            to: self.version,
            digest: self.digest,
            changed: rows.map(|(key, row)| (key.clone(), row.body.clone())).collect(),
            removed,
        }
    }
}

/// What is remembered of a row: its hash, and the bytes of its key and body.
type Known = (RowHash, usize);

/// A follower's memory of what it was told: keys, hashes and sizes, version and digest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Held {
    /// The version applied, `None` before the first snapshot.
    pub version: Option<u64>,
    /// The digest of all rows held.
    pub digest: Digest,
    #[serde(skip)]
    rows: BTreeMap<String, Known>,
    #[serde(skip)]
    bytes: usize,
}

/// Why a delta does not fit: the follower must ask for a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// The delta starts elsewhere.
    #[error("the delta starts at version {from}, we hold {held:?}")]
    Gap {
        /// Where the delta starts.
        from: u64,
        /// What the follower holds.
        held: Option<u64>,
    },
    /// It leads back in time.
    #[error("the delta leads back from version {held} to {to}")]
    Backwards {
        /// What the follower holds.
        held: u64,
        /// Where it leads.
        to: u64,
    },
    /// After it, the digests differ.
    #[error("the digest differs after version {to}")]
    Digest {
        /// Where it leads.
        to: u64,
    },
}

fn known(key: &str, body: &[u8]) -> Known {
    (row_hash(key, body), key.len() + body.len())
}

impl Held {
    /// What a follower holds that kept `rows` at `version`.
    pub fn of<'a>(version: u64, rows: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let rows: BTreeMap<String, Known> =
            rows.into_iter().map(|(key, body)| (key.to_owned(), known(key, body))).collect();
        let digest = rows.values().fold(0, |sum: Digest, row| sum.wrapping_add(row.0));
        let bytes = rows.values().map(|row| row.1).sum();
        Self { version: Some(version), digest, rows, bytes }
    }

    /// True if the row is held.
    pub fn contains(&self, key: &str) -> bool {
        self.rows.contains_key(key)
    }

    /// The keys held.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.rows.keys().map(String::as_str)
    }

    /// How many rows are held.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// The bytes of all keys and bodies of the rows held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many rows of how many bytes would be held after `delta`, if it fits.
    pub fn after<B: AsRef<[u8]>>(&self, delta: &Delta<B>) -> (usize, usize) {
        // `None`: removed. A key that comes more than once counts once, as its last body.
        let mut touched: BTreeMap<&str, Option<usize>> =
            delta.removed.iter().map(|key| (key.as_str(), None)).collect();
        touched.extend(delta.changed.iter().map(|(key, body)| {
            let size = key.len() + body.as_ref().len();
            (key.as_str(), Some(size))
        }));
        let (mut rows, mut bytes) = if delta.from.is_some() { (self.rows.len(), self.bytes) } else { (0, 0) };
        for (key, size) in touched {
            if let Some((_, old)) = self.rows.get(key).filter(|_| delta.from.is_some()) {
                (rows, bytes) = (rows - 1, bytes - old);
            }
            if let Some(size) = size {
                (rows, bytes) = (rows + 1, bytes + size);
            }
        }
        (rows, bytes)
    }

    /// True if no row is held.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Applies a delta, all or nothing. After an error nothing has changed.
    pub fn apply<B: AsRef<[u8]>>(&mut self, delta: &Delta<B>) -> Result<(), Misfit> {
        match (delta.from, self.version) {
            (None, _) => {
                let mut next = Self::default();
                next.change(delta);
                *self = next.finish(delta)?;
                return Ok(());
            }
            (Some(from), held) if held != Some(from) => return Err(Misfit::Gap { from, held }),
            (Some(held), _) if delta.to < held => return Err(Misfit::Backwards { held, to: delta.to }),
            _ => {}
        }
        let before = (self.digest, self.bytes);
        let undo = self.change(delta);
        if self.digest == delta.digest {
            self.version = Some(delta.to);
            return Ok(());
        }
        for (key, row) in undo.into_iter().rev() {
            match row {
                Some(row) => self.rows.insert(key, row),
                None => self.rows.remove(&key),
            };
        }
        (self.digest, self.bytes) = before;
        Err(Misfit::Digest { to: delta.to })
    }

    fn finish<B>(mut self, delta: &Delta<B>) -> Result<Self, Misfit> {
        if self.digest != delta.digest {
            return Err(Misfit::Digest { to: delta.to });
        }
        self.version = Some(delta.to);
        Ok(self)
    }

    /// Changes rows and digest; returns what was there before, in order.
    fn change<B: AsRef<[u8]>>(&mut self, delta: &Delta<B>) -> Vec<(String, Option<Known>)> {
        let mut undo = Vec::with_capacity(delta.removed.len() + delta.changed.len());
        for key in &delta.removed {
            if let Some(row) = self.rows.remove(key) {
                self.digest = self.digest.wrapping_sub(row.0);
                self.bytes -= row.1;
                undo.push((key.clone(), Some(row)));
            }
        }
        for (key, body) in &delta.changed {
            let row = known(key, body.as_ref());
            let old = self.rows.insert(key.clone(), row);
            let (hash, size) = old.unwrap_or_default();
            self.digest = self.digest.wrapping_sub(hash).wrapping_add(row.0);
            self.bytes = self.bytes - size + row.1;
            undo.push((key.clone(), old));
        }
        undo
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Rows = BTreeMap<String, Vec<u8>>;

    fn rows() -> impl Strategy<Value = Rows> {
        proptest::collection::btree_map("[a-e]{1,2}", proptest::collection::vec(0u8..3, 0..3), 0..8)
    }

    proptest! {
        #[test]
        fn apply_after_diff_is_the_publisher(states in proptest::collection::vec(rows(), 1..8), held in 0usize..8) {
            let mut table = Table::new(7);
            let mut copy = Held::default();
            for (i, state) in states.iter().enumerate() {
                table.replace(state.clone());
                if i <= held { copy.apply(&table.diff(copy.version)).unwrap(); }
            }
            let delta = table.diff(copy.version);
            let after = copy.after(&delta);
            copy.apply(&delta).unwrap();
            let bytes = table.rows().iter().map(|(key, row)| key.len() + row.body.len()).sum::<usize>();
            prop_assert_eq!((copy.len(), copy.bytes()), (table.rows().len(), bytes));
            prop_assert_eq!(after, (copy.len(), copy.bytes()));
            prop_assert_eq!(copy.version, Some(table.version()));
            prop_assert_eq!(copy.digest, table.digest());
            let keys: Vec<&str> = copy.keys().collect();
            let want: Vec<&str> = states.last().unwrap().keys().map(String::as_str).collect();
            prop_assert_eq!(keys, want);
        }

        #[test]
        fn digest_does_not_depend_on_the_way(a in rows(), b in rows()) {
            let mut one = Table::new(0);
            one.replace(a);
            one.replace(b.clone());
            let mut two = Table::new(0);
            two.replace(b);
            prop_assert_eq!(one.digest(), two.digest());
        }
    }

    #[test]
    fn a_false_digest_changes_nothing() {
        let mut table: Table<Vec<u8>> = Table::new(0);
        table.replace(BTreeMap::from([("a".into(), vec![1])]));
        let mut delta = table.diff(None);
        delta.digest ^= 1;
        let mut copy = Held::default();
        assert_eq!(copy.apply(&delta), Err(Misfit::Digest { to: 1 }));
        assert_eq!(copy, Held::default());
    }

    #[test]
    fn a_version_from_the_future_gets_a_snapshot() {
        let table: Table<Vec<u8>> = Table::new(5);
        assert_eq!(table.diff(Some(6)).from, None);
        assert_eq!(table.diff(Some(4)).from, None);
        assert_eq!(table.diff(Some(5)).from, Some(5));
    }

    proptest! {
        #[test]
        fn a_misfit_delta_leaves_no_trace(a in rows(), b in rows(), twice in rows()) {
            let mut table = Table::new(0);
            table.replace(a);
            let mut copy = Held::default();
            copy.apply(&table.diff(None)).unwrap();
            let before = copy.clone();
            table.replace(b);
            let mut delta = table.diff(copy.version);
            delta.changed.extend(twice);
            delta.digest ^= 1;
            prop_assert!(copy.apply(&delta).is_err());
            prop_assert_eq!(copy, before);
        }

        #[test]
        fn a_replica_serves_the_same(states in proptest::collection::vec(rows(), 1..8)) {
            let mut table = Table::new(7);
            let mut replica: Option<Table<Vec<u8>>> = None;
            let mut copy = Held::default();
            for state in states {
                table.replace(state.clone());
                match &mut replica {
                    None => replica = Some(Table::at(table.version(), state)),
                    Some(replica) => replica.replace_at(table.version(), state),
                }
                let replica = replica.as_ref().unwrap();
                prop_assert_eq!((replica.version(), replica.digest()), (table.version(), table.digest()));
                copy.apply(&replica.diff(copy.version)).unwrap();
                prop_assert_eq!(copy.digest, table.digest());
            }
        }
    }

    #[test]
    fn no_change_makes_no_version() {
        let mut table: Table<Vec<u8>> = Table::new(0);
        assert!(table.replace(BTreeMap::from([("a".into(), vec![1])])));
        assert!(!table.replace(BTreeMap::from([("a".into(), vec![1])])));
        assert!(table.diff(Some(1)).is_empty());
    }
}
