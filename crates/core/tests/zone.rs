//! The zone at the limits of names.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use hansa_core::catalog::{Protocol, ServiceType};
use hansa_core::name::ServiceName;
use hansa_core::zone::{Answer, Qtype, Rdata, Zone, ZoneHost, ZonePort, ZoneService, answer};

fn host(hostname: &str, cluster: &str) -> ZoneHost {
    let ips = vec!["10.0.0.1".parse().unwrap()];
    ZoneHost { hostname: hostname.parse().unwrap(), cluster: cluster.parse().unwrap(), ready: true, ips }
}

fn headless(name: &str, hosts: Vec<ZoneHost>) -> Zone {
    let port = ZonePort { name: Some("web".parse().unwrap()), protocol: Protocol::Tcp, port: 80 };
    let service = ZoneService {
        service: ServiceName::new(name, name).unwrap(),
        kind: ServiceType::Headless,
        ports: vec![port],
        ips: vec![],
        hosts,
    };
    let mut zone = Zone::default();
    zone.insert(service);
    zone
}

#[test]
fn a_target_longer_than_a_name_is_left_out() {
    let long = "a".repeat(63);
    let cluster = format!("{long}.b");
    let zone = headless(&long, vec![host(&long, &cluster), host("h", "c")]);
    for question in ["", "_web._tcp."] {
        let name = format!("{question}{long}.{long}.svc.clusterset.local");
        let Answer::Records { answers, .. } = answer(&zone, &name, Qtype::Srv) else { panic!("no records") };
        let target = format!("h.c.{long}.{long}.svc.clusterset.local");
        let data: Vec<_> = answers.into_iter().map(|record| record.data).collect();
        assert_eq!(data, [Rdata::Srv { port: 80, target }]);

        let only = headless(&long, vec![host(&long, &cluster)]);
        assert_eq!(answer(&only, &name, Qtype::Srv), Answer::NoData);
    }
}
