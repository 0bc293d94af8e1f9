//! Tests of `listen`.

use super::*;
use hansa_core::catalog::{Affinity, Port, ServiceType};
use hansa_core::mesh::{HostRoute, ServiceRoute};

#[test]
fn only_addresses_of_those_we_stand_for_are_wanted() {
    let (me, other): (NodeId, NodeId) = ("g-1".parse().unwrap(), "g-2".parse().unwrap());
    let vips = |last| {
        BTreeMap::from([
            (me.clone(), vec![IpAddr::from([127, 97, 1, last])]),
            (other.clone(), vec![IpAddr::from([127, 97, 2, last])]),
        ])
    };
    let port = Port { name: None, protocol: Protocol::Tcp, app_protocol: None, port: 80 };
    let host = HostRoute {
        cluster: "b".parse().unwrap(),
        hostname: "h-0".parse().unwrap(),
        ready: true,
        vips: vips(2),
    };
    let row = ServiceRoute {
        service: "ns/web".parse().unwrap(),
        kind: ServiceType::ClusterSetIP,
        ports: vec![port],
        affinity: Affinity::None,
        vips: vips(1),
        clusters: BTreeMap::new(),
        hosts: vec![host],
        local: None,
    };
    let mut table = crate::table::empty(&"a".parse().unwrap(), &"a.test".parse().unwrap());
    table.services.insert(row.service.clone(), Arc::new(row));
    let places = |owners: &[&NodeId]| {
        let owners = owners.iter().map(|o| (*o).clone()).collect();
        wanted(&table, &owners).into_keys().map(|p| p.0.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(places(&[&me]), ["127.97.1.1:80", "127.97.1.2:80"]);
    assert_eq!(places(&[&me, &other]).len(), 4);
    assert!(places(&[]).is_empty());
}
