//! Laws of names: what holds for every zone and every question.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hansa_core::catalog::{Protocol, ServiceType};
use hansa_core::name::ServiceName;
use hansa_core::zone::{Answer, Qtype, Rdata, Record, Zone, ZoneHost, ZonePort, ZoneService, answer};
use proptest::collection::vec;
use proptest::prelude::*;

const TYPES: [Qtype; 8] =
    [Qtype::A, Qtype::Aaaa, Qtype::Srv, Qtype::Txt, Qtype::Soa, Qtype::Ns, Qtype::Any, Qtype::Other];

fn ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0u8..4).prop_map(|n| IpAddr::V4(Ipv4Addr::new(10, 0, 0, n))),
        (0u16..4).prop_map(|n| IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n))),
    ]
}

fn service() -> impl Strategy<Value = ZoneService> {
    let port =
        (proptest::option::of("[ab]"), any::<bool>(), 1u16..4).prop_map(|(name, tcp, port)| ZonePort {
            name: name.map(|name| name.parse().unwrap()),
            protocol: if tcp { Protocol::Tcp } else { Protocol::Udp },
            port,
        });
    let host = ("[ab]", "[cd](\\.[ce])?", any::<bool>(), vec(ip(), 0..3)).prop_map(
        |(hostname, cluster, ready, ips)| ZoneHost {
            hostname: hostname.parse().unwrap(),
            cluster: cluster.parse().unwrap(),
            ready,
            ips,
        },
    );
    let one = ("[mn]", "[st]", any::<bool>(), vec(port, 0..4), vec(ip(), 0..3), vec(host, 0..4));
    one.prop_map(|(namespace, name, headless, ports, ips, hosts)| ZoneService {
        service: ServiceName::new(&namespace, &name).unwrap(),
        kind: if headless { ServiceType::Headless } else { ServiceType::ClusterSetIP },
        ports,
        ips,
        hosts,
    })
}

fn zone() -> impl Strategy<Value = Zone> {
    vec(service(), 0..4).prop_map(|all| {
        let mut zone = Zone::default();
        all.into_iter().for_each(|service| zone.insert(service));
        zone
    })
}

/// Names near what such zones have.
fn name() -> impl Strategy<Value = String> {
    let near = "((_?[a-e]\\.){0,4}([_stmn]|_tcp|_udp)\\.){0,3}([mn]\\.)?(svc\\.)?(dns-version\\.)?clusterset\\.local";
    prop_oneof![9 => near, 1 => ".{0,40}"]
}

fn records(answer: &Answer) -> &[Record] {
    match answer {
        Answer::Records { answers, .. } => answers,
        _ => &[],
    }
}

fn addresses(answer: &Answer) -> BTreeSet<IpAddr> {
    let ip = |record: &Record| match record.data {
        Rdata::A(ip) => Some(IpAddr::V4(ip)),
        Rdata::Aaaa(ip) => Some(IpAddr::V6(ip)),
        _ => None,
    };
    records(answer).iter().filter_map(ip).collect()
}

fn below(service: &ZoneService, above: &str) -> String {
    format!("{above}.{}", service.service.fqdn())
}

proptest! {
    #[test]
    fn a_name_exists_for_every_type_or_for_none(zone in zone(), name in name()) {
        let answers = TYPES.map(|qtype| answer(&zone, &name, qtype));
        let missing = answers.iter().filter(|a| matches!(a, Answer::NxDomain)).count();
        prop_assert!(missing == 0 || missing == TYPES.len());
        let foreign = answers.iter().filter(|a| matches!(a, Answer::NotOurs)).count();
        prop_assert!(foreign == 0 || foreign == TYPES.len());
        for answer in &answers {
            let empty = matches!(answer, Answer::Records { answers, .. } if answers.is_empty());
            prop_assert!(!empty, "no records is said otherwise");
        }
    }

    #[test]
    fn what_exists_has_parents_that_exist(zone in zone(), name in name()) {
        let exists = |name: &str| !matches!(answer(&zone, name, Qtype::A), Answer::NxDomain | Answer::NotOurs);
        if exists(&name) && name != "clusterset.local" {
            let (_, parent) = name.split_once('.').unwrap();
            prop_assert!(exists(parent), "{} exists, {} does not", name, parent);
        }
    }

    #[test]
    fn a_and_aaaa_show_the_same_endpoints(zone in zone()) {
        for service in zone.services.values() {
            let name = service.service.fqdn();
            let (four, six) = (answer(&zone, &name, Qtype::A), answer(&zone, &name, Qtype::Aaaa));
            let shown: BTreeSet<IpAddr> = addresses(&four).union(&addresses(&six)).copied().collect();
            let wanted: BTreeSet<IpAddr> = match service.kind {
                ServiceType::ClusterSetIP => service.ips.iter().copied().collect(),
                ServiceType::Headless => {
                    service.hosts.iter().filter(|h| h.ready).flat_map(|h| h.ips.iter().copied()).collect()
                }
            };
            prop_assert_eq!(shown, wanted);
            prop_assert!(addresses(&four).iter().all(IpAddr::is_ipv4));
            prop_assert!(addresses(&six).iter().all(IpAddr::is_ipv6));
        }
    }

    #[test]
    fn a_headless_service_without_a_ready_host_does_not_exist(zone in zone()) {
        for service in zone.services.values().filter(|s| s.kind == ServiceType::Headless) {
            let ready = service.hosts.iter().any(|h| h.ready && !h.ips.is_empty());
            let nothing = matches!(answer(&zone, &service.service.fqdn(), Qtype::A), Answer::NxDomain);
            prop_assert_eq!(nothing, !ready);
        }
    }

    #[test]
    fn the_reserved_name_never_has_a_record(zone in zone()) {
        for service in zone.services.values() {
            for cluster in service.hosts.iter().map(|h| h.cluster.to_string()).chain(["x".to_owned()]) {
                for qtype in TYPES {
                    let reserved = answer(&zone, &below(service, &cluster), qtype);
                    // `host.cluster` of one cluster may read like the two-label id of another.
                    let also_host = service.hosts.iter().any(|h| format!("{}.{}", h.hostname, h.cluster) == cluster);
                    prop_assert!(also_host || records(&reserved).is_empty(), "{cluster} {reserved:?}");
                }
            }
        }
    }

    #[test]
    fn srv_records_are_distinct_and_their_targets_resolve(zone in zone(), proto in prop_oneof![Just("_tcp"), Just("_udp")], port in "[ab]") {
        for service in zone.services.values() {
            for name in [service.service.fqdn(), below(service, &format!("_{port}.{proto}"))] {
                let Answer::Records { answers, additionals } = answer(&zone, &name, Qtype::Srv) else { continue };
                let mut seen = BTreeSet::new();
                for record in &answers {
                    let Rdata::Srv { port, target } = &record.data else { panic!("{record:?}") };
                    prop_assert!(seen.insert((*port, target.clone())) || service.kind == ServiceType::Headless);
                    prop_assert!(service.ports.iter().any(|p| p.port == *port && p.name.is_some()));
                    let found: BTreeSet<IpAddr> = [Qtype::A, Qtype::Aaaa]
                        .iter()
                        .flat_map(|qtype| addresses(&answer(&zone, target, *qtype)))
                        .collect();
                    let added: BTreeSet<IpAddr> = additionals
                        .iter()
                        .filter(|r| r.name.as_ref() == Some(target))
                        .flat_map(|r| addresses(&Answer::Records { answers: vec![r.clone()], additionals: vec![] }))
                        .collect();
                    prop_assert!(found.is_subset(&added));
                }
            }
        }
    }
}

#[test]
fn one_record_for_a_number_shared_by_two_protocols() {
    // The conformance suite: tcp and udp, both port 42, make one record at the bare name.
    let mut zone = Zone::default();
    let port = |name: &str, protocol| ZonePort { name: Some(name.parse().unwrap()), protocol, port: 42 };
    zone.insert(ZoneService {
        service: ServiceName::new("ns", "hello").unwrap(),
        kind: ServiceType::ClusterSetIP,
        ports: vec![port("tcp", Protocol::Tcp), port("udp", Protocol::Udp)],
        ips: vec![IpAddr::from([10, 0, 0, 1])],
        hosts: Vec::new(),
    });
    let found = answer(&zone, "hello.ns.svc.clusterset.local", Qtype::Srv);
    assert_eq!(records(&found).len(), 1);
}
