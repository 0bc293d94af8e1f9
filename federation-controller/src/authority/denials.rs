//! The deny list at work: the own one, kept with the CA, and what peers say of their own certificates.
//!
//! Part of `authority`. What is refused is refused at once, also while the disk takes nothing. It
//! never asks whether an entry names anybody.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hansa_core::code::trust;
use hansa_core::spiffe::TrustDomain;
use hansa_identity::ca::Ca;
use hansa_identity::deny::{DenyEntry, DenyList};
use hansa_proto::convert::catalog::MAX_DENIED;
use tracing::{error, info};

use super::Authority;
use crate::store::{Batch, Store};

/// Where earlier versions kept the list.
const FORMER: &str = "deny/";

/// Why an entry was not put on the list.
#[derive(Debug, thiserror::Error)]
pub enum DenyError {
    /// So many entries are on it that no other fits: it travels in one row.
    #[error("the list is full; take entries back with `hansa trust allow`, or rotate the root")]
    Full,
    /// It would refuse the certificate this controller shows now: nobody could follow it any more.
    #[error("the own controller uses this certificate; rotate the root instead")]
    OwnController,
}

/// Takes over what earlier versions kept in the store. True if there was anything.
pub(super) fn adopt(ca: &mut Ca, store: &Store) -> bool {
    let former = store.scan(FORMER);
    let mut all = ca.denied().clone();
    all.extend(former.iter().map(|(entry, _)| entry.clone()));
    ca.set_denied(all);
    !former.is_empty()
}

/// Takes out of the store what is in the CA file now.
pub(super) fn leave(store: &Store) {
    let mut batch = Batch::default();
    for (entry, _) in store.scan(FORMER) {
        batch.delete(format!("{FORMER}{entry}"));
    }
    store.commit_now(&batch);
}

/// The kept list, taken apart.
#[derive(Default)]
pub(super) struct Kept {
    /// What is in force.
    pub(super) list: DenyList,
    /// What cannot be read, as it is kept.
    pub(super) kept: BTreeSet<String>,
    /// Why it cannot be read.
    pub(super) unread: Vec<String>,
}

/// Reads the kept list.
pub(super) fn read(ca: &Ca) -> Kept {
    let mut read = Kept::default();
    for text in ca.denied() {
        match text.parse::<DenyEntry>() {
            Ok(entry) => {
                read.list.insert(entry);
            }
            Err(error) => {
                let code = trust::DENY_ENTRY_UNREADABLE;
                error!(%code, %error, next = code.next, "an entry of the deny list is not in force");
                read.kept.insert(text.clone());
                read.unread.push(error.to_string());
            }
        }
    }
    read
}

impl Authority {
    /// Refuses leaves, or holders, from now on; their live connections end at once. All are in force
    /// before the disk is asked. True: they are in the CA file; false: not yet, it is tried again.
    ///
    /// # Errors
    /// [`DenyError`]; nothing was changed then.
    pub async fn deny(&self, entries: &[DenyEntry]) -> Result<bool, DenyError> {
        self.refuse(entries)?;
        Ok(self.save_or_say().await)
    }

    fn refuse(&self, entries: &[DenyEntry]) -> Result<(), DenyError> {
        let alone = DenyList::from_iter(entries.iter().cloned());
        if alone.denies(self.inner.tls.keys().current().leaf()) {
            return Err(DenyError::OwnController);
        }
        let full = Cell::new(false);
        self.inner.tls.trust().update(|trust| {
            let mut all = trust.deny.clone();
            for entry in entries {
                let _new = all.insert(entry.clone());
            }
            full.set(all.len() > trust.deny.len() && all.len() + self.inner.kept.len() > MAX_DENIED);
            if !full.get() {
                trust.deny = all;
            }
        });
        if full.get() {
            return Err(DenyError::Full);
        }
        self.touch();
        for entry in entries {
            info!(target: "audit", event = "leaf_denied", %entry);
        }
        Ok(())
    }

    /// Takes entries of the deny list back, first in force and then on disk. `None`: none of them is
    /// on it. Otherwise as [`Authority::deny`].
    pub async fn allow(&self, entries: &[DenyEntry]) -> Option<bool> {
        if !self.take_back(entries) {
            return None;
        }
        Some(self.save_or_say().await)
    }

    fn take_back(&self, entries: &[DenyEntry]) -> bool {
        let taken = RefCell::new(Vec::new());
        self.inner.tls.trust().update(|trust| {
            taken.replace(entries.iter().filter(|entry| trust.deny.remove(entry)).collect());
        });
        let taken: Vec<&DenyEntry> = taken.into_inner();
        if taken.is_empty() {
            return false;
        }
        self.touch();
        for entry in taken {
            info!(target: "audit", event = "leaf_allowed", %entry);
        }
        true
    }

    /// The list as it is to be kept: what is in force, and what cannot be read.
    pub(super) fn listed(&self) -> BTreeSet<String> {
        let denied = self.denied().into_iter().map(String::from);
        denied.chain(self.inner.kept.iter().cloned()).collect()
    }

    /// The deny list in force.
    pub fn denied(&self) -> Vec<DenyEntry> {
        self.inner.tls.trust().current().deny.iter().cloned().collect()
    }

    /// What of the kept list cannot be read, and so refuses nobody.
    pub fn unread(&self) -> &[String] {
        &self.inner.unread
    }

    /// Whether everything in force is in the CA file, as far as the disk has answered.
    pub fn written(&self) -> bool {
        !self.inner.unwritten.load(Ordering::Relaxed)
    }

    /// What a peer says of certificates of its own domain, in the place of what it said before.
    pub fn told(&self, domain: &TrustDomain, list: &Arc<DenyList>) {
        let held = self.inner.tls.trust().current();
        let same = held.told.of(domain).map_or(list.is_empty(), |held| held == list);
        if same || domain == self.domain() {
            return;
        }
        self.inner.tls.trust().update(|trust| trust.told.set(domain, Arc::clone(list)));
        self.touch();
        info!(target: "audit", event = "peer_denies", %domain, entries = list.len());
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use hansa_core::spiffe::{Role, SpiffeId};
    use hansa_identity::store::KeyRequest;

    use super::super::CA_FILE;
    use super::*;

    fn open(dir: &Path) -> Authority {
        let store = Store::open(dir).unwrap();
        Authority::open(dir, &"a".parse().unwrap(), Duration::from_secs(3_600), store).unwrap()
    }

    fn entry(text: &str) -> DenyEntry {
        text.parse().unwrap()
    }

    /// What a former version left in the store.
    async fn former(dir: &Path, entries: &[&str]) {
        let store = Store::open(dir).unwrap();
        let mut batch = Batch::default();
        for entry in entries {
            batch.put(format!("{FORMER}{entry}"), Vec::new());
        }
        assert!(store.commit(batch).await);
    }

    /// While this stands, the CA file can be read and not written: a folder stands where its next
    /// version would.
    fn unwritable(dir: &Path) -> PathBuf {
        let next = dir.join(format!(".{}.{}.new", CA_FILE, std::process::id()));
        std::fs::create_dir(&next).unwrap();
        next
    }

    fn kept(dir: &Path) -> BTreeSet<String> {
        Ca::load(&dir.join(CA_FILE)).unwrap().denied().clone()
    }

    #[tokio::test]
    async fn the_list_survives_a_lost_store_and_names_what_it_cannot_read() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (entry("spiffe://a/hansa/gateway/g-1"), entry("spiffe://a/hansa/dns/d-1"));
        former(dir.path(), &[&first.to_string(), "later:x"]).await;
        let authority = open(dir.path());
        assert_eq!(authority.denied(), std::slice::from_ref(&first));
        assert!(authority.unread()[0].contains("later:x"), "{:?}", authority.unread());
        assert!(authority.deny(std::slice::from_ref(&second)).await.unwrap());
        drop(authority);
        std::fs::remove_file(dir.path().join(crate::store::FILE)).unwrap();
        let authority = open(dir.path());
        assert_eq!(authority.denied(), [second.clone(), first.clone()]);
        assert_eq!(authority.unread().len(), 1, "kept, for a version that can read it");
        let first = [first];
        assert_eq!((authority.allow(&first).await, authority.allow(&first).await), (Some(true), None));
        drop(authority);
        assert_eq!(open(dir.path()).denied(), [second]);
    }

    #[tokio::test]
    async fn the_certificate_in_use_by_the_controller_cannot_be_denied() {
        let dir = tempfile::tempdir().unwrap();
        let authority = open(dir.path());
        let leaf = authority.tls().keys().current().leaf().clone();
        for text in [format!("sha256:{}", leaf.fingerprint), leaf.id.to_string()] {
            assert!(matches!(authority.deny(&[entry(&text)]).await, Err(DenyError::OwnController)));
        }
    }

    #[tokio::test]
    async fn a_list_that_is_full_takes_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let authority = open(dir.path());
        let one = |n: usize| entry(&format!("spiffe://a/hansa/gateway/g-{n}"));
        let all: Vec<_> = (0..MAX_DENIED).map(one).collect();
        assert!(authority.deny(&all).await.unwrap());
        assert!(authority.deny(&[one(0)]).await.unwrap());
        let refused = authority.deny(&[one(0), one(MAX_DENIED)]).await;
        assert!(matches!(refused, Err(DenyError::Full)));
        assert_eq!(authority.denied().len(), MAX_DENIED);
    }

    #[tokio::test]
    async fn a_disk_that_takes_nothing_is_told_and_the_entry_is_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let authority = open(dir.path());
        let denied = [entry("spiffe://a/hansa/gateway/g-1")];
        let full = unwritable(dir.path());
        assert!(!authority.deny(&denied).await.unwrap() && !authority.written());
        assert_eq!(authority.denied(), denied);
        assert_eq!(authority.allow(&denied).await, Some(false));
        assert!(authority.denied().is_empty());
        assert!(!authority.deny(&denied).await.unwrap());
        std::fs::remove_dir(full).unwrap();
        assert!(authority.save_or_say().await && authority.written());
        drop(authority);
        assert_eq!(open(dir.path()).denied(), denied);
    }

    #[test]
    fn while_a_write_hangs_what_is_denied_is_in_force_and_memory_and_file_do_not_part() {
        let dir = tempfile::tempdir().unwrap();
        let authority = open(dir.path());
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let g = |n: usize| [entry(&format!("spiffe://a/hansa/gateway/g-{n}"))];
        let change = |deny: bool, entries: [DenyEntry; 1]| {
            let authority = authority.clone();
            runtime.spawn(async move {
                if deny {
                    return authority.deny(&entries).await.unwrap();
                }
                authority.allow(&entries).await.unwrap()
            })
        };
        for _ in 0..8 {
            // What a write holds for as long as the disk hangs.
            let hung = authority.writing();
            let mut waiting = Vec::new();
            for (deny, n, count) in [(true, 1, 1), (true, 2, 2), (false, 1, 1), (true, 3, 2), (false, 2, 1)] {
                waiting.push(change(deny, g(n)));
                let begun = std::time::Instant::now();
                while authority.denied().len() != count {
                    assert!(begun.elapsed() < Duration::from_secs(20), "it waits for the disk");
                    std::thread::yield_now();
                }
            }
            // Own servers are renewed meanwhile.
            let role = Role::Gateway("g-9".parse().unwrap());
            let request = KeyRequest::new(SpiffeId::of(authority.domain(), &role)).unwrap();
            authority.sign(&role, request.csr()).unwrap();
            drop(hung);
            for change in waiting {
                assert!(runtime.block_on(change).unwrap(), "it is on disk");
            }
            assert_eq!(authority.denied(), g(3));
            assert_eq!(kept(dir.path()), [g(3)[0].to_string()].into());
            assert!(runtime.block_on(change(false, g(3))).unwrap());
        }
    }

    #[tokio::test]
    async fn what_was_taken_back_stays_so_when_the_file_could_only_be_written_later() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = ("spiffe://a/hansa/gateway/g-1", "spiffe://a/hansa/gateway/g-2");
        drop(open(dir.path()));
        former(dir.path(), &[first, second]).await;
        let full = unwritable(dir.path());
        let authority = open(dir.path());
        assert_eq!((authority.denied().len(), authority.written()), (2, false));
        std::fs::remove_dir(full).unwrap();
        assert_eq!(authority.allow(&[entry(first)]).await, Some(true));
        drop(authority);
        assert_eq!(open(dir.path()).denied(), [entry(second)], "nothing denies it again");
    }
}
