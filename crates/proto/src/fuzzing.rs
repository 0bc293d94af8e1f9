//! Entry points for fuzzers and the replay test: what other servers send, and what lies on the disk.
//! Each takes any bytes, must not panic, and states the law of its parser. Never called in
//! production.

use std::collections::BTreeMap;
use std::fmt::Debug;

use bytes::Bytes;
use hansa_core::catalog::Protocol;
use hansa_core::locality::Locality;
use hansa_core::merge::merge;
use hansa_core::policy::{self, Accept};
use hansa_core::route::{self, Standing};
use hansa_core::zone::{self, Qtype};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::convert::catalog::CatalogRows;
use crate::convert::routes::RouteRows;
use crate::convert::zone::ZoneRows;
use crate::convert::{Apply, Rows, catalog, report, routes, zone as zone_rows};
use crate::feed::{Saved, assemble_law};
use crate::wire::feed::v1 as pb;

/// A target: its name and what it does with the input.
pub type FuzzTarget = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[FuzzTarget] = &[
    ("rows_catalog", catalog_law),
    ("rows_routes", routes_law),
    ("rows_zone", zone_law),
    ("report", report_law),
    ("saved", saved_law),
    ("delta", assemble_law),
];

/// Rows as one input: for each a byte of key length, two of body length, key, body.
pub fn pack(rows: &Rows) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, body) in rows {
        out.push(u8::try_from(key.len()).unwrap_or(u8::MAX));
        out.extend(u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend(key.bytes().take(255));
        out.extend(body.iter().take(65_535));
    }
    out
}

fn unpack(mut data: &[u8]) -> Vec<(String, Bytes)> {
    let mut rows = Vec::new();
    while let [key, high, low, rest @ ..] = data {
        let (key, rest) = rest.split_at(rest.len().min((*key).into()));
        let length = u16::from_be_bytes([*high, *low]);
        let (body, rest) = rest.split_at(rest.len().min(length.into()));
        rows.push((String::from_utf8_lossy(key).into_owned(), Bytes::copy_from_slice(body)));
        data = rest;
    }
    rows
}

/// Sets all rows, and reads what was taken from its own encoding: the same. What goes, goes.
fn rows_law<R, V>(data: &[u8], value: impl Fn(&R) -> Option<V>, write: impl Fn(&V) -> Rows) -> Option<V>
where
    R: Apply + Default,
    V: PartialEq + Debug,
{
    let mut rows = R::default();
    for refusal in rows.apply(&unpack(data), &[], true) {
        assert!(refusal.reason.len() < 5_000 && !refusal.reason.contains('\x1b'), "{:?}", refusal.reason);
    }
    let taken = value(&rows);
    if let Some(taken) = &taken {
        let written: Vec<_> = write(taken).into_iter().collect();
        let mut again = R::default();
        assert_eq!(again.apply(&written, &[], true), [], "what was taken is refused");
        assert_eq!(value(&again).as_ref(), Some(taken), "changed on the way");
    }
    for key in rows.keys() {
        rows.unset(&key);
    }
    assert_eq!(rows.keys(), Vec::<String>::new(), "a row cannot be removed");
    taken
}

/// A peer's catalog; what was taken can be merged with itself under another name.
fn catalog_law(data: &[u8]) {
    let Some(taken) = rows_law(data, CatalogRows::catalog, catalog::rows) else { return };
    let (accepted, _) = policy::accept(&Accept::default(), taken);
    let mut other = accepted.clone();
    if let Ok(id) = "zz-other".parse() {
        other.cluster.id = id;
    }
    for export in accepted.exports.values() {
        let _ = export.ready();
    }
    assert_eq!(merge([&accepted, &other]), merge([&other, &accepted]), "the order matters");
}

/// A gateway's table; every service of it can be spread and drawn.
fn routes_law(data: &[u8]) {
    let Some(table) = rows_law(data, RouteRows::table, routes::rows) else { return };
    for service in table.services.values() {
        for port in &service.ports {
            let standing = |_: &_| Standing::HEALTHY;
            let spread = route::spread(service, (port.protocol, port.port), &table.locality, standing);
            let sum: f64 = spread.shares().values().sum();
            let empty = spread.tiers.iter().flat_map(|t| &t.candidates).all(|c| c.endpoints == 0);
            assert!((sum - f64::from(!empty)).abs() < 1e-6, "shares sum to {sum}");
            let _ = (spread.order(0.0), spread.order(0.999_999));
        }
        let spread = route::spread(service, (Protocol::Udp, 1), &Locality::default(), |_| Standing::HEALTHY);
        let _ = spread.order(0.5);
    }
}

/// A DNS server's rows; every service of them answers every type.
fn zone_law(data: &[u8]) {
    let mut rows = ZoneRows::default();
    rows.apply(&unpack(data), &[], true);
    let own = (rows.cluster().cloned(), rows.bundle().cloned());
    let write = |zone: &std::sync::Arc<zone::Zone>| match &own {
        (Some(cluster), Some(bundle)) => zone_rows::rows(cluster, bundle, zone),
        _ => BTreeMap::new(),
    };
    let Some(zone) = rows_law(data, ZoneRows::zone, write) else { return };
    for service in zone.services.values() {
        let name = service.service.fqdn();
        for qtype in [Qtype::A, Qtype::Aaaa, Qtype::Srv, Qtype::Txt, Qtype::Any, Qtype::Other] {
            let _ = zone::answer(&zone, &name, qtype);
            for host in &service.hosts {
                let _ = zone::answer(&zone, &format!("{}.{}.{name}", host.hostname, host.cluster), qtype);
            }
            for port in &service.ports {
                let port = port.name.as_ref().map(ToString::to_string).unwrap_or_default();
                let _ = zone::answer(&zone, &format!("_{port}._tcp.{name}"), qtype);
            }
        }
    }
}

/// What followers say of themselves.
fn report_law(data: &[u8]) {
    if let Ok(Ok(taken)) = pb::GatewayReport::decode(data).map(report::report) {
        assert_eq!(report::report(report::report_to(&taken)).as_ref(), Ok(&taken));
    }
    if let Ok(Ok(taken)) = pb::NodeInfo::decode(data).map(report::node) {
        assert_eq!(report::node(report::node_to(&taken)).as_ref(), Ok(&taken));
    }
    if let Ok(ack) = pb::Ack::decode(data) {
        let _ = report::refusals(ack.refusals);
        let conflicts = report::conflicts(ack.conflicts);
        assert_eq!(report::conflicts(report::conflicts_to(&conflicts)), conflicts);
    }
    let _ = pb::FollowerMessage::decode(data);
}

/// A file as it lies there, and the same with its checksum made right.
fn saved_law(data: &[u8]) {
    let mut right = data.to_vec();
    right.extend_from_slice(&Sha256::digest(data));
    for file in [data, &right] {
        if let Ok(saved) = Saved::decode(file) {
            assert_eq!(Saved::decode(&saved.encode()), Ok(saved));
        }
    }
}
