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
        clusters: Vec::new(),
        hosts: vec![host],
        local: None,
    };
    let mut table = crate::table::empty(&"a".parse().unwrap(), &"a.test".parse().unwrap());
    table.services = [Arc::new(row)].into_iter().collect();
    let places = |owners: &[&NodeId]| {
        let owners = owners.iter().map(|o| (*o).clone()).collect();
        wanted(&table, &owners).into_keys().map(|p| p.0.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(places(&[&me]), ["127.97.1.1:80", "127.97.1.2:80"]);
    assert_eq!(places(&[&me, &other]).len(), 4);
    assert!(places(&[]).is_empty());
}

#[test]
fn tcp_and_udp_of_one_number_are_two_places() {
    let me: NodeId = "g-1".parse().unwrap();
    let port = |protocol| Port { name: None, protocol, app_protocol: None, port: 53 };
    let row = ServiceRoute {
        service: "ns/dns".parse().unwrap(),
        kind: ServiceType::ClusterSetIP,
        ports: vec![port(Protocol::Tcp), port(Protocol::Udp)],
        affinity: Affinity::None,
        vips: BTreeMap::from([(me.clone(), vec![IpAddr::from([127, 97, 1, 1])])]),
        clusters: Vec::new(),
        hosts: Vec::new(),
        local: None,
    };
    let mut table = crate::table::empty(&"a".parse().unwrap(), &"a.test".parse().unwrap());
    table.services = [Arc::new(row)].into_iter().collect();
    let places: Vec<Place> = wanted(&table, &[me].into()).into_keys().collect();
    assert_eq!(places.iter().map(|place| place.1).collect::<Vec<_>>(), [Protocol::Tcp, Protocol::Udp]);
    // Both can be had at once, and each only once.
    let (address, _free, _tcp) = loop {
        let free = socket(SocketAddr::from(([127, 0, 0, 1], 0)), Type::DGRAM).unwrap();
        let address = free.local_addr().unwrap().as_socket().unwrap();
        // A connection of another test may have the same number.
        if let Ok(tcp) = socket(address, Type::STREAM) {
            break (address, free, tcp);
        }
    };
    assert_eq!(socket(address, Type::STREAM).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    assert_eq!(socket(address, Type::DGRAM).unwrap_err().kind(), io::ErrorKind::AddrInUse);
}
