//! What must not get through: exports to the wrong peer, a feed from the past, names of services
//! that nobody serves.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::BTreeSet;

use hansa_core::catalog::{LocalService, ServiceType};
use hansa_core::name::ServiceName;
use hansa_core::policy::may_see;
use hansa_core::table::{Delta, Held, Misfit, Table};
use hansa_core::zone::{Answer, Qtype, Zone, ZoneHost, ZoneService, answer};

#[test]
fn an_export_list_admits_those_on_it_and_its_absence_everybody() {
    let service = |list: Option<&[&str]>| LocalService {
        export_to: list.map(|l| l.iter().map(|c| c.parse().unwrap()).collect::<BTreeSet<_>>()),
        endpoints: vec![],
    };
    for (list, sees) in
        [(None, true), (Some(&["a", "b"][..]), true), (Some(&["b"]), false), (Some(&[]), false)]
    {
        assert_eq!(may_see(&service(list), &"a".parse().unwrap()), sees, "{list:?}");
    }
}

#[test]
fn a_follower_goes_neither_back_in_time_nor_over_a_gap() {
    let mut table = Table::new(7);
    table.replace([("a".to_owned(), b"1".to_vec())].into());
    let mut held = Held::default();
    held.apply(&table.diff(None)).unwrap();
    let (now, before) = (held.version.unwrap(), held.clone());
    let delta = |from, to| Delta::<Vec<u8>> {
        from: Some(from),
        to,
        digest: held.digest,
        changed: vec![],
        removed: vec![],
    };
    let back = held.clone().apply(&delta(now, now - 1));
    assert_eq!(back, Err(Misfit::Backwards { held: now, to: now - 1 }));
    let gap = held.clone().apply(&delta(now + 1, now + 2));
    assert_eq!(gap, Err(Misfit::Gap { from: now + 1, held: Some(now) }));
    assert_eq!(held, before);
}

fn headless(ready: bool) -> Zone {
    let host = ZoneHost {
        hostname: "pod-0".parse().unwrap(),
        cluster: "b".parse().unwrap(),
        ready,
        ips: vec!["240.0.0.1".parse().unwrap()],
    };
    let mut zone = Zone::default();
    zone.insert(ZoneService {
        service: ServiceName::new("data", "kafka").unwrap(),
        kind: ServiceType::Headless,
        ports: vec![],
        ips: vec![],
        hosts: vec![host],
    });
    zone
}

#[test]
fn a_headless_service_exists_while_a_host_is_ready() {
    let kafka = "kafka.data.svc.clusterset.local";
    let ask = |zone: &Zone, name: &str| answer(zone, name, Qtype::A);
    let up = headless(true);
    assert!(matches!(ask(&up, kafka), Answer::Records { .. }));
    assert!(matches!(ask(&up, &format!("pod-0.b.{kafka}")), Answer::Records { .. }));
    assert_eq!(answer(&up, kafka, Qtype::Aaaa), Answer::NoData);
    let down = headless(false);
    assert_eq!(ask(&down, kafka), Answer::NxDomain);
    assert_eq!(ask(&down, &format!("pod-0.b.{kafka}")), Answer::NxDomain);
}
