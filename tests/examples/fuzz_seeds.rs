//! Writes the seeds of the fuzz targets to `fuzz/corpus`: small, valid inputs made by our own
//! encoders, from which fuzzers and the replay test start. To be run by hand after a format changed:
//! `cargo run -p hansa-tests --example fuzz_seeds`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use hansa_core::catalog::{
    Affinity, Catalog, ClusterInfo, EndpointCount, Export, GatewayInfo, Host, Port, Protocol, ServiceType,
};
use hansa_core::name::ServiceName;
use hansa_core::spiffe::{Role, SpiffeId};
use hansa_core::table::Table;
use hansa_core::zone::{Zone, ZoneHost, ZonePort, ZoneService};
use hansa_http3::frame::{self, kind};
use hansa_http3::{RequestHead, ResponseHead, Settings, capsule, datagram, varint};
use hansa_identity::ca::{Ca, CaOptions};
use hansa_identity::store::KeyRequest;
use hansa_identity::token::{EnrollToken, InviteToken, Secret, new_secret_id};
use hansa_proto::convert::{Rows, catalog, zone};
use hansa_proto::feed::{Position, Saved};
use hansa_proto::fuzzing::pack;
use hansa_proto::wire::common::v1 as common;
use hansa_proto::wire::feed::v1 as feed;
use hansa_proto::wire::routes::v1 as routes;
use prost::Message as _;

fn main() -> Result<()> {
    let corpus = Corpus(Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus"));
    texts(&corpus)?;
    http3(&corpus)?;
    identity(&corpus)?;
    rows(&corpus)?;
    gateway(&corpus)?;
    packets(&corpus)
}

struct Corpus(PathBuf);

impl Corpus {
    fn put(&self, target: &str, name: &str, bytes: impl AsRef<[u8]>) -> Result<()> {
        let folder = self.0.join(target);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(name), bytes).with_context(|| format!("{target}/{name}"))
    }
}

fn texts(corpus: &Corpus) -> Result<()> {
    for (name, text) in [
        ("cluster", "east.aws"),
        ("service", "shop/checkout"),
        ("fqdn", "checkout.shop.svc.clusterset.local"),
        ("target", "checkout.shop.svc.clusterset.local:80"),
        ("host", "kafka-0.east.aws.kafka.data.svc.clusterset.local:9092"),
    ] {
        corpus.put("core_names", name, text)?;
    }
    for (name, text) in [
        ("domain", "aws-eu.example.org"),
        ("gateway", "spiffe://aws-eu.example.org/hansa/gateway/g-1"),
        ("controller", "spiffe://aws-eu.example.org/hansa/controller"),
        ("workload", "spiffe://aws-eu.example.org/ns/shop/sa/checkout"),
    ] {
        corpus.put("core_spiffe", name, text)?;
    }
    corpus.put("core_locality", "zoned", "aws/eu-central-1/a\nb")?;
    corpus.put("core_locality", "region", "onprem/berlin\nrack-7")?;
    for (name, text) in [
        ("apex", "clusterset.local"),
        ("version", "dns-version.clusterset.local"),
        ("service", "checkout.shop.svc.clusterset.local"),
        ("srv", "_http._tcp.checkout.shop.svc.clusterset.local"),
        ("host", "kafka-0.aws-eu.kafka.data.svc.clusterset.local"),
        ("other", "checkout.shop.svc.cluster.local"),
    ] {
        corpus.put("core_question", name, text)?;
    }
    let config = "id: g-1\nkeepFor: 1h30m\nmost: 64MiB\ninner: {list: [{id: a}]}\nlisten: \"[::1]:53\"\n";
    corpus.put("runtime_config", "whole", config)?;
    corpus.put("runtime_units", "duration", "1h30m")?;
    corpus.put("runtime_units", "size", "64MiB")?;
    corpus.put("api_manifests", "export", MANIFEST)?;
    corpus.put("api_manifests", "list", LIST)?;
    corpus.put("api_manifests", "alias", "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n")
}

const MANIFEST: &str = r#"apiVersion: v1
kind: Service
metadata: {name: checkout, namespace: shop}
spec:
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}
  ports:
  - {name: http, port: 80, targetPort: 8080, appProtocol: http}
  - {name: dns, port: 53, protocol: UDP, targetPort: dns}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: checkout-1
  namespace: shop
  labels: {kubernetes.io/service-name: checkout}
addressType: IPv4
ports: [{name: http, port: 8080}, {name: dns, port: 5353, protocol: UDP}]
endpoints:
- {addresses: [10.0.0.7], zone: a, conditions: {ready: true}, hostname: checkout-0}
- {addresses: [10.0.0.8], conditions: {ready: false}}
---
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata:
  name: checkout
  namespace: shop
  creationTimestamp: "2026-01-02T03:04:05Z"
  annotations: {hansa.dev/export-to: "gcp-eu,rack-1"}
spec: {exportedLabels: {team: shop}, exportedAnnotations: {tier: gold}}
"#;

const LIST: &str = r#"apiVersion: v1
kind: List
items:
- apiVersion: hansa.dev/v1alpha1
  kind: ClusterPeer
  metadata: {name: gcp-eu}
  spec:
    trustDomain: gcp-eu.example.org
    gateways: ["192.0.2.1:15443", "[2001:db8::1]:15443"]
    bundle: "{}"
    transport: auto
    accept: {namespaces: [shop], maxRows: 10, localityPrefix: gcp}
- {apiVersion: about.k8s.io/v1beta1, kind: ClusterProperty, metadata: {name: cluster.clusterset.k8s.io}, spec: {value: aws-eu}}
- {apiVersion: apps/v1, kind: Deployment, metadata: {name: x}}
"#;

fn http3(corpus: &Corpus) -> Result<()> {
    let unsendable = |reason: &str| anyhow::anyhow!("{reason}");
    for value in [0, 63, 64, 16_384, 1 << 30, varint::MAX] {
        let mut out = Vec::new();
        varint::encode(value, &mut out);
        corpus.put("http3_varint", &value.to_string(), out)?;
    }
    let tunnel = RequestHead::connect("checkout.shop.svc.clusterset.local:80");
    let mut udp = RequestHead::extended_connect("connect-udp", "gw:1", "/.well-known/masque/udp/h/53/");
    udp.headers.insert("capsule-protocol", http::HeaderValue::from_static("?1"));
    udp.headers.insert("authorization", http::HeaderValue::from_static("Bearer x"));
    let answer = ResponseHead::new(http::StatusCode::SERVICE_UNAVAILABLE);
    for (name, block) in [
        ("connect", tunnel.encode().map_err(unsendable)?.finish()),
        ("udp", udp.encode().map_err(unsendable)?.finish()),
        ("answer", answer.encode().map_err(unsendable)?.finish()),
    ] {
        corpus.put("http3_qpack", name, &block)?;
        let data = frame::encode(kind::DATA, b"hello");
        let grease = frame::encode(0x21, b"grease");
        corpus.put(
            "http3_frame",
            name,
            [&frame::encode(kind::HEADERS, &block)[..], &grease, &data].concat(),
        )?;
    }
    let settings = Settings {
        max_field_section: Some(65_536),
        extended_connect: true,
        datagrams: true,
        ..Settings::default()
    };
    let settings = settings.encode();
    corpus.put("http3_settings", "ours", &settings[2..])?;
    corpus.put("http3_control", "goaway", [&settings[..], &[7, 1, 4, 7, 1, 0]].concat())?;
    corpus.put("http3_control", "push", [&settings[..], &[0x0d, 1, 8, 3, 1, 0]].concat())?;
    // RFC 7541 C.4.1: "www.example.com".
    corpus.put("http3_huffman", "rfc7541", b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff")?;
    corpus.put("http3_qpack_streams", "capacity", [0x20])?;
    corpus.put("http3_qpack_streams", "cancel", [0x44, 0x7f, 0x01])?;
    let mut capsules = Vec::new();
    capsule::encode(0x29, b"unknown", &mut capsules);
    capsule::encode(capsule::DATAGRAM, b"\0payload", &mut capsules);
    corpus.put("http3_capsule", "two", capsules)?;
    corpus.put("http3_datagram", "first", datagram::encode(0, &b"\0payload"[..]))?;
    corpus.put("http3_datagram", "late", datagram::encode(70_000, &b"\0"[..]))
}

/// A fixed time: seeds differ only where keys do.
fn identity(corpus: &Corpus) -> Result<()> {
    let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let ca = Ca::create("fuzz.example".parse()?, CaOptions::default(), now)?;
    corpus.put("identity_bundle", "fresh", ca.bundle().to_json())?;
    let role = Role::Gateway("g".parse()?);
    let request = KeyRequest::new(SpiffeId::of(&"fuzz.example".parse()?, &role))?;
    corpus.put("identity_signing_request", "gateway", request.csr())?;
    let issued = ca.sign(&role, request.csr(), now)?;
    corpus.put("identity_leaf", "gateway", &issued)?;
    let (cluster, secret_id) = ("fuzz".parse()?, new_secret_id());
    let expires = 1_800_000_000;
    let enroll = EnrollToken {
        controllers: vec!["10.0.0.1:15012".into()],
        cluster,
        root_sha256: ca.active_root().fingerprint(),
        id: SpiffeId::of(&"fuzz.example".parse()?, &role),
        secret_id: secret_id.clone(),
        secret: Secret::from_bytes([0; 32]),
        expires,
    };
    corpus.put("identity_token", "enroll", enroll.to_text())?;
    let invite = InviteToken {
        cluster: "fuzz".parse()?,
        trust_domain: "fuzz.example".parse()?,
        gateways: vec!["192.0.2.1:15443".into()],
        bundle: ca.bundle().to_json(),
        secret_id,
        secret: Secret::from_bytes([0; 32]),
        expires,
    };
    corpus.put("identity_token", "invite", invite.to_text())?;
    // Without its key: none is ever written here, not even one that means nothing.
    let mut state: serde_json::Value = serde_json::from_str(&ca.to_state()?)?;
    state["active"]["key"] = "".into();
    corpus.put("identity_ca_state", "shape", state.to_string())?;
    corpus.put("identity_token", "sha256", format!("sha256:{}", "0a".repeat(32)))?;
    corpus.put("identity_token", "serial", "serial:00af")
}

fn gateway(corpus: &Corpus) -> Result<()> {
    let udp = "connect-udp\ngw:1\n/.well-known/masque/udp/telemetry.ops.svc.clusterset.local/53/";
    corpus.put("gateway_connect", "udp", udp)?;
    corpus.put("gateway_connect", "tcp", "\ncheckout.shop.svc.clusterset.local:80\n")?;
    corpus.put("gateway_datagram", "short", [0x40, 1, 2, 3, 4, 5, 6, 7, 8, 9])?;
    corpus.put("gateway_datagram", "long", [0xc0, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0])?;
    let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let ca = Ca::create("fuzz.example".parse()?, CaOptions::default(), now)?;
    corpus.put("gateway_join_bundle", "fresh", ca.bundle().to_json())?;
    // Who has fd00::7? Asked of its group, by fd00::1.
    let mut question =
        vec![0x33, 0x33, 0xff, 0, 0, 7, 2, 0, 0, 0, 0, 1, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255];
    let ips = ["fd00::1", "ff02::1:ff00:7"].map(|ip| ip.parse::<std::net::Ipv6Addr>());
    ips.into_iter().try_for_each(|ip| ip.map(|ip| question.extend(ip.octets())))?;
    question.extend([135, 0, 0, 0, 0, 0, 0, 0]);
    question.extend("fd00::7".parse::<std::net::Ipv6Addr>()?.octets());
    question.extend([1, 1, 2, 0, 0, 0, 0, 1]);
    corpus.put("gateway_neighbour", "question", question)?;
    let paths = r#"{"version":1,"paths":[{"path":{"peer":"b"},"track":{"state":"up"},"since":17},
        {"path":{"endpoint":"[::1]:80"},"track":{"state":"down","since":1,"failed_probes":2},"since":17}]}"#;
    corpus.put("gateway_paths", "one", paths)
}

fn sample() -> Result<Catalog> {
    let port = |name: &str, protocol, port| -> Result<Port> {
        Ok(Port { name: Some(name.parse()?), protocol, app_protocol: Some("http".into()), port })
    };
    let export = |name: &str, kind| -> Result<Export> {
        Ok(Export {
            service: ServiceName::new("shop", name)?,
            created: 1_700_000_000_000,
            kind,
            ports: vec![port("http", Protocol::Tcp, 80)?, port("dns", Protocol::Udp, 53)?],
            affinity: Affinity::ClientIp { timeout_seconds: 60 },
            traffic: Default::default(),
            labels: BTreeMap::from([("team".into(), "shop".into())]),
            annotations: BTreeMap::new(),
            endpoints: vec![EndpointCount { locality: "aws/eu/a".parse()?, ready: 2, total: 3 }],
            hosts: vec![Host { hostname: "pod-0".parse()?, ready: true }],
        })
    };
    let exports = [export("checkout", ServiceType::ClusterSetIP)?, export("kafka", ServiceType::Headless)?];
    let gateway = GatewayInfo {
        id: "g-1".parse()?,
        locality: "aws/eu/a".parse()?,
        addresses: vec!["192.0.2.1:15443".into(), "[2001:db8::1]:15443".into()],
        draining: false,
    };
    Ok(Catalog {
        cluster: ClusterInfo {
            id: "aws-eu".parse()?,
            trust_domain: "aws-eu.example.org".parse()?,
            locality: "aws/eu".parse()?,
            bundle: "{}".into(),
            properties: BTreeMap::from([("k".into(), "v".into())]),
        },
        gateways: BTreeMap::from([(gateway.id.clone(), gateway)]),
        exports: exports.into_iter().map(|export| (export.service.clone(), export)).collect(),
        deny: BTreeSet::from(["spiffe://aws-eu.example.org/hansa/gateway/g-2".into()]),
    })
}

fn sample_zone() -> Result<Zone> {
    let mut zone = Zone::default();
    for (name, kind) in [("checkout", ServiceType::ClusterSetIP), ("kafka", ServiceType::Headless)] {
        let ips = vec!["10.1.0.1".parse()?, "fd00::1".parse()?];
        let (hostname, cluster) = ("pod-0".parse()?, "aws-eu".parse()?);
        zone.insert(ZoneService {
            service: ServiceName::new("shop", name)?,
            kind,
            ports: vec![ZonePort { name: Some("http".parse()?), protocol: Protocol::Tcp, port: 80 }],
            ips: ips.clone(),
            hosts: vec![ZoneHost { hostname, cluster, ready: true, ips }],
        });
    }
    Ok(zone)
}

/// Encoded by hand from messages, because a table has many parts of which most may be absent.
fn route_rows() -> Rows {
    let vips = || vec![routes::Vips { gateway: "g-1".into(), addresses: vec!["10.1.0.1".into()] }];
    let port = common::Port { name: "http".into(), protocol: 1, port: 80, ..Default::default() };
    let count = common::EndpointCount { locality: "gcp/eu/a".into(), ready: 2, total: 2 };
    let service = routes::ServiceRow {
        namespace: "shop".into(),
        name: "checkout".into(),
        kind: 1,
        ports: vec![port],
        vips: vips(),
        clusters: vec![routes::Candidate {
            cluster: "gcp-eu".into(),
            ports: vec![common::PortRef { protocol: 1, port: 80 }],
            endpoints: vec![count],
        }],
        local: Some(routes::LocalService {
            endpoints: vec![routes::LocalEndpoint {
                address: "10.0.0.7".into(),
                ready: true,
                ports: vec![routes::TargetPort { protocol: 1, service: 80, target: 8080 }],
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..Default::default()
    };
    let own = routes::SelfRow {
        cluster: "aws-eu".into(),
        trust_domain: "aws-eu.example.org".into(),
        locality: "aws/eu".into(),
        ..Default::default()
    };
    let rows = [("self", own.encode_to_vec()), ("service/shop/checkout", service.encode_to_vec())];
    rows.into_iter().map(|(key, body)| (key.to_owned(), Bytes::from(body))).collect()
}

fn rows(corpus: &Corpus) -> Result<()> {
    let rows = catalog::rows(&sample()?);
    corpus.put("proto_rows_catalog", "sample", pack(&rows))?;
    corpus.put("proto_rows_zone", "sample", pack(&zone::rows(&"aws-eu".parse()?, "{}", &sample_zone()?)))?;
    corpus.put("proto_rows_routes", "sample", pack(&route_rows()))?;

    let table = Table::at(1, rows.clone());
    let to = Position { epoch: 1, version: 1, digest: table.digest() };
    let saved = Saved { position: to, rows: rows.clone() }.encode();
    corpus.put("proto_saved", "whole", &saved)?;
    // The target appends the checksum itself.
    corpus.put("proto_saved", "body", &saved[..saved.len() - 32])?;
    let wire = |(key, body): (&String, &Bytes)| feed::Row { key: key.clone(), body: body.clone() };
    let delta = feed::Delta {
        from: None,
        to: Some(to.into()),
        part: 0,
        last: true,
        rows: rows.iter().map(wire).collect(),
        removed: vec![],
    };
    corpus.put("proto_delta", "snapshot", delta.encode_length_delimited_to_vec())?;

    let tunnel = feed::TunnelReport { id: "g-1".into(), tunnels: 2, streams: 9 };
    let peer = feed::PeerReport {
        cluster: "gcp-eu".into(),
        reach: "reachable".into(),
        gateways: vec![tunnel],
        transport: "quic".into(),
        rtt_us: Some(900),
        ..Default::default()
    };
    let report = feed::GatewayReport { bound_version: 3, peers: vec![peer], ..Default::default() };
    corpus.put("proto_report", "gateway", report.encode_to_vec())?;
    let node =
        feed::NodeInfo { relay: "10.0.0.5:15012".into(), locality: "aws".into(), ..Default::default() };
    corpus.put("proto_report", "node", node.encode_to_vec())
}

/// A question for `name` of `qtype`, with EDNS if `payload` is given.
fn question(name: &str, qtype: u16, payload: Option<u16>) -> Vec<u8> {
    let mut out = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(payload.is_some())];
    for label in name.split('.') {
        out.push(u8::try_from(label.len()).unwrap_or(63));
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out.extend(qtype.to_be_bytes());
    out.extend([0, 1]);
    if let Some(payload) = payload {
        out.extend([0, 0, 41]);
        out.extend(payload.to_be_bytes());
        out.extend([0; 6]);
    }
    out
}

fn packets(corpus: &Corpus) -> Result<()> {
    for (name, question) in [
        ("a", question("s.n.svc.clusterset.local", 1, None)),
        ("srv", question("h.n.svc.clusterset.local", 33, Some(1232))),
        ("any", question("H.n.svc.ClusterSet.local", 255, Some(4096))),
        ("host", question("h-1.c.d.h.n.svc.clusterset.local", 28, None)),
        ("soa", question("clusterset.local", 6, Some(512))),
        ("missing", question("no.n.svc.clusterset.local", 1, Some(512))),
        ("other", question("example.org", 16, None)),
    ] {
        corpus.put("dns_packet", name, question)?;
    }
    let mut answer = b"\x12\x34\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00".to_vec();
    answer.extend(b"\x07example\x03com\x00\x00\x01\x00\x01");
    // The name by a pointer, A, IN, a minute, four octets.
    answer.extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xc0\x00\x02\x01");
    corpus.put("dns_upstream", "a", answer)?;
    corpus.put("dns_upstream", "missing", b"\x12\x34\x81\x83\x00\x00\x00\x00\x00\x00\x00\x00")
}
