//! The deny list at work: the own one, kept with the CA, and what peers say of their own certificates.
//!
//! Part of `authority`. What is refused is refused at once, also while the disk takes nothing. It
//! never asks whether an entry names anybody.

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

/// The kept list as it is in force, and what of it cannot be read.
pub(super) fn read(ca: &Ca) -> (DenyList, Vec<String>) {
    let (mut list, mut unread) = (DenyList::default(), Vec::new());
    for text in ca.denied() {
        match text.parse::<DenyEntry>() {
            Ok(entry) => {
                list.insert(entry);
            }
            Err(error) => {
                let code = trust::DENY_ENTRY_UNREADABLE;
                error!(%code, %error, next = code.next, "an entry of the deny list is not in force");
                unread.push(error.to_string());
            }
        }
    }
    (list, unread)
}

impl Authority {
    /// Refuses a leaf, or a holder, from now on; its live connections end at once. While the disk takes
    /// nothing it is in force from memory, `written` says so, and it is written once it can be.
    ///
    /// # Errors
    /// [`DenyError`]; nothing was changed then.
    pub fn deny(&self, entry: &DenyEntry) -> Result<(), DenyError> {
        let alone = DenyList::from_iter([entry.clone()]);
        if alone.denies(self.inner.tls.keys().current().leaf()) {
            return Err(DenyError::OwnController);
        }
        let mut ca = self.ca();
        let mut all = ca.denied().clone();
        if all.insert(entry.to_string()) && all.len() > MAX_DENIED {
            return Err(DenyError::Full);
        }
        ca.set_denied(all);
        self.save_or_say(&ca);
        drop(ca);
        self.inner.tls.trust().update(|trust| {
            let _new = trust.deny.insert(entry.clone());
        });
        self.touch();
        info!(target: "audit", event = "leaf_denied", %entry);
        Ok(())
    }

    /// Takes an entry of the deny list back. False: it is not on it.
    pub fn allow(&self, entry: &DenyEntry) -> bool {
        let mut ca = self.ca();
        let mut all = ca.denied().clone();
        if !all.remove(&entry.to_string()) {
            return false;
        }
        ca.set_denied(all);
        self.save_or_say(&ca);
        drop(ca);
        self.inner.tls.trust().update(|trust| {
            let _was = trust.deny.remove(entry);
        });
        self.touch();
        info!(target: "audit", event = "leaf_allowed", %entry);
        true
    }

    /// The deny list in force.
    pub fn denied(&self) -> Vec<DenyEntry> {
        self.inner.tls.trust().current().deny.iter().cloned().collect()
    }

    /// What of the kept list cannot be read, and so refuses nobody.
    pub fn unread(&self) -> &[String] {
        &self.inner.unread
    }

    /// Whether everything in force is in the CA file.
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
    use std::path::Path;
    use std::time::Duration;

    use super::*;

    fn open(dir: &Path) -> Authority {
        let store = Store::open(dir).unwrap();
        Authority::open(dir, &"a".parse().unwrap(), Duration::from_secs(3_600), store).unwrap()
    }

    fn entry(text: &str) -> DenyEntry {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn the_list_survives_a_lost_store_and_names_what_it_cannot_read() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (entry("spiffe://a/hansa/gateway/g-1"), entry("spiffe://a/hansa/dns/d-1"));
        {
            // As an earlier version left it.
            let store = Store::open(dir.path()).unwrap();
            let mut batch = Batch::default();
            batch.put(format!("{FORMER}{first}"), Vec::new()).put(format!("{FORMER}later:x"), Vec::new());
            assert!(store.commit(batch).await);
        }
        let authority = open(dir.path());
        assert_eq!(authority.denied(), std::slice::from_ref(&first));
        assert!(authority.unread()[0].contains("later:x"), "{:?}", authority.unread());
        authority.deny(&second).unwrap();
        drop(authority);
        std::fs::remove_file(dir.path().join(crate::store::FILE)).unwrap();
        let authority = open(dir.path());
        assert_eq!(authority.denied(), [second.clone(), first.clone()]);
        assert_eq!(authority.unread().len(), 1, "kept, for a version that can read it");
        assert!(authority.allow(&first) && !authority.allow(&first));
        drop(authority);
        assert_eq!(open(dir.path()).denied(), [second]);
    }

    #[test]
    fn the_certificate_in_use_by_the_controller_cannot_be_denied() {
        let dir = tempfile::tempdir().unwrap();
        let authority = open(dir.path());
        let leaf = authority.tls().keys().current().leaf().clone();
        for text in [format!("sha256:{}", leaf.fingerprint), leaf.id.to_string()] {
            assert!(matches!(authority.deny(&entry(&text)), Err(DenyError::OwnController)));
        }
    }

    #[test]
    fn a_list_that_is_full_takes_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let authority = open(dir.path());
        let one = |n: usize| entry(&format!("spiffe://a/hansa/gateway/g-{n}"));
        (0..MAX_DENIED).for_each(|n| authority.deny(&one(n)).unwrap());
        authority.deny(&one(0)).unwrap();
        assert!(matches!(authority.deny(&one(MAX_DENIED)), Err(DenyError::Full)));
        assert_eq!(authority.denied().len(), MAX_DENIED);
    }

    #[test]
    fn a_disk_that_takes_nothing_is_told_and_the_entry_is_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let authority = open(dir.path());
        let denied = entry("spiffe://a/hansa/gateway/g-1");
        // No file can be put in the place of a folder.
        let file = dir.path().join(super::super::CA_FILE);
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        authority.deny(&denied).unwrap();
        assert!(authority.denied().contains(&denied) && !authority.written());
        std::fs::remove_dir(&file).unwrap();
        assert!(authority.save_or_say(&authority.ca()));
        assert!(authority.written());
        drop(authority);
        assert_eq!(open(dir.path()).denied(), [denied]);
    }
}
