//! The route table: followed from the controller, kept on disk, put in force.
//!
//! Wired by the gateway. The last table outlives the controller and the process: it is saved and
//! loaded at start. Trust follows the table before anyone else sees it. It decides nothing.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hansa_core::code::{config as codes, trust as trust_codes};
use hansa_core::mesh::{Failback, RouteTable};
use hansa_core::name::ClusterId;
use hansa_core::policy::Refusal;
use hansa_core::spiffe::TrustDomain;
use hansa_identity::bundle::{Bundle, BundleSet};
use hansa_identity::deny::{DenyList, Told};
use hansa_identity::verify::{Trust, TrustSnapshot};
use hansa_proto::convert::Apply as _;
use hansa_proto::convert::routes::RouteRows;
use hansa_proto::feed::follow::Applied;
use hansa_proto::feed::{Position, Saved};
use hansa_runtime::files;
use tokio::sync::watch;

/// The file with the last table.
const FILE: &str = "routes.saved";
/// The largest file read.
const MOST_SAVED: u64 = 1 << 30;

/// The table in force and where it came from.
#[derive(Debug, Clone)]
pub(crate) struct Current {
    /// The table.
    pub(crate) table: Arc<RouteTable>,
    /// Its position in the feed; none before the first.
    pub(crate) position: Option<Position>,
}

/// The table of a gateway that has heard of nothing yet.
pub(crate) fn empty(cluster: &ClusterId, trust_domain: &TrustDomain) -> RouteTable {
    RouteTable {
        cluster: cluster.clone(),
        trust_domain: trust_domain.clone(),
        locality: hansa_core::locality::Locality::default(),
        bundle: "".into(),
        deny: BTreeSet::new(),
        failback: Failback::default(),
        peers: Default::default(),
        siblings: Default::default(),
        services: Default::default(),
    }
}

/// The one writer of the table.
pub(crate) struct Tables {
    rows: RouteRows,
    saved: Saved,
    file: PathBuf,
    trust: Trust,
    current: watch::Sender<Current>,
    plain: watch::Sender<Arc<RouteTable>>,
}

impl Tables {
    /// Starts with what is on disk, or with nothing.
    pub(crate) fn load(
        state: &std::path::Path,
        cluster: &ClusterId,
        domain: &TrustDomain,
        trust: Trust,
    ) -> Self {
        let nothing = Arc::new(empty(cluster, domain));
        let current = watch::Sender::new(Current { table: nothing.clone(), position: None });
        let file = state.join(FILE);
        let plain = watch::Sender::new(nothing);
        let mut tables =
            Self { rows: RouteRows::default(), saved: Saved::empty(), file, trust, current, plain };
        if let Some(saved) = tables.read() {
            let rows: Vec<_> = saved.rows.iter().map(|(key, body)| (key.clone(), body.clone())).collect();
            tables.rows.apply(&rows, &[], true);
            let position = saved.position;
            tables.saved = saved;
            tables.put_in_force(position);
            tracing::info!(%position, services = tables.plain.borrow().services.len(), "last table loaded");
        }
        tables
    }

    /// What the feed resumes from.
    pub(crate) fn resume(&self) -> Option<&Saved> {
        self.current.borrow().position.map(|_| &self.saved)
    }

    /// The table with its position.
    pub(crate) fn current(&self) -> watch::Receiver<Current> {
        self.current.subscribe()
    }

    /// The table alone.
    pub(crate) fn plain(&self) -> watch::Receiver<Arc<RouteTable>> {
        self.plain.subscribe()
    }

    /// Takes a change in; returns the rows refused.
    pub(crate) fn apply(&mut self, change: &Applied) -> Vec<Refusal> {
        let refused = self.rows.apply(&change.changed, &change.removed, change.snapshot);
        self.saved.apply(change);
        self.put_in_force(change.position);
        refused
    }

    fn put_in_force(&self, position: Position) {
        let Some(table) = self.rows.table() else { return };
        let table = Arc::new(table);
        adopt_trust(&self.trust, &table, Some(&self.plain.borrow()));
        self.plain.send_replace(table.clone());
        self.current.send_replace(Current { table, position: Some(position) });
    }

    /// The bytes to write, and where.
    pub(crate) fn to_disk(&self) -> (PathBuf, Saved) {
        (self.file.clone(), self.saved.clone())
    }

    fn read(&self) -> Option<Saved> {
        let bytes = match files::read_limited(&self.file, MOST_SAVED) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return None,
            Err(error) => {
                tracing::warn!(%error, "the last table cannot be read; waiting for the controller");
                return None;
            }
        };
        match Saved::decode(&bytes) {
            Ok(saved) => Some(saved),
            Err(error) => {
                let aside = files::set_aside(&self.file);
                let code = codes::STATE_CORRUPT;
                tracing::warn!(%code, %error, file = ?aside.ok(), next = code.next, "last table set aside");
                None
            }
        }
    }
}

/// Writes a saved table; false if it could not be. A full disk is told once, not where the try before was
/// `failing` too, and the gateway goes on from memory.
pub(crate) async fn write(file: PathBuf, saved: Saved, failing: bool) -> bool {
    let written = tokio::task::spawn_blocking(move || {
        let bytes = saved.encode();
        files::write_atomic(&file, &bytes, files::SECRET)
    });
    let error = written.await.map_or_else(|e| Some(e.to_string()), |w| w.err().map(|e| e.to_string()));
    match &error {
        Some(error) if !failing => {
            let code = codes::STATE_UNWRITABLE;
            tracing::error!(%code, %error, next = code.next, "the table cannot be saved");
        }
        None if failing => tracing::info!("the table is saved again"),
        _ => {}
    }
    error.is_none()
}

/// The least time between two writes of the table.
pub(crate) const WRITE_EVERY: Duration = Duration::from_secs(1);

/// The time between two tries while the disk takes nothing.
pub(crate) const WRITE_AGAIN: Duration = Duration::from_secs(5);

/// Puts the bundles and the deny list of a table in force for every handshake from now on. Bundles
/// whose text is that of `former` are not read again.
pub(crate) fn adopt_trust(trust: &Trust, table: &RouteTable, former: Option<&RouteTable>) {
    let before = trust.current();
    let mut bundles = BundleSet::default();
    // The own bundle is judged and kept by the link; the table's serves where none is held.
    match before.bundles.get(&table.trust_domain) {
        Some(own) => bundles.insert(own.clone()),
        None => bundles.extend_from(&table.trust_domain, &table.bundle, &before),
    }
    for peer in table.peers.values().filter(|peer| peer.trust_domain != table.trust_domain) {
        let domain = &peer.trust_domain;
        let old = former.and_then(|former| former.peers.get(&peer.cluster));
        let same = old.is_some_and(|old| old.trust_domain == *domain && old.bundle == peer.bundle);
        match before.bundles.get(domain).filter(|_| same) {
            Some(kept) => bundles.insert(kept.clone()),
            None => bundles.extend_from(domain, &peer.bundle, &before),
        }
    }
    let next = TrustSnapshot { bundles, deny: denied("own", &table.deny, former), told: told(table, former) };
    if *before != next {
        trust.replace(next);
    }
}

/// What peers say of their own certificates. Each list stands under the domain of its peer.
fn told(table: &RouteTable, former: Option<&RouteTable>) -> Told {
    let mut told = Told::default();
    for peer in table.peers.values().filter(|peer| peer.trust_domain != table.trust_domain) {
        let list = denied(peer.cluster.as_str(), &peer.deny, former);
        told.set(&peer.trust_domain, Arc::new(list));
    }
    told
}

/// Entries as a list. One that cannot be read is named, once: it refuses nobody.
fn denied(owner: &str, entries: &BTreeSet<String>, former: Option<&RouteTable>) -> DenyList {
    let read = entries.iter().filter_map(|entry| match entry.parse() {
        Ok(entry) => Some(entry),
        Err(error) => {
            let known = |table: &RouteTable| {
                let peers = table.peers.values().flat_map(|peer| &peer.deny);
                table.deny.iter().chain(peers).any(|known| known == entry)
            };
            if !former.is_some_and(known) {
                let code = trust_codes::DENY_ENTRY_UNREADABLE;
                tracing::error!(%code, owner, %error, next = code.next, "an entry of a deny list is not in force");
            }
            None
        }
    });
    read.collect()
}

trait ExtendFrom {
    fn extend_from(&mut self, domain: &TrustDomain, text: &str, before: &TrustSnapshot);
}

impl ExtendFrom for BundleSet {
    /// Adds the bundle in `text`; the one in force where it cannot be read: the controller checked
    /// it, so keeping what is known is better than cutting everyone off.
    fn extend_from(&mut self, domain: &TrustDomain, text: &str, before: &TrustSnapshot) {
        match Bundle::from_json(domain, text.as_bytes()) {
            Ok(bundle) => self.insert(Arc::new(bundle)),
            Err(error) => {
                tracing::error!(%domain, %error, "bundle in the table cannot be read");
                if let Some(kept) = before.bundles.get(domain) {
                    self.insert(kept.clone());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hansa_core::mesh::{Peer, Transport};
    use hansa_core::spiffe::{Role, SpiffeId};
    use hansa_identity::ca::{Ca, CaOptions};
    use hansa_identity::cert::Leaf;
    use hansa_identity::store::KeyRequest;

    fn table(ca: Option<&Ca>) -> RouteTable {
        let mut table = empty(&"a".parse().unwrap(), &"a.test".parse().unwrap());
        if let Some(ca) = ca {
            let peer = Peer {
                cluster: "b".parse().unwrap(),
                trust_domain: ca.trust_domain().clone(),
                locality: Default::default(),
                bundle: ca.bundle().to_json().into(),
                gateways: Default::default(),
                transport: Transport::Auto,
                deny: BTreeSet::new(),
            };
            table.peers.insert(peer.cluster.clone(), peer);
        }
        table
    }

    #[test]
    fn trust_follows_the_peers_of_the_table() {
        let domain: TrustDomain = "b.test".parse().unwrap();
        let ca = Ca::create(domain.clone(), CaOptions::default(), std::time::SystemTime::now()).unwrap();
        let trust = Trust::default();
        let with = table(Some(&ca));
        adopt_trust(&trust, &with, None);
        let first = trust.current().bundles.get(&domain).cloned().unwrap();
        adopt_trust(&trust, &with, Some(&with));
        assert!(Arc::ptr_eq(&first, trust.current().bundles.get(&domain).unwrap()));
        let mut broken = with.clone();
        broken.peers.values_mut().for_each(|peer| peer.bundle = "{".into());
        adopt_trust(&trust, &broken, Some(&with));
        assert!(trust.current().bundles.get(&domain).is_some());
        adopt_trust(&trust, &table(None), Some(&broken));
        assert!(trust.current().bundles.get(&domain).is_none());
    }

    #[test]
    fn what_a_peer_denies_counts_in_its_own_domain_and_outlives_a_restart() {
        let now = std::time::SystemTime::now();
        let [a, b, c] = ["a.test", "b.test", "c.test"]
            .map(|domain| Ca::create(domain.parse().unwrap(), CaOptions::default(), now).unwrap());
        let role = Role::Gateway("g-1".parse().unwrap());
        let leaf = |ca: &Ca| {
            let request = KeyRequest::new(SpiffeId::of(ca.trust_domain(), &role)).unwrap();
            Leaf::parse(&ca.sign(&role, request.csr(), now).unwrap()).unwrap()
        };
        let [of_a, of_b, of_c] = [leaf(&a), leaf(&b), leaf(&c)];
        let mut with = table(Some(&b));
        let peer = with.peers.values_mut().next().unwrap();
        peer.deny = [&of_a, &of_b, &of_c].map(|leaf| leaf.id.to_string()).into();
        peer.deny.insert(format!("sha256:{}", of_c.fingerprint));
        peer.deny.insert("of a later version".to_owned());
        let trust = Trust::default();
        adopt_trust(&trust, &with, None);
        let denied = |trust: &Trust| {
            let now = trust.current();
            [&of_a, &of_b, &of_c].map(|leaf| now.deny.denies(leaf) || now.told.denies(leaf))
        };
        assert_eq!(denied(&trust), [false, true, false]);
        adopt_trust(&trust, &table(Some(&b)), Some(&with));
        assert_eq!(denied(&trust), [false; 3], "taken back");

        let folder = tempfile::tempdir().unwrap();
        let (cluster, domain) = (with.cluster.clone(), with.trust_domain.clone());
        let mut tables = Tables::load(folder.path(), &cluster, &domain, trust.clone());
        let rows = hansa_proto::convert::routes::rows(&with);
        let change = Applied {
            position: Position { epoch: 1, version: 1, digest: 0 },
            snapshot: true,
            changed: rows.into_iter().collect(),
            removed: Vec::new(),
            refused: Vec::new(),
        };
        assert!(tables.apply(&change).is_empty());
        let (file, saved) = tables.to_disk();
        std::fs::write(file, saved.encode()).unwrap();
        let again = Trust::default();
        Tables::load(folder.path(), &cluster, &domain, again.clone());
        assert_eq!(denied(&again), [false, true, false]);
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_the_gateway_starts_with_nothing() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), b"hansaf01 and then something else").unwrap();
        let (cluster, domain) = ("a".parse().unwrap(), "a.test".parse().unwrap());
        let tables = Tables::load(folder.path(), &cluster, &domain, Trust::default());
        assert!(tables.resume().is_none());
        assert!(!folder.path().join(FILE).exists());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
