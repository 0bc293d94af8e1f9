//! Which peers have not acknowledged that something of ours is gone: they are named in the log.
//!
//! Part of `fuse`, which publishes catalogs. Nothing waits for a peer here: a drain goes on after its
//! two seconds whoever is silent.

use std::collections::{BTreeMap, VecDeque};

use hansa_core::catalog::Catalog;
use hansa_core::code::control;
use hansa_core::name::ClusterId;
use tokio::time::Instant;
use tracing::warn;

use super::WITHDRAWAL;
use crate::roster::Entry;

/// Most withdrawals watched at once; the oldest is forgotten first.
const MOST: usize = 64;
/// Most names in one log line.
const MOST_NAMED: usize = 10;

/// One publication that took something away.
#[derive(Debug)]
struct Withdrawn {
    what: Vec<String>,
    /// The version each peer must have applied.
    versions: BTreeMap<ClusterId, u64>,
    deadline: Instant,
}

/// The publications that are still watched.
#[derive(Debug, Default)]
pub(super) struct Told {
    watched: VecDeque<Withdrawn>,
}

/// What `new` no longer offers: exports that are gone, gateways that are gone or going.
fn gone(old: &Catalog, new: &Catalog) -> Vec<String> {
    let exports = old.exports.keys().filter(|name| !new.exports.contains_key(*name));
    let exports = exports.map(|name| format!("service {name}"));
    let gateways = old.gateways.values().filter(|old| !old.draining);
    let gateways = gateways.filter(|old| new.gateways.get(&old.id).is_none_or(|new| new.draining));
    exports.chain(gateways.map(|gateway| format!("gateway {}", gateway.id))).collect()
}

impl Told {
    /// Notes a publication: what it took away, and the version that says so to each peer.
    pub(super) fn published(&mut self, old: &Catalog, new: &Catalog, versions: BTreeMap<ClusterId, u64>) {
        let what = gone(old, new);
        if what.is_empty() || versions.is_empty() {
            return;
        }
        if self.watched.len() >= MOST {
            self.watched.pop_front();
        }
        self.watched.push_back(Withdrawn { what, versions, deadline: Instant::now() + WITHDRAWAL });
    }

    /// Names the peers that are late. Returns when to look again.
    pub(super) fn look(&mut self, peers: &BTreeMap<ClusterId, Entry>, now: Instant) -> Option<Instant> {
        for (peers, what) in self.late(peers, now) {
            let (peers, what) = (named(&peers), named(&what));
            warn!(code = %control::WITHDRAW_UNCONFIRMED, ?peers, withdrawn = ?what,
                "a withdrawal was not acknowledged in time");
        }
        self.watched.front().map(|withdrawn| withdrawn.deadline)
    }

    /// Who is late with what, of all whose time is over: they are watched no longer.
    fn late(&mut self, peers: &BTreeMap<ClusterId, Entry>, now: Instant) -> Vec<(Vec<String>, Vec<String>)> {
        let mut all = Vec::new();
        while let Some(withdrawn) = self.watched.pop_front_if(|withdrawn| withdrawn.deadline <= now) {
            let late = late(&withdrawn.versions, peers);
            if !late.is_empty() {
                all.push((late, withdrawn.what));
            }
        }
        all
    }
}

fn late(versions: &BTreeMap<ClusterId, u64>, peers: &BTreeMap<ClusterId, Entry>) -> Vec<String> {
    let behind = versions.iter().filter(|(id, version)| {
        peers.get(*id).is_some_and(|peer| peer.following.applied.is_none_or(|applied| applied < **version))
    });
    behind.map(|(id, _)| id.to_string()).collect()
}

fn named(all: &[String]) -> &[String] {
    all.get(..MOST_NAMED).unwrap_or(all)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use hansa_core::catalog::{ClusterInfo, GatewayInfo};
    use hansa_core::locality::Locality;
    use hansa_identity::ca::{Ca, CaOptions};

    use super::*;
    use crate::authority::Authority;
    use crate::roster::tests::record;
    use crate::roster::{Following, Roster};
    use crate::store::Store;

    fn catalog(gateways: &[(&str, bool)]) -> Catalog {
        let gateway = |(id, draining): &(&str, bool)| GatewayInfo {
            id: id.parse().unwrap(),
            locality: Locality::default(),
            addresses: Vec::new(),
            draining: *draining,
        };
        Catalog {
            cluster: ClusterInfo {
                id: "own".parse().unwrap(),
                trust_domain: "own".parse().unwrap(),
                locality: Locality::default(),
                bundle: "".into(),
                properties: BTreeMap::new(),
            },
            gateways: gateways.iter().map(gateway).map(|g| (g.id.clone(), g)).collect(),
            exports: BTreeMap::new(),
            deny: Default::default(),
        }
    }

    #[tokio::test]
    async fn peers_that_never_acknowledge_a_withdrawal_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let life = Duration::from_secs(3_600);
        let authority = Authority::open(dir.path(), &"own".parse().unwrap(), life, store.clone()).unwrap();
        let roster = Roster::load("own".parse().unwrap(), authority, store);
        for id in ["b", "c"] {
            let ca = Ca::create(id.parse().unwrap(), CaOptions::default(), SystemTime::now()).unwrap();
            roster.add(record(id, &ca), ca.bundle()).await.unwrap();
        }
        let said = |applied| Following { applied: Some(applied), ..Following::default() };
        roster.followed(&"b".parse().unwrap(), said(5));
        roster.followed(&"c".parse().unwrap(), said(4));
        let versions: BTreeMap<ClusterId, u64> =
            ["b", "c"].map(|id| (id.parse().unwrap(), 5)).into_iter().collect();

        let mut told = Told::default();
        let (both, drained) =
            (catalog(&[("g-1", false), ("g-2", false)]), catalog(&[("g-1", true), ("g-2", false)]));
        told.published(&both, &both, versions.clone());
        assert_eq!(told.look(&roster.all(), Instant::now()), None, "nothing was withdrawn");
        told.published(&both, &drained, versions);
        let deadline = told.look(&roster.all(), Instant::now()).expect("it is watched");
        let late = told.late(&roster.all(), deadline);
        assert_eq!(late, [(vec!["c".to_owned()], vec!["gateway g-1".to_owned()])]);
        assert_eq!(told.look(&roster.all(), deadline), None, "once");
    }
}
