//! Laws of the wire: every value comes back as it was, and no bytes whatever make it panic.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use hansa_core::catalog::*;
use hansa_core::locality::Locality;
use hansa_core::mesh::*;
use hansa_core::name::{ClusterId, Label, NodeId, PortName, ServiceName};
use hansa_core::reach::Reach;
use hansa_core::zone::{Zone, ZoneHost, ZonePort, ZoneService};
use hansa_proto::convert::report::{self, GatewayReport, NodeInfo, PeerReport, TunnelReport};
use hansa_proto::convert::{Apply, catalog, routes, zone};
use hansa_proto::feed::{Position, Saved};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;

fn label() -> impl Strategy<Value = Label> {
    "[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?".prop_map(|t| t.parse().unwrap())
}

fn cluster() -> impl Strategy<Value = ClusterId> {
    "[a-z]{1,4}(\\.[a-z]{1,4})?".prop_map(|t| t.parse().unwrap())
}

fn service() -> impl Strategy<Value = ServiceName> {
    ("[a-c]{1,2}", "[a-c]{1,2}").prop_map(|(ns, name)| ServiceName::new(&ns, &name).unwrap())
}

fn locality() -> impl Strategy<Value = Locality> {
    "([a-z]{1,3}(/[a-z0-9.-]{1,4}(/[A-Z_a-z]{1,3})?)?)?".prop_map(|t| t.parse().unwrap())
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)]
}

fn kind() -> impl Strategy<Value = ServiceType> {
    prop_oneof![Just(ServiceType::ClusterSetIP), Just(ServiceType::Headless)]
}

fn affinity() -> impl Strategy<Value = Affinity> {
    option::of(any::<u32>())
        .prop_map(|t| t.map_or(Affinity::None, |timeout_seconds| Affinity::ClientIp { timeout_seconds }))
}

fn port_name() -> impl Strategy<Value = PortName> {
    label().prop_map(|l| l.as_str().parse().unwrap())
}

fn port() -> impl Strategy<Value = Port> {
    (option::of(port_name()), protocol(), option::of("[a-z/.0-9]{1,9}"), 1u16..)
        .prop_map(|(name, protocol, app_protocol, port)| Port { name, protocol, app_protocol, port })
}

fn counts() -> impl Strategy<Value = Vec<EndpointCount>> {
    let count = (locality(), 0u32..1000, 0u32..1000).prop_map(|(locality, ready, more)| EndpointCount {
        locality,
        ready,
        total: ready + more,
    });
    vec(count, 0..3).prop_map(sorted)
}

fn sorted<T: Ord>(mut items: Vec<T>) -> Vec<T> {
    items.sort();
    items
}

fn hosts() -> impl Strategy<Value = Vec<Host>> {
    vec((label(), any::<bool>()).prop_map(|(hostname, ready)| Host { hostname, ready }), 0..3)
        .prop_map(sorted)
}

fn texts() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map("[a-z./]{1,8}", ".{0,12}", 0..3)
}

fn traffic() -> impl Strategy<Value = Traffic> {
    let internal = prop_oneof![Just(InternalTraffic::Cluster), Just(InternalTraffic::Local)];
    (internal, option::of("[A-Za-z0-9]{1,12}"))
        .prop_map(|(internal, distribution)| Traffic { internal, distribution })
}

fn export() -> impl Strategy<Value = Export> {
    let one = (service(), any::<u64>(), kind(), vec(port(), 0..4), (affinity(), traffic()));
    (one, texts(), texts(), counts(), hosts()).prop_map(|(one, labels, annotations, endpoints, hosts)| {
        let (service, created, kind, ports, (affinity, traffic)) = one;
        Export { service, created, kind, ports, affinity, traffic, labels, annotations, endpoints, hosts }
    })
}

fn gateway() -> impl Strategy<Value = GatewayInfo> {
    let address = prop_oneof![
        Just("10.0.0.1:15443".to_owned()),
        Just("[2001:db8::1]:15443".to_owned()),
        Just("gw-1.example.org:443".to_owned())
    ];
    (label(), locality(), vec(address, 0..3), any::<bool>())
        .prop_map(|(id, locality, addresses, draining)| GatewayInfo { id, locality, addresses, draining })
}

fn gateways() -> impl Strategy<Value = BTreeMap<NodeId, GatewayInfo>> {
    vec(gateway(), 0..3).prop_map(|all| all.into_iter().map(|g| (g.id.clone(), g)).collect())
}

fn denied() -> impl Strategy<Value = BTreeSet<String>> {
    btree_set("spiffe://[a-z]{1,4}/hansa/gateway/g|.{1,9}", 0..3)
}

fn a_catalog() -> impl Strategy<Value = Catalog> {
    let info = (cluster(), locality(), ".{0,20}", texts());
    (info, gateways(), vec(export(), 0..4), denied()).prop_map(
        |((id, locality, bundle, properties), gateways, exports, deny)| {
            let trust_domain = format!("{id}.example").parse().unwrap();
            let cluster = ClusterInfo { id, trust_domain, locality, bundle: bundle.into(), properties };
            let exports = exports.into_iter().map(|e| (e.service.clone(), e)).collect();
            Catalog { cluster, gateways, exports, deny }
        },
    )
}

fn vips() -> impl Strategy<Value = BTreeMap<NodeId, Vec<IpAddr>>> {
    btree_map(label(), vec(any::<IpAddr>(), 0..3), 0..3)
}

fn port_set() -> impl Strategy<Value = BTreeSet<(Protocol, u16)>> {
    btree_set((protocol(), 1u16..), 0..3)
}

fn local() -> impl Strategy<Value = LocalService> {
    let target = (protocol(), 1u16.., 1u16..).prop_map(|(protocol, service, target)| TargetPort {
        protocol,
        service,
        target,
    });
    let endpoint = (any::<IpAddr>(), option::of(label()), any::<bool>(), locality(), vec(target, 0..3))
        .prop_map(|(address, hostname, ready, locality, ports)| LocalEndpoint {
            address,
            hostname,
            ready,
            locality,
            ports,
        });
    (option::of(btree_set(cluster(), 0..3)), vec(endpoint, 0..4).prop_map(sorted))
        .prop_map(|(export_to, endpoints)| LocalService { export_to, endpoints })
}

fn route() -> impl Strategy<Value = ServiceRoute> {
    let candidate = (port_set(), counts());
    let host = (cluster(), label(), any::<bool>(), vips())
        .prop_map(|(cluster, hostname, ready, vips)| HostRoute { cluster, hostname, ready, vips });
    let one = (service(), kind(), vec(port(), 0..3), affinity(), vips());
    (one, btree_map(cluster(), candidate, 0..3), vec(host, 0..3), option::of(local())).prop_map(
        |((service, kind, ports, affinity, vips), clusters, hosts, local)| ServiceRoute {
            service,
            kind,
            ports,
            affinity,
            vips,
            clusters: clusters
                .into_iter()
                .map(|(id, (ports, endpoints))| Candidate::new(id, &ports, endpoints))
                .collect(),
            hosts,
            local,
        },
    )
}

fn peer() -> impl Strategy<Value = Peer> {
    let transport = prop_oneof![Just(Transport::Auto), Just(Transport::Quic), Just(Transport::Http2)];
    (cluster(), locality(), ".{0,9}", gateways(), transport, denied()).prop_map(
        |(cluster, locality, bundle, gateways, transport, deny)| Peer {
            trust_domain: format!("{cluster}.example").parse().unwrap(),
            cluster,
            locality,
            bundle: bundle.into(),
            gateways,
            transport,
            deny,
        },
    )
}

fn sibling() -> impl Strategy<Value = Sibling> {
    let relay = option::of((any::<IpAddr>(), 1u16..).prop_map(Into::into));
    let block = prop_oneof![Just("10.1.0.0/16".parse().unwrap()), Just("fd00::/64".parse().unwrap())];
    (label(), relay, vec(block, 0..3), any::<bool>()).prop_map(|(id, relay, blocks, draining)| Sibling {
        id,
        relay,
        blocks,
        draining,
    })
}

fn a_table() -> impl Strategy<Value = RouteTable> {
    let own = (cluster(), locality(), ".{0,9}", btree_set("[0-9a-f]{8}", 0..3), any::<(u64, u64)>());
    (own, vec(peer(), 0..3), vec(sibling(), 0..3), vec(route(), 0..4)).prop_map(
        |(own, peers, siblings, routes)| {
            let (cluster, locality, bundle, deny, (hold_down_ms, ramp_ms)) = own;
            RouteTable {
                trust_domain: format!("{cluster}.example").parse().unwrap(),
                cluster,
                locality,
                bundle: bundle.into(),
                deny,
                failback: Failback { hold_down_ms, ramp_ms },
                peers: peers.into_iter().map(|p| (p.cluster.clone(), p)).collect(),
                siblings: siblings.into_iter().map(|s| (s.id.clone(), s)).collect(),
                services: routes.into_iter().map(Arc::new).collect(),
            }
        },
    )
}

fn a_zone() -> impl Strategy<Value = Zone> {
    let port = (option::of(port_name()), protocol(), 1u16..).prop_map(|(name, protocol, port)| ZonePort {
        name,
        protocol,
        port,
    });
    let host = (label(), cluster(), any::<bool>(), vec(any::<IpAddr>(), 0..3))
        .prop_map(|(hostname, cluster, ready, ips)| ZoneHost { hostname, cluster, ready, ips });
    let one = (service(), kind(), vec(port, 0..3), vec(any::<IpAddr>(), 0..3), vec(host, 0..3))
        .prop_map(|(service, kind, ports, ips, hosts)| ZoneService { service, kind, ports, ips, hosts });
    vec(one, 0..5).prop_map(|all| {
        let mut zone = Zone::default();
        all.into_iter().for_each(|service| zone.insert(service));
        zone
    })
}

fn a_report() -> impl Strategy<Value = GatewayReport> {
    let reach = prop_oneof![
        Just(Reach::Reachable),
        Just(Reach::Suspect),
        Just(Reach::Unreachable),
        Just(Reach::Unknown)
    ];
    let tunnel =
        (any::<u32>(), any::<u64>()).prop_map(|(tunnels, streams)| TunnelReport { tunnels, streams });
    let lane = prop_oneof![Just(String::new()), Just("quic".to_owned()), Just("http2".to_owned())];
    let peer = (reach, any::<Option<u64>>(), btree_map(label(), tunnel, 0..3), lane, any::<Option<u64>>())
        .prop_map(|(reach, packet_age_ms, gateways, transport, rtt_us)| PeerReport {
            reach,
            packet_age_ms,
            gateways,
            transport,
            rtt_us,
        });
    (any::<u64>(), btree_map(cluster(), peer, 0..3)).prop_map(|(bound_version, peers)| GatewayReport {
        bound_version,
        unbound: Vec::new(),
        peers,
    })
}

fn take(rows: &mut impl Apply, from: impl IntoIterator<Item = (String, Bytes)>) {
    let all: Vec<(String, Bytes)> = from.into_iter().collect();
    let refused = rows.apply(&all, &[], true);
    assert_eq!(refused, []);
}

fn junk() -> impl Strategy<Value = (String, Bytes)> {
    let key = prop_oneof![
        Just("cluster".to_owned()),
        Just("deny".to_owned()),
        Just("self".to_owned()),
        "(gateway|export|peer|sibling|service)/[a-c]{1,2}(/[a-c]{1,2})?",
        ".{0,20}"
    ];
    (key, vec(any::<u8>(), 0..80)).prop_map(|(key, body)| (key, body.into()))
}

#[test]
fn a_deny_list_is_bounded_and_the_former_one_stays() {
    let entries = |count: usize, length: usize| {
        let entry = |n: usize| format!("{n:0length$}");
        (0..count).map(entry).collect::<Vec<_>>()
    };
    let row = |entries: Vec<String>| {
        let row = hansa_proto::wire::catalog::v1::DenyRow { entries };
        vec![("deny".to_owned(), Bytes::from(prost::Message::encode_to_vec(&row)))]
    };
    let mut rows = catalog::CatalogRows::default();
    assert!(rows.apply(&row(entries(catalog::MAX_DENIED, 9)), &[], true).is_empty());
    assert_eq!(rows.denied().count(), catalog::MAX_DENIED, "also without the row of the cluster");
    for bad in [entries(catalog::MAX_DENIED + 1, 9), entries(1, catalog::MAX_DENIED_TEXT + 1)] {
        assert_eq!(rows.apply(&row(bad), &[], false)[0].key, "deny");
        assert_eq!(rows.denied().count(), catalog::MAX_DENIED);
    }
    assert!(rows.apply(&[], &["deny".to_owned()], false).is_empty());
    assert_eq!(rows.denied().count(), 0, "a row that goes takes its entries along");
}

proptest! {
    #[test]
    fn catalogs_come_back(before in a_catalog(), value in a_catalog()) {
        let mut rows = catalog::CatalogRows::default();
        take(&mut rows, catalog::rows(&before));
        take(&mut rows, catalog::rows(&value));
        prop_assert_eq!(rows.catalog(), Some(value));
    }

    #[test]
    fn tables_come_back(before in a_table(), value in a_table()) {
        let mut rows = routes::RouteRows::default();
        take(&mut rows, routes::rows(&before));
        take(&mut rows, routes::rows(&value));
        let first = rows.table();
        prop_assert_eq!(first.as_ref(), Some(&value));
        // Said again, nothing moves.
        take(&mut rows, routes::rows(&value));
        for (name, route) in rows.table().unwrap().services.iter() {
            prop_assert!(Arc::ptr_eq(route, &first.as_ref().unwrap().services[name]));
        }
    }

    #[test]
    fn zones_come_back(before in a_zone(), value in a_zone(), id in cluster()) {
        let mut rows = zone::ZoneRows::default();
        prop_assert!(rows.zone().is_none());
        take(&mut rows, zone::rows(&id, "{}", &before));
        take(&mut rows, zone::rows(&id, "{}", &value));
        let now = rows.zone();
        prop_assert_eq!(now.as_deref(), Some(&value));
        prop_assert_eq!(rows.cluster(), Some(&id));
    }

    #[test]
    fn reports_come_back(value in a_report()) {
        prop_assert_eq!(report::report(report::report_to(&value)).unwrap(), value);
    }

    #[test]
    fn junk_is_refused_and_changes_nothing_else(value in a_table(), junk in vec(junk(), 0..20)) {
        let mut tables = routes::RouteRows::default();
        let mut catalogs = catalog::CatalogRows::default();
        let mut zones = zone::ZoneRows::default();
        take(&mut tables, routes::rows(&value));
        let keys: Vec<String> = junk.iter().map(|row| row.0.clone()).collect();
        let refused = tables.apply(&junk, &[], false);
        let touched = |key: String| keys.contains(&key);
        let now = tables.table().unwrap();
        for (name, route) in value.services.iter() {
            if !touched(format!("service/{name}")) {
                prop_assert_eq!(now.services.get(name), Some(route));
            }
        }
        prop_assert!(refused.iter().all(|r| r.reason.len() < 4_000));
        catalogs.apply(&junk, &keys, true);
        zones.apply(&junk, &keys, true);
        tables.apply(&[], &keys, false);
    }

    #[test]
    fn saved_rows_come_back(rows in btree_map(".{0,9}", vec(any::<u8>(), 0..20), 0..9), at in any::<(u64, u64, u128)>(), cut in any::<proptest::sample::Index>(), flip in 1u8..) {
        let rows = rows.into_iter().map(|(key, body)| (key, Bytes::from(body))).collect();
        let saved = Saved { position: Position { epoch: at.0, version: at.1, digest: at.2 }, rows };
        let mut bytes = saved.encode();
        prop_assert_eq!(&Saved::decode(&bytes).unwrap(), &saved);
        let cut = cut.index(bytes.len());
        prop_assert!(Saved::decode(&bytes[..cut]).is_err());
        bytes[cut] ^= flip;
        prop_assert!(Saved::decode(&bytes).is_err());
    }

    #[test]
    fn saved_junk_never_panics(bytes in vec(any::<u8>(), 0..200)) {
        let _ = Saved::decode(&bytes);
        let _ = Saved::decode(&[b"hansaf01".as_slice(), &bytes].concat());
    }

    #[test]
    fn addresses_are_host_and_port(text in "[a-z0-9.:\\[\\]/ -]{0,30}") {
        let node = NodeInfo { addresses: vec![text.clone()], ..NodeInfo::default() };
        if report::node(report::node_to(&node)).is_ok() {
            let (_, port) = text.rsplit_once(':').unwrap();
            prop_assert!(port.parse::<u16>().unwrap() > 0);
        }
    }
}

#[test]
fn a_row_under_a_foreign_key_is_refused_and_the_former_stays() {
    let mut zone = Zone::default();
    zone.insert(ZoneService {
        service: ServiceName::new("a", "b").unwrap(),
        kind: ServiceType::ClusterSetIP,
        ports: Vec::new(),
        ips: Vec::new(),
        hosts: Vec::new(),
    });
    let all = zone::rows(&"east".parse().unwrap(), "", &zone);
    let mut rows = zone::ZoneRows::default();
    take(&mut rows, all.clone());
    let body = all["service/a/b"].clone();
    let bad = [("service/a/c".to_owned(), body), ("service/a/b".to_owned(), Bytes::from_static(b"\xff"))];
    let refused = rows.apply(&bad, &[], false);
    assert_eq!(refused.len(), 2);
    assert_eq!(refused[0].reason, "the row is for a/b");
    assert_eq!(rows.zone().unwrap().services.len(), 1);
}
