//! One peer with everything known of it, and how its catalog becomes an acceptable one.
//!
//! Changed only under the lock of `Roster`; clones of it are what the readers get.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use hansa_api::view::Error;
use hansa_core::catalog::Catalog;
use hansa_core::code::{control, trust};
use hansa_core::mesh::Transport;
use hansa_core::policy::{self, Accept, Refusal};
use hansa_core::spiffe::{Role, SpiffeId};
use hansa_identity::bundle::{self, Accepted, Bundle};
use hansa_identity::deny::{DenyEntry, DenyEntryError, DenyList};
use hansa_proto::convert::Apply;
use hansa_proto::convert::catalog::CatalogRows;
use hansa_proto::feed::Status as LinkStatus;
use tokio::sync::watch;
use tracing::{info, warn};

use super::{Following, Origin, Record};
use crate::authority::Authority;

/// Most refusals remembered of one peer.
const MOST_REFUSALS: usize = 1_000;

/// One peer.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What is kept of it.
    pub record: Record,
    /// Its bundle in force.
    pub bundle: Arc<Bundle>,
    /// What it may bring.
    pub accept: Accept,
    /// The lane preferred.
    pub transport: Transport,
    /// Its catalog after our rules.
    pub catalog: Option<Arc<Catalog>>,
    /// Certificates of its own domain that it refuses.
    pub told: Arc<DenyList>,
    /// How the feed from it is doing; `None` before the first try.
    pub link: Option<watch::Receiver<LinkStatus>>,
    /// What it says about following us.
    pub following: Following,
    /// By an object once, and by none now that can be read.
    pub(super) undeclared: bool,
    rows: Arc<CatalogRows>,
    malformed: Vec<Refusal>,
    unacceptable: Vec<Refusal>,
    identity: Option<Refusal>,
    untold: Option<Refusal>,
}

impl Entry {
    pub(super) fn new(record: Record, bundle: Arc<Bundle>) -> Self {
        Self {
            record,
            bundle,
            accept: Accept::default(),
            transport: Transport::default(),
            catalog: None,
            told: Arc::default(),
            link: None,
            following: Following::default(),
            undeclared: false,
            rows: Arc::default(),
            malformed: Vec::new(),
            unacceptable: Vec::new(),
            identity: None,
            untold: None,
        }
    }

    /// All rows of it that are refused now, with reasons.
    pub fn refused(&self) -> Vec<Refusal> {
        let all = self.identity.iter().chain(&self.untold).chain(&self.malformed).chain(&self.unacceptable);
        all.cloned().collect()
    }

    /// Takes rows. Those refused before stay refused until they come again or go. Returns the keys of
    /// those refused now, whose former rows stay in force; a key cut short for people never had one.
    pub(super) fn take(
        &mut self,
        changed: &[(String, Bytes)],
        removed: &[String],
        snapshot: bool,
    ) -> HashSet<String> {
        if snapshot {
            self.malformed.clear();
        }
        if !self.malformed.is_empty() {
            let touched: HashSet<&str> =
                changed.iter().map(|row| &row.0).chain(removed).map(String::as_str).collect();
            self.malformed.retain(|refusal| !touched.contains(refusal.key.as_str()));
        }
        let rows = Arc::make_mut(&mut self.rows);
        let refused = rows.apply(changed, removed, snapshot);
        let keys = refused.iter().map(|refusal| refusal.key.clone()).collect();
        self.malformed.extend(refused);
        self.malformed.truncate(MOST_REFUSALS);
        keys
    }

    /// Every row is in force as it came last.
    pub(super) fn whole(&self) -> bool {
        self.malformed.is_empty()
    }

    /// Sets the rules. True if they changed.
    pub(super) fn rules(&mut self, accept: Accept, transport: Transport) -> bool {
        if self.accept == accept && self.transport == transport {
            return false;
        }
        self.accept = accept;
        self.transport = transport;
        self.rebuild();
        true
    }

    /// Makes the acceptable catalog anew.
    pub(super) fn rebuild(&mut self) {
        self.hear();
        let Some(mut catalog) = self.rows.catalog() else {
            self.catalog = None;
            return;
        };
        self.identity = self.clash(&catalog);
        if self.identity.is_some() {
            // Its exports still count, under the name it joined with.
            catalog.cluster.id = self.record.cluster.clone();
            catalog.cluster.trust_domain = self.record.trust_domain.clone();
        }
        catalog.cluster.bundle = Arc::clone(&self.record.bundle);
        let (catalog, refusals) = policy::accept(&self.accept, catalog);
        self.unacceptable = refusals;
        self.catalog = Some(Arc::new(catalog));
    }

    /// Takes its deny list. Whatever its row of the cluster says, the list is that of the domain whose
    /// controller opened the feed, and counts there alone.
    fn hear(&mut self) {
        let (mut list, mut bad) = (DenyList::default(), Vec::new());
        for text in self.rows.denied() {
            match self.may_deny(text) {
                Ok(entry) => drop(list.insert(entry)),
                Err(why) => bad.push(why),
            }
        }
        self.untold = bad.first().map(|first| {
            let code = trust::DENY_ENTRY_UNREADABLE;
            let reason = format!("{code}: {first} ({} of {} entries)", bad.len(), bad.len() + list.len());
            Refusal { key: "deny".to_owned(), reason }
        });
        self.told = Arc::new(list);
    }

    fn may_deny(&self, text: &str) -> Result<DenyEntry, String> {
        let domain = &self.record.trust_domain;
        let entry: DenyEntry = text.parse().map_err(|e: DenyEntryError| e.to_string())?;
        if entry.trust_domain().is_some_and(|other| other != domain) {
            return Err(format!("{entry} is not of {domain}"));
        }
        // It could never take that back: its feed would stay shut.
        if entry == DenyEntry::Holder(SpiffeId::of(domain, &Role::Controller)) {
            return Err(format!("{entry} is the controller that says so"));
        }
        Ok(entry)
    }

    fn clash(&self, catalog: &Catalog) -> Option<Refusal> {
        let said = &catalog.cluster;
        let record = &self.record;
        if said.id == record.cluster && said.trust_domain == record.trust_domain {
            return None;
        }
        let reason = format!(
            "{}: it calls itself {} of {}, it joined as {} of {}",
            control::IDENTITY_CLASH,
            said.id,
            said.trust_domain,
            record.cluster,
            record.trust_domain
        );
        Some(Refusal { key: "cluster".to_owned(), reason })
    }

    /// Learns bundle and addresses from the rows. True if the record changed.
    pub(super) fn learn(&mut self, authority: &Authority) -> bool {
        let Some(catalog) = self.rows.catalog() else { return false };
        if self.clash(&catalog).is_some() {
            return false;
        }
        let before = self.record.clone();
        // Those of an object are its own to say.
        if !catalog.gateways.is_empty() && self.record.origin == Origin::Token {
            self.record.gateways.clone_from(&catalog.gateways);
        }
        self.record.locality = catalog.cluster.locality.clone();
        if *catalog.cluster.bundle != *self.record.bundle {
            let text = catalog.cluster.bundle.as_bytes();
            let offered = Bundle::from_json(&self.record.trust_domain, text);
            let taken = match offered {
                Ok(offered) => self.offer(offered, authority).map(drop).map_err(|e| e.cause),
                Err(error) => Err(error.to_string()),
            };
            if let Err(reason) = taken {
                let reason = format!("{}: {reason}", trust::BUNDLE_REFUSED);
                let refusal = Refusal { key: "cluster".to_owned(), reason };
                if !self.malformed.contains(&refusal) {
                    warn!(peer = %self.record.cluster, reason = %refusal.reason, "trust bundle refused");
                    self.malformed.push(refusal);
                }
            }
        }
        self.record != before
    }

    /// What would become of a bundle.
    pub(super) fn judge(&self, offered: &Bundle) -> Result<Accepted, Error> {
        bundle::accept(Some(&self.bundle), offered).map_err(|refusal| {
            Error::new(trust::BUNDLE_REFUSED, format!("peer {}", self.record.cluster), refusal.to_string())
        })
    }

    /// Takes a newer bundle. `Ok(true)`: it is in force now.
    pub(super) fn offer(&mut self, offered: Bundle, authority: &Authority) -> Result<bool, Error> {
        if self.judge(&offered)? == Accepted::Unchanged {
            return Ok(false);
        }
        let id = &self.record.cluster;
        info!(target: "audit", event = "peer_bundle", peer = %id, sequence = offered.sequence);
        self.record.bundle = offered.to_json().into();
        self.bundle = Arc::new(offered);
        authority.trust_peer(&self.bundle);
        Ok(true)
    }
}
