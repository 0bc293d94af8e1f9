//! What peers may not do: speak for others, bring too much, go back in trust.

use std::time::{Duration, SystemTime};

use futures::FutureExt;
use hansa_core::catalog::{Affinity, Catalog, ClusterInfo, Export, ServiceType};
use hansa_identity::ca::{Ca, CaOptions};
use hansa_identity::rotate::Consent;
use hansa_proto::convert;

use super::*;
use crate::source::{Hidden, PeerSpec};

struct Scene {
    roster: Roster,
    authority: Authority,
    ca: Ca,
    store: Store,
    _dir: tempfile::TempDir,
}

fn id(text: &str) -> ClusterId {
    text.parse().unwrap()
}

fn scene() -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let life = Duration::from_secs(3600);
    let authority = Authority::open(dir.path(), &"own.td".parse().unwrap(), life, store.clone()).unwrap();
    let roster = Roster::load(id("own"), authority.clone(), store.clone());
    let ca = Ca::create("b.td".parse().unwrap(), CaOptions::default(), SystemTime::now()).unwrap();
    Scene { roster, authority, ca, store, _dir: dir }
}

/// A peer of this name that joined.
pub(crate) fn record(name: &str, ca: &Ca) -> Record {
    Record {
        cluster: id(name),
        trust_domain: ca.trust_domain().clone(),
        locality: Locality::default(),
        bundle: ca.bundle().to_json().into(),
        gateways: BTreeMap::new(),
        origin: Origin::Token,
        added: 0,
    }
}

fn catalog(name: &str, ca: &Ca, exports: usize) -> Catalog {
    let export = |n: usize| Export {
        service: format!("shop/s-{n}").parse().unwrap(),
        created: 0,
        kind: ServiceType::ClusterSetIP,
        ports: Vec::new(),
        affinity: Affinity::None,
        traffic: Default::default(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        endpoints: Vec::new(),
        hosts: Vec::new(),
    };
    Catalog {
        cluster: ClusterInfo {
            id: id(name),
            trust_domain: ca.trust_domain().clone(),
            locality: Locality::default(),
            bundle: ca.bundle().to_json().into(),
            properties: BTreeMap::new(),
        },
        gateways: BTreeMap::new(),
        exports: (0..exports).map(export).map(|export| (export.service.clone(), export)).collect(),
        deny: BTreeSet::new(),
    }
}

impl Scene {
    async fn add(&self) {
        self.roster.add(record("b", &self.ca), self.ca.bundle()).await.unwrap();
    }

    async fn brings(&self, catalog: &Catalog) -> Vec<Refusal> {
        let position = Position { epoch: 1, version: 1, digest: 0 };
        let (changed, removed) = (convert::catalog::rows(catalog).into_iter().collect(), Vec::new());
        let change = Applied { position, snapshot: true, changed, removed, refused: Vec::new() };
        self.roster.apply(&id("b"), &change).await
    }

    fn trusted(&self) -> u64 {
        let trust = self.authority.tls().trust().current();
        trust.bundles.get(self.ca.trust_domain()).map_or(0, |bundle| bundle.sequence)
    }
}

#[tokio::test]
async fn names_that_somebody_has_are_refused() {
    let scene = scene();
    scene.add().await;
    let code = |name: &str, domain: &str| {
        let judged = scene.roster.admissible(&id(name), &domain.parse().unwrap());
        judged.map_err(|error| error.code)
    };
    assert_eq!(code("own", "x.td"), Err("HNS-4001".into()));
    assert_eq!(code("x", "own.td"), Err("HNS-4008".into()));
    assert_eq!(code("x", "b.td"), Err("HNS-4008".into()));
    assert_eq!(code("b", "x.td"), Err("HNS-4008".into()));
    assert_eq!((code("b", "b.td"), code("c", "c.td")), (Ok(true), Ok(false)));
}

#[tokio::test]
async fn a_peer_that_speaks_for_another_keeps_its_own_name() {
    let scene = scene();
    scene.add().await;
    let refused = scene.brings(&catalog("c", &scene.ca, 1)).await;
    assert!(refused[0].reason.contains("HNS-4008"), "{refused:?}");
    let entry = scene.roster.get(&id("b")).unwrap();
    assert_eq!(entry.catalog.unwrap().cluster.id, id("b"));
}

#[tokio::test]
async fn a_peer_denies_what_is_its_own_and_is_remembered() {
    let scene = scene();
    scene.add().await;
    let own = "spiffe://b.td/hansa/gateway/g-1".to_owned();
    let print = format!("sha256:{}", "ab".repeat(32));
    let mut said = catalog("b", &scene.ca, 1);
    let others =
        ["spiffe://own.td/hansa/gateway/g", "serial:c.td:01", "spiffe://b.td/hansa/controller", "later:x"];
    said.deny = others.map(String::from).into_iter().chain([own.clone(), print.clone()]).collect();
    let refused = scene.brings(&said).await;
    let [refusal] = &refused[..] else { panic!("{refused:?}") };
    assert_eq!(refusal.key, "deny");
    assert!(refusal.reason.contains("HNS-3014") && refusal.reason.contains("4 of 6"), "{}", refusal.reason);
    let told = |authority: &Authority| -> Vec<String> {
        let trust = authority.tls().trust().current();
        let list = trust.told.of(&"b.td".parse().unwrap()).cloned().unwrap_or_default();
        list.iter().map(ToString::to_string).collect()
    };
    assert_eq!(told(&scene.authority), [print.clone(), own.clone()]);
    assert!(scene.authority.denied().is_empty(), "the own list is not theirs to write");

    // A clash of names does not undo what the proved domain says of itself.
    (said.cluster.id, said.deny) = (id("c"), BTreeSet::from([own.clone()]));
    assert!(!scene.brings(&said).await.is_empty());
    assert_eq!(told(&scene.authority), std::slice::from_ref(&own));

    scene.authority.tls().trust().update(|trust| trust.told = Default::default());
    let again = Roster::load(id("own"), scene.authority.clone(), scene.store.clone());
    assert_eq!(told(&scene.authority), [own], "from the disk, while the peer is away");
    again.remove(&id("b")).await.unwrap();
    assert!(told(&scene.authority).is_empty());
}

#[tokio::test]
async fn a_refused_bundle_is_refused_again_after_a_restart() {
    let scene = scene();
    scene.add().await;
    assert!(scene.brings(&catalog("b", &scene.ca, 0)).await.is_empty());
    assert!(scene.roster.resume(&id("b")).is_some());
    let other = Ca::create("b.td".parse().unwrap(), CaOptions::default(), SystemTime::now()).unwrap();
    let mut bad = catalog("b", &scene.ca, 0);
    let sequence = other.bundle().sequence;
    let (from, to) = (format!("sequence\":{sequence}"), format!("sequence\":{}", sequence + 1_000));
    bad.cluster.bundle = other.bundle().to_json().replace(&from, &to).into();
    assert_eq!(scene.brings(&bad).await[0].key, "cluster");
    let again = Roster::load(id("own"), scene.authority.clone(), scene.store.clone());
    assert_eq!(again.get(&id("b")).unwrap().refused()[0].key, "cluster");
    assert!(
        again.resume(&id("b")).is_none(),
        "a snapshot is asked for, and what it brings acknowledged anew"
    );
}

#[tokio::test]
async fn a_row_that_cannot_be_read_leaves_the_former_one_also_across_a_restart() {
    let scene = scene();
    scene.add().await;
    let (good, key) = (catalog("b", &scene.ca, 2), "export/shop/s-0");
    assert!(scene.brings(&good).await.is_empty());
    for snapshot in [false, true] {
        let mut rows = convert::catalog::rows(&good);
        rows.retain(|name, _| snapshot || name == key);
        rows.insert(key.to_owned(), Bytes::from_static(b"\xff"));
        let position = Position { epoch: 1, version: 2, digest: 0 };
        let (changed, removed) = (rows.into_iter().collect(), Vec::new());
        let change = Applied { position, snapshot, changed, removed, refused: Vec::new() };
        assert_eq!(scene.roster.apply(&id("b"), &change).await[0].key, key);
        let again = Roster::load(id("own"), scene.authority.clone(), scene.store.clone());
        for roster in [&scene.roster, &again] {
            assert_eq!(roster.get(&id("b")).unwrap().catalog.unwrap().exports.len(), 2, "{snapshot}");
            assert!(roster.resume(&id("b")).is_none(), "a snapshot is asked for");
        }
        assert!(scene.brings(&good).await.is_empty());
        assert!(scene.roster.resume(&id("b")).is_some());
    }
}

#[tokio::test]
async fn rows_beyond_the_limit_are_refused_and_the_others_count() {
    let scene = scene();
    scene.add().await;
    let spec = PeerSpec {
        trust_domain: scene.ca.trust_domain().clone(),
        gateways: Vec::new(),
        bundle: scene.ca.bundle().to_json(),
        accept: Accept { max_rows: 10, ..Accept::default() },
        transport: Transport::default(),
    };
    let specs = BTreeMap::from([(id("b"), spec)]);
    assert!(scene.roster.sync(&specs, &Hidden::default(), 0).await.is_empty());
    assert_eq!(scene.brings(&catalog("b", &scene.ca, 15)).await.len(), 5);
    assert_eq!(scene.roster.get(&id("b")).unwrap().catalog.unwrap().exports.len(), 10);
    // The rules go with the object; the peer, which joined by token, stays.
    assert!(scene.roster.sync(&BTreeMap::new(), &Hidden::default(), 0).await.is_empty());
    assert_eq!(scene.roster.get(&id("b")).unwrap().catalog.unwrap().exports.len(), 15);
}

#[tokio::test]
async fn a_bundle_only_moves_forward_and_with_overlap() {
    let mut scene = scene();
    scene.add().await;
    let old = catalog("b", &scene.ca, 0);
    scene.ca.prepare_next(SystemTime::now()).unwrap();
    assert!(scene.brings(&catalog("b", &scene.ca, 0)).await.is_empty());
    let held = scene.trusted();
    assert_eq!(held, scene.ca.bundle().sequence);
    assert!(scene.brings(&old).await[0].reason.contains("HNS-3010"), "went back");
    scene.ca.activate_next(SystemTime::now(), Consent { acknowledged: true, force: false }).unwrap();
    let other = Ca::create("b.td".parse().unwrap(), CaOptions::default(), SystemTime::now()).unwrap();
    let mut stolen = catalog("b", &other, 0);
    let text = other.bundle().to_json().replace(
        &format!("\"spiffe_sequence\":{}", other.bundle().sequence),
        &format!("\"spiffe_sequence\":{}", held + 1_000),
    );
    stolen.cluster.bundle = text.into();
    assert!(scene.brings(&stolen).await[0].reason.contains("HNS-3010"), "no overlap");
    assert_eq!(scene.trusted(), held);
}

#[tokio::test]
async fn peers_and_catalogs_survive_and_a_removed_one_leaves_nothing() {
    let scene = scene();
    scene.add().await;
    scene.brings(&catalog("b", &scene.ca, 3)).await;
    let again = Roster::load(id("own"), scene.authority.clone(), scene.store.clone());
    assert_eq!(again.get(&id("b")).unwrap().catalog.unwrap().exports.len(), 3);
    assert_eq!(again.resume(&id("b")).unwrap().rows.len(), 4);
    again.remove(&id("b")).await.unwrap();
    assert_eq!(scene.trusted(), 0);
    assert!(scene.store.scan("catalog/").is_empty() && scene.store.scan("peer/").is_empty());
    assert_eq!(again.remove(&id("b")).await.unwrap_err().code, "HNS-7005");
}

fn spec(scene: &Scene, accept: Accept) -> PeerSpec {
    PeerSpec {
        trust_domain: scene.ca.trust_domain().clone(),
        gateways: Vec::new(),
        bundle: scene.ca.bundle().to_json(),
        accept,
        transport: Transport::default(),
    }
}

#[tokio::test]
async fn rules_that_cannot_be_read_stay_in_force_also_across_a_restart() {
    let scene = scene();
    scene.add().await;
    let rules = Accept { max_rows: 10, ..Accept::default() };
    let specs = BTreeMap::from([(id("b"), spec(&scene, rules.clone()))]);
    scene.roster.sync(&specs, &Hidden::default(), 0).await;
    let none = BTreeMap::new();
    let hidden =
        [Hidden { all: true, ..Hidden::default() }, Hidden { all: false, peers: BTreeSet::from([id("b")]) }];
    for hidden in &hidden {
        scene.roster.sync(&none, hidden, 0).await;
        assert_eq!(scene.roster.get(&id("b")).unwrap().accept, rules);
        let again = Roster::load(id("own"), scene.authority.clone(), scene.store.clone());
        again.sync(&none, hidden, 0).await;
        assert_eq!(again.get(&id("b")).unwrap().accept, rules);
    }
    scene.roster.sync(&none, &Hidden { all: false, peers: BTreeSet::from([id("c")]) }, 0).await;
    let again = Roster::load(id("own"), scene.authority.clone(), scene.store.clone());
    for roster in [&scene.roster, &again] {
        assert_eq!(roster.get(&id("b")).unwrap().accept, Accept::default());
    }
}

#[tokio::test]
async fn a_declared_peer_is_dropped_only_when_nothing_hides_it() {
    let scene = scene();
    let specs = BTreeMap::from([(id("b"), spec(&scene, Accept::default()))]);
    assert!(scene.roster.sync(&specs, &Hidden::default(), 0).await.is_empty());
    let none = BTreeMap::new();
    scene.roster.sync(&none, &Hidden { all: true, ..Hidden::default() }, 0).await;
    assert!(scene.trusted() > 0 && scene.roster.get(&id("b")).is_some());
    scene.roster.sync(&none, &Hidden::default(), 0).await;
    assert!(scene.trusted() == 0 && scene.roster.get(&id("b")).is_none());
}

#[tokio::test]
async fn a_peer_that_only_what_cannot_be_read_may_declare_can_be_removed() {
    let scene = scene();
    let specs = BTreeMap::from([(id("b"), spec(&scene, Accept::default()))]);
    let hidden = Hidden { all: true, ..Hidden::default() };
    assert!(scene.roster.sync(&specs, &hidden, 0).await.is_empty());
    assert_eq!(scene.roster.remove(&id("b")).await.unwrap_err().code, "HNS-4002", "its object stands");
    let again = Roster::load(id("own"), scene.authority.clone(), scene.store.clone());
    assert!(again.remove(&id("b")).await.is_err(), "nothing was read yet");
    let none = BTreeMap::new();
    for _ in 0..2 {
        let problems = again.sync(&none, &hidden, 0).await;
        let [problem] = &problems[..] else { panic!("{problems:?}") };
        assert!(
            problem.object == "ClusterPeer b" && problem.message.contains("peer remove b"),
            "{problem:?}"
        );
    }
    again.sync(&specs, &hidden, 0).await;
    assert!(again.remove(&id("b")).await.is_err(), "its object is back");
    again.sync(&none, &hidden, 0).await;
    again.remove(&id("b")).await.unwrap();
    assert!(again.sync(&none, &hidden, 0).await.is_empty() && scene.trusted() == 0);
}

#[tokio::test]
async fn a_peer_that_comes_again_brings_an_older_bundle_by_a_join_alone() {
    let mut scene = scene();
    scene.add().await;
    let (old, older) = (record("b", &scene.ca), scene.ca.bundle());
    let declared = spec(&scene, Accept::default());
    scene.ca.prepare_next(SystemTime::now()).unwrap();
    assert!(scene.brings(&catalog("b", &scene.ca, 0)).await.is_empty());
    scene.roster.remove(&id("b")).await.unwrap();
    let specs = BTreeMap::from([(id("b"), declared)]);
    assert_eq!(scene.roster.sync(&specs, &Hidden::default(), 0).await[0].code, 3010);
    assert_eq!(scene.trusted(), 0);
    // One that was set up anew begins with a lower sequence; its token says so.
    let sequence = older.sequence;
    scene.roster.add(old, older).await.unwrap();
    assert!(sequence < scene.ca.bundle().sequence && scene.trusted() == sequence);
}

#[tokio::test]
async fn a_run_that_changes_no_peer_waits_for_no_write() {
    let scene = scene();
    let specs = BTreeMap::from(["b", "own"].map(|name| (id(name), spec(&scene, Accept::default()))));
    let hidden = Hidden::default();
    assert_eq!(scene.roster.sync(&specs, &hidden, 0).await.len(), 1, "the own name is refused");
    let mut said = catalog("b", &scene.ca, 1);
    let (gateway, addresses) = ("g-1".parse::<NodeId>().unwrap(), vec!["h:1".to_owned()]);
    let locality = Locality::default();
    said.gateways.insert(gateway.clone(), GatewayInfo { id: gateway, locality, addresses, draining: false });
    assert!(scene.brings(&said).await.is_empty());

    let writing = scene.roster.inner.writing.lock().await;
    let problems = scene.roster.sync(&specs, &hidden, 0).now_or_never();
    assert_eq!(problems.expect("it waits").len(), 1, "and is told each time");
    let none = BTreeMap::new();
    assert!(scene.roster.sync(&none, &hidden, 0).now_or_never().is_none(), "a change has its turn");
    drop(writing);
    assert!(scene.roster.get(&id("b")).is_some());
    assert!(scene.roster.sync(&none, &hidden, 0).await.is_empty());
    assert!(scene.roster.get(&id("b")).is_none());
}

#[tokio::test]
async fn rules_count_where_the_bundle_beside_them_is_refused() {
    let scene = scene();
    scene.add().await;
    let other = Ca::create("b.td".parse().unwrap(), CaOptions::default(), SystemTime::now()).unwrap();
    let sequence = |n: u64| format!("\"spiffe_sequence\":{n}");
    let (from, to) = (other.bundle().sequence, scene.trusted() + 1_000);
    let rules = Accept { max_rows: 10, ..Accept::default() };
    let mut stolen = spec(&scene, rules.clone());
    stolen.bundle = other.bundle().to_json().replace(&sequence(from), &sequence(to));
    let specs = BTreeMap::from([(id("b"), stolen)]);
    for _ in 0..2 {
        let problems = scene.roster.sync(&specs, &Hidden::default(), 0).await;
        assert_eq!(problems.iter().map(|p| p.code).collect::<Vec<_>>(), [3010]);
        let again = Roster::load(id("own"), scene.authority.clone(), scene.store.clone());
        assert_eq!(again.get(&id("b")).unwrap().accept, rules);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_removed_while_its_catalog_comes_in_leaves_no_rows() {
    let scene = scene();
    let (catalog, b) = (catalog("b", &scene.ca, 50), id("b"));
    let position = Position { epoch: 1, version: 1, digest: 0 };
    let changed: Vec<_> = convert::catalog::rows(&catalog).into_iter().collect();
    for round in 0..100 {
        scene.add().await;
        // On threads of their own, so that the two meet at every point.
        let (roster, id, changed) = (scene.roster.clone(), b.clone(), changed.clone());
        let coming = tokio::spawn(async move {
            let (removed, refused) = (Vec::new(), Vec::new());
            let change = Applied { position, snapshot: true, changed, removed, refused };
            roster.apply(&id, &change).await;
        });
        let (roster, id) = (scene.roster.clone(), b.clone());
        tokio::spawn(async move { roster.remove(&id).await }).await.unwrap().unwrap();
        coming.await.unwrap();
        let rows = (scene.store.scan("peer/"), scene.store.scan("catalog/"), scene.store.scan("position/"));
        assert!(rows.0.is_empty() && rows.1.is_empty() && rows.2.is_empty(), "round {round}: {rows:?}");
    }
}

#[tokio::test]
async fn a_removal_that_is_not_on_disk_is_done_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let scene = scene();
    // A store without a folder runs from memory, as on a read-only disk.
    let store = Store::open(&dir.path().join("missing")).unwrap();
    let roster = Roster::load(id("own"), scene.authority.clone(), store);
    roster.add(record("b", &scene.ca), scene.ca.bundle()).await.unwrap();
    assert!(scene.trusted() > 0);
    assert_eq!(roster.remove(&id("b")).await.unwrap_err().code, "HNS-1005");
    assert!(scene.trusted() == 0 && roster.get(&id("b")).is_none());
}
