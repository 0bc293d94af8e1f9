//! Which versions carry which bundle, also when a rotation comes in the middle of a run.

use hansa_identity::ca::{Ca, CaOptions};
use hansa_identity::rotate::Consent;

use super::*;
use crate::config::Vip;
use crate::roster::tests::record;

/// A cluster with one peer and no server.
async fn fuse(dir: &std::path::Path) -> Fuse {
    let store = Store::open(dir).unwrap();
    let life = Duration::from_secs(3_600);
    let authority = Authority::open(dir, &"own".parse().unwrap(), life, store.clone()).unwrap();
    let cluster: ClusterId = "own".parse().unwrap();
    let roster = Roster::load(cluster.clone(), authority.clone(), store.clone());
    let ca = Ca::create("b".parse().unwrap(), CaOptions::default(), SystemTime::now()).unwrap();
    roster.add(record("b", &ca), ca.bundle()).await.unwrap();
    let parts = Parts {
        facts: Facts { cluster, locality: Locality::default(), failback: Failback::default() },
        own: watch::channel(Arc::new(Own::default())).1,
        authority,
        roster,
        nodes: Nodes::load(&store),
        feeds: Feeds::begin(&store),
        vips: Vips::load(&Vip::default(), &store),
        store,
        rejected: Counter::default(),
    };
    Fuse::new(parts).0
}

#[tokio::test]
async fn a_rotation_between_catalog_and_routes_records_no_version_without_its_bundle() {
    let dir = tempfile::tempdir().unwrap();
    let mut fuse = fuse(dir.path()).await;
    let b: ClusterId = "b".parse().unwrap();
    let (own, none) = (Arc::new(Own::default()), BTreeMap::new());
    let peers = fuse.parts.roster.all();

    let catalog = Arc::new(fuse.catalog(&own, &none));
    fuse.parts.authority.rotate("publish", Consent::default()).unwrap();
    let table = fuse.table(Routes::new(), &peers, &none, &BTreeMap::new());
    assert_ne!(catalog.cluster.bundle, table.bundle);
    let table = fuse.publish_routes(table);
    fuse.publish_catalogs(&catalog, &own, &peers);
    let at = fuse.bundle_at();
    assert_eq!((at.routes, at.catalogs), (fuse.parts.feeds.routes().position().version, BTreeMap::new()));

    // The next run brings it.
    let catalog = Arc::new(fuse.catalog(&own, &none));
    assert_eq!(catalog.cluster.bundle, table.bundle);
    fuse.publish_catalogs(&catalog, &own, &peers);
    let version = fuse.parts.feeds.catalog(&b).position().version;
    assert_eq!(fuse.bundle_at().catalogs, BTreeMap::from([(b, version)]));
}

#[tokio::test]
async fn a_rotation_after_the_table_was_made_is_not_taken_for_published() {
    let dir = tempfile::tempdir().unwrap();
    let mut fuse = fuse(dir.path()).await;
    let none = BTreeMap::new();
    let table = fuse.table(Routes::new(), &fuse.parts.roster.all(), &none, &BTreeMap::new());
    fuse.parts.authority.rotate("publish", Consent::default()).unwrap();
    let early = fuse.publish_routes(table);
    let before = fuse.bundle_at().routes;
    let table = fuse.table(Routes::new(), &fuse.parts.roster.all(), &none, &BTreeMap::new());
    let table = fuse.publish_routes(table);
    assert_ne!(early.bundle, table.bundle);
    let at = fuse.bundle_at().routes;
    assert!(at > before && at == fuse.parts.feeds.routes().position().version, "{before} and then {at}");
}
