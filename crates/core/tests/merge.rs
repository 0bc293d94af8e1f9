//! Laws of `merge`: order of input, ports, conflicts.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::{BTreeMap, BTreeSet};

use hansa_core::catalog::{
    Affinity, Catalog, ClusterInfo, EndpointCount, Export, InternalTraffic, Port, Protocol, ServiceType,
    Traffic,
};
use hansa_core::merge::{ConflictReason, merge};
use hansa_core::name::ServiceName;
use hansa_core::policy::{Accept, accept};
use proptest::prelude::*;

fn catalog(id: usize, exports: Vec<Export>) -> Catalog {
    Catalog {
        cluster: ClusterInfo {
            id: format!("c{id}").parse().unwrap(),
            trust_domain: format!("c{id}.example").parse().unwrap(),
            locality: "aws/eu".parse().unwrap(),
            bundle: "{}".into(),
            properties: BTreeMap::new(),
        },
        gateways: BTreeMap::new(),
        exports: exports.into_iter().map(|e| (e.service.clone(), e)).collect(),
        deny: BTreeSet::new(),
    }
}

fn port() -> impl Strategy<Value = Port> {
    ("[a-c]", any::<bool>(), 1u16..4).prop_map(|(name, udp, port)| Port {
        name: Some(name.parse().unwrap()),
        protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
        app_protocol: None,
        port,
    })
}

fn unique(ports: Vec<Port>) -> Vec<Port> {
    let mut kept: Vec<Port> = vec![];
    for p in ports {
        if !kept.iter().any(|k| k.name == p.name || (k.protocol, k.port) == (p.protocol, p.port)) {
            kept.push(p);
        }
    }
    kept
}

prop_compose! {
    fn export()(name in "[ab]", created in 0u64..3, headless in any::<bool>(), timeout in 0u32..3,
                ports in proptest::collection::vec(port(), 0..4), ready in 0u32..4) -> Export {
        Export {
            service: ServiceName::new("shop", &name).unwrap(),
            created,
            kind: if headless { ServiceType::Headless } else { ServiceType::ClusterSetIP },
            ports: unique(ports),
            affinity: if timeout == 0 { Affinity::None } else { Affinity::ClientIp { timeout_seconds: timeout } },
            traffic: Traffic::default(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            endpoints: vec![EndpointCount { locality: "aws/eu/a".parse().unwrap(), ready, total: ready }],
            hosts: vec![],
        }
    }
}

fn catalogs() -> impl Strategy<Value = Vec<Catalog>> {
    proptest::collection::vec(proptest::collection::vec(export(), 0..3), 0..5)
        .prop_map(|all| all.into_iter().enumerate().map(|(i, e)| catalog(i, e)).collect())
}

proptest! {
    #[test]
    fn the_order_of_catalogs_does_not_matter(catalogs in catalogs()) {
        let forward = merge(&catalogs);
        let backward = merge(catalogs.iter().rev());
        prop_assert_eq!(forward, backward);
    }

    #[test]
    fn ports_are_unique_by_name_and_by_number(catalogs in catalogs()) {
        for import in merge(&catalogs).imports.values() {
            let names: BTreeSet<_> = import.ports.iter().map(|p| &p.name).collect();
            let numbers: BTreeSet<_> = import.ports.iter().map(|p| (p.protocol, p.port)).collect();
            prop_assert_eq!(names.len(), import.ports.len());
            prop_assert_eq!(numbers.len(), import.ports.len());
            for share in import.clusters.values() {
                prop_assert!(share.ports.is_subset(&numbers));
            }
        }
    }

    #[test]
    fn the_oldest_export_loses_nothing(catalogs in catalogs()) {
        for (name, import) in merge(&catalogs).imports {
            let oldest = catalogs.iter()
                .filter_map(|c| Some((c.exports.get(&name)?, &c.cluster.id)))
                .min_by(|a, b| (a.0.created, a.1).cmp(&(b.0.created, b.1))).unwrap();
            prop_assert_eq!(import.kind, oldest.0.kind);
            prop_assert!(oldest.0.ports.iter().all(|p| import.ports.contains(p)));
            prop_assert!(import.conflicts.iter().all(|c| &c.cluster != oldest.1));
        }
    }

    #[test]
    fn equal_exports_never_conflict(mut one in export(), n in 1usize..4) {
        one.created = 1;
        let catalogs: Vec<Catalog> = (0..n).map(|i| catalog(i, vec![one.clone()])).collect();
        let mesh = merge(&catalogs);
        let import = &mesh.imports[&one.service];
        prop_assert!(import.conflicts.is_empty());
        prop_assert_eq!(import.clusters.len(), n);
        prop_assert_eq!(&import.ports, &one.ports);
    }

    #[test]
    fn accept_takes_or_refuses_each_row(exports in proptest::collection::vec(export(), 0..3), max in 0usize..3) {
        let given = catalog(0, exports);
        let rules = Accept { max_rows: max, ..Accept::default() };
        let (taken, refused) = accept(&rules, given.clone());
        prop_assert_eq!(taken.exports.len() + refused.len(), given.exports.len());
        prop_assert!(taken.exports.len() <= max);
    }
}

#[test]
fn conflicts_name_both_sides() {
    let base = Export {
        service: "shop/a".parse().unwrap(),
        created: 1,
        kind: ServiceType::ClusterSetIP,
        ports: vec![Port {
            name: Some("http".parse().unwrap()),
            protocol: Protocol::Tcp,
            app_protocol: None,
            port: 80,
        }],
        affinity: Affinity::None,
        traffic: Traffic::default(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        endpoints: vec![],
        hosts: vec![],
    };
    let mut other = base.clone();
    other.created = 2;
    other.kind = ServiceType::Headless;
    other.ports[0].port = 81;
    let mesh = merge(&[catalog(1, vec![other]), catalog(0, vec![base])]);
    let found: Vec<_> = mesh
        .imports
        .values()
        .next()
        .unwrap()
        .conflicts
        .iter()
        .map(|c| (c.reason, c.cluster.as_str(), c.winner.as_str()))
        .collect();
    assert_eq!(
        found,
        [(ConflictReason::PortConflict, "c1", "c0"), (ConflictReason::TypeConflict, "c1", "c0")]
    );
}

#[test]
fn a_conflict_names_what_differs_and_is_short_however_long_the_values_are() {
    let export = |labels: BTreeMap<String, String>, created| Export {
        service: "shop/a".parse().unwrap(),
        created,
        kind: ServiceType::ClusterSetIP,
        ports: Vec::new(),
        affinity: Affinity::None,
        traffic: Traffic::default(),
        annotations: labels.clone(),
        labels,
        endpoints: Vec::new(),
        hosts: Vec::new(),
    };
    let labels =
        |app: &str| BTreeMap::from([("app".to_owned(), app.to_owned()), ("same".into(), "x".repeat(9_000))]);
    let short = [catalog(1, vec![export(labels("one"), 1)]), catalog(2, vec![export(labels("two"), 2)])];
    let found = merge(&short).imports[&"shop/a".parse().unwrap()].conflicts.clone();
    assert_eq!(found.len(), 2);
    let detail = r#"exportedLabels is {"app": "two"}, the oldest export has {"app": "one"}"#;
    assert_eq!(found[0].detail, detail);
    let long = |c: &str| labels(&c.repeat(100_000));
    let long = [catalog(1, vec![export(long("ä"), 1)]), catalog(2, vec![export(long("b"), 2)])];
    for conflict in &merge(&long).imports[&"shop/a".parse().unwrap()].conflicts {
        assert!(conflict.detail.chars().count() <= 300, "{}", conflict.detail.chars().count());
    }
}

#[test]
fn traffic_is_that_of_the_oldest_and_differences_are_conflicts() {
    let export = |created, internal, distribution: Option<&str>| Export {
        service: "shop/a".parse().unwrap(),
        created,
        kind: ServiceType::ClusterSetIP,
        ports: Vec::new(),
        affinity: Affinity::None,
        traffic: Traffic { internal, distribution: distribution.map(str::to_owned) },
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        endpoints: Vec::new(),
        hosts: Vec::new(),
    };
    let old = export(1, InternalTraffic::Cluster, Some("PreferClose"));
    let new = export(2, InternalTraffic::Local, None);
    let mesh = merge(&[catalog(2, vec![new]), catalog(1, vec![old.clone()])]);
    let import = &mesh.imports[&"shop/a".parse().unwrap()];
    assert_eq!(import.traffic, old.traffic);
    let found: Vec<_> = import.conflicts.iter().map(|c| (c.reason, c.detail.as_str())).collect();
    assert_eq!(
        found,
        [
            (
                ConflictReason::InternalTrafficPolicyConflict,
                "internalTrafficPolicy is Local, the oldest export has Cluster"
            ),
            (
                ConflictReason::TrafficDistributionConflict,
                "trafficDistribution is not set, the oldest export has PreferClose"
            ),
        ]
    );
}
