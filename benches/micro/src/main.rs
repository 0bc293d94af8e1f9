//! The decisions of `hansa-core` alone, at 100, 10,000 and 100,000 services of three clusters.
//!
//! Called by `benches/run`. Prints one JSON line per decision and size: nanoseconds for one call, the
//! median over batches. `pick` is what one connection needs: find the service, share out, draw an order.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hansa_core::catalog::{
    Affinity, Catalog, ClusterInfo, EndpointCount, Export, Port, Protocol, ServiceType,
};
use hansa_core::merge::merge;
use hansa_core::mesh::{Candidate, ServiceRoute};
use hansa_core::name::{ClusterId, ServiceName};
use hansa_core::route::{self, Standing};
use hansa_core::services::Services;
use hansa_core::table::{Held, Table};
use hansa_core::zone::{self, Qtype, Zone, ZonePort, ZoneService};

const PORT: (Protocol, u16) = (Protocol::Tcp, 80);
const CLUSTERS: usize = 3;
const PLACES: [&str; CLUSTERS] = ["aws/eu/a", "gcp/eu/a", "onprem/berlin"];

fn main() {
    for n in [100, 10_000, 100_000] {
        pick(n);
        answer(n);
        merged(n);
        moved(n);
    }
}

/// Runs `batch` calls at a time for a second, at least five times; prints the median per call.
fn report(test: &str, n: usize, batch: u32, mut run: impl FnMut(u32)) {
    run(batch);
    let (mut seen, end) = (Vec::new(), Instant::now() + Duration::from_secs(1));
    while seen.len() < 5 || Instant::now() < end {
        let start = Instant::now();
        run(batch);
        seen.push(start.elapsed().as_nanos() as f64 / f64::from(batch));
    }
    seen.sort_by(f64::total_cmp);
    println!(
        "{{\"test\":\"{test}{n}\",\"services\":{n},\"ns\":{:.1},\"batches\":{}}}",
        seen[seen.len() / 2],
        seen.len()
    );
}

fn name(i: usize) -> ServiceName {
    ServiceName::new(&format!("ns-{}", i % 100), &format!("svc-{i}")).expect("a valid name")
}

fn cluster(c: usize) -> ClusterId {
    format!("member-{c}").parse().expect("a valid id")
}

fn endpoints(c: usize) -> Vec<EndpointCount> {
    vec![EndpointCount { locality: PLACES[c].parse().expect("a place"), ready: 3, total: 3 }]
}

fn ports() -> Vec<Port> {
    vec![Port { name: None, protocol: PORT.0, app_protocol: None, port: PORT.1 }]
}

/// Indices in an order no cache expects.
fn scattered(n: usize) -> impl Iterator<Item = usize> {
    let mut x = 1u64;
    std::iter::repeat_with(move || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 33) as usize % n
    })
}

fn pick(n: usize) {
    let here = PLACES[0].parse().expect("a place");
    let row = |i| ServiceRoute {
        service: name(i),
        kind: ServiceType::ClusterSetIP,
        ports: ports(),
        affinity: Affinity::None,
        vips: BTreeMap::new(),
        clusters: (0..CLUSTERS)
            .map(|c| Candidate::new(cluster(c), &BTreeSet::from([PORT]), endpoints(c)))
            .collect(),
        hosts: vec![],
        local: None,
    };
    let table: Services = (0..n).map(|i| Arc::new(row(i))).collect();
    let wanted: Vec<ServiceName> = scattered(n).take(4096).map(name).collect();
    report("pick", n, 4096, |batch| {
        for (i, name) in wanted.iter().take(batch as usize).enumerate() {
            let spread = route::spread(&table[name], PORT, &here, |_| Standing::HEALTHY);
            black_box(spread.order(i as f64 / 4096.0));
        }
    });
}

fn answer(n: usize) {
    let mut zone = Zone::default();
    for i in 0..n {
        zone.insert(ZoneService {
            service: name(i),
            kind: ServiceType::ClusterSetIP,
            ports: vec![ZonePort { name: None, protocol: PORT.0, port: PORT.1 }],
            ips: vec![[127, 96, (i >> 8) as u8, i as u8].into(), [127, 97, (i >> 8) as u8, i as u8].into()],
            hosts: vec![],
        });
    }
    let wanted: Vec<String> =
        scattered(n).take(4096).map(|i| format!("svc-{i}.ns-{}.svc.clusterset.local", i % 100)).collect();
    report("answer", n, 4096, |batch| {
        for name in wanted.iter().take(batch as usize) {
            black_box(zone::answer(&zone, name, Qtype::A));
        }
    });
}

fn catalog(c: usize, n: usize) -> Catalog {
    let export = |i| Export {
        service: name(i),
        created: 1_000 + i as u64,
        kind: ServiceType::ClusterSetIP,
        ports: ports(),
        affinity: Affinity::None,
        traffic: Default::default(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        endpoints: endpoints(c),
        hosts: vec![],
    };
    Catalog {
        cluster: ClusterInfo {
            id: cluster(c),
            trust_domain: format!("member-{c}.test").parse().expect("a domain"),
            locality: PLACES[c].parse().expect("a place"),
            bundle: "".into(),
            properties: BTreeMap::new(),
        },
        gateways: BTreeMap::new(),
        exports: (0..n).map(|i| (name(i), export(i))).collect(),
        deny: BTreeSet::new(),
    }
}

fn merged(n: usize) {
    let catalogs: Vec<Catalog> = (0..CLUSTERS).map(|c| catalog(c, n)).collect();
    report("merge", n, 1, |_| {
        black_box(merge(&catalogs));
    });
}

/// A publisher of `n` rows of 200 bytes; each version changes one.
fn moved(n: usize) {
    let body = |i: usize, version: u64| {
        let mut body = vec![i as u8; 200];
        body[..8].copy_from_slice(&version.to_le_bytes());
        body
    };
    let mut table = Table::new(1);
    table.replace((0..n).map(|i| (name(i).to_string(), body(i, 0))).collect());
    let mut held = Held::default();
    held.apply(&table.diff(None)).expect("a snapshot fits");
    let mut which = scattered(n);
    let mut deltas = Vec::new();
    for version in 0..64 {
        let from = table.version();
        let i = which.next().unwrap_or(0);
        table.update([(name(i).to_string(), body(i, version + 1))], vec![]);
        deltas.push((from, table.diff(Some(from))));
    }
    let last = deltas.last().map(|(from, _)| *from);
    report("diff", n, 64, |batch| {
        for _ in 0..batch {
            black_box(table.diff(last));
        }
    });
    // Each batch starts from the same copy; cloning it is not counted.
    let mut seen = Vec::new();
    for _ in 0..7 {
        let mut copy = held.clone();
        let start = Instant::now();
        for (_, delta) in &deltas {
            black_box(copy.apply(delta)).expect("the next delta fits");
        }
        seen.push(start.elapsed().as_nanos() as f64 / deltas.len() as f64);
    }
    seen.sort_by(f64::total_cmp);
    println!(
        "{{\"test\":\"apply{n}\",\"services\":{n},\"ns\":{:.1},\"batches\":{}}}",
        seen[seen.len() / 2],
        seen.len()
    );
}
