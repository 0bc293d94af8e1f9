//! Bad input and faults of members, each with its code, and the rest that goes on.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "controller/support.rs"]
#[allow(dead_code, reason = "each test binary uses a part")]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hansa_controller::control::State;
use hansa_core::name::{ClusterId, NodeId};
use hansa_core::spiffe::Role;
use hansa_link::{Credential, Link};
use hansa_proto::convert;
use hansa_runtime::tasks::Tasks;
use serde_json::{Value, json};
use support::{Gateway, LONG, Member, Net, export, name};

fn code(answer: &(u16, Value)) -> &str {
    answer.1["code"].as_str().unwrap_or_default()
}

/// Two members that are peers, with a gateway each.
async fn peers(net: &Net) -> (Member, Gateway, Member, Gateway) {
    let (a, b) = (Member::new("a", net).await, Member::new("b", net).await);
    let (ga, gb) = (a.gateway("g-a").await, b.gateway("g-b").await);
    for member in [&a, &b] {
        member.until("its gateway in the catalog", gateway_known).await;
    }
    let joined = b.join(&a.invite().await).await;
    assert_eq!(joined.0, 200, "{joined:?}");
    (a, ga, b, gb)
}

fn gateway_known(state: &State) -> bool {
    state.view.borrow().as_ref().is_some_and(|view| !view.catalog.gateways.is_empty())
}

/// Waits until `status` names a problem with this code, and returns it.
async fn problem(member: &Member, code: &str) -> Value {
    let found = async {
        loop {
            let status = member.get("/v1/status").await;
            let all = status["problems"].as_array().unwrap();
            let found = all.iter().find(|p| p["code"] == code || p["cause"].as_str().unwrap().contains(code));
            if let Some(found) = found {
                return found.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, found).await.unwrap_or_else(|_| panic!("{} never told of {code}", member.id))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_member_of_the_same_name_is_refused_and_the_first_stays() {
    let net = Net::default();
    let (a, ga, b, _gb) = peers(&net).await;
    for (key, cluster, domain, expected) in [
        ("b-1", "b", "other.td", "HNS-4008"),
        ("b-2", "c", "b.hansa.internal", "HNS-4008"),
        ("b-3", "b", "b.hansa.internal", "HNS-4002"),
    ] {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let change = |config: &mut hansa_controller::Config| {
            config.cluster = cluster.parse().unwrap();
            config.trust_domain = Some(domain.parse().unwrap());
        };
        let twin = Member::with(key, &net, dir, change).await;
        let token = a.invite().await;
        let refused = twin.join(&token).await;
        assert_eq!(code(&refused), expected, "{key}: {refused:?}");
        assert!(twin.state.roster.all().is_empty(), "{key} has taken a half of a peering");
    }
    b.publish("web.yaml", &export("web", ""));
    ga.until("the first b still offers", |t| t.services.contains_key(&name("shop/web"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_silent_does_not_hold_up_a_join() {
    let net = Net::default();
    let (a, b) = (Member::new("a", &net).await, Member::new("b", &net).await);
    let (ga, _gb) = (a.gateway("g-a").await, b.gateway("g-b").await);
    b.until("its gateway in the catalog", gateway_known).await;
    // The kernel accepts for it, and nobody ever says a word.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut addresses = vec![silent.local_addr().unwrap().to_string(); 3];
    addresses.push(a.listen.to_string());
    let node = convert::report::NodeInfo { ready: true, addresses, ..Default::default() };
    ga.handle.node(node);
    let told = |s: &State| {
        let view = s.view.borrow();
        view.as_ref().is_some_and(|v| v.catalog.gateways.values().any(|g| g.addresses.len() == 4))
    };
    a.until("all addresses in the catalog", told).await;
    let token = a.invite().await;
    let begun = Instant::now();
    let joined = b.join(&token).await;
    assert_eq!(joined.0, 200, "{joined:?}");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_rows_are_refused_and_the_rest_goes_on() {
    let net = Net::default();
    let (a, ga, b, gb) = peers(&net).await;
    b.publish("web.yaml", &export("web", ""));
    ga.until("web", |t| t.services.contains_key(&name("shop/web"))).await;
    let rows = (0..1_000_000).map(|i| (format!("export/shop/x{i}"), bytes::Bytes::new())).collect();
    b.state.feeds.catalog(&a.cluster()).replace(rows);
    let told = problem(&a, "HNS-4007").await;
    assert_eq!(told["object"], "feed of peer b", "{told}");
    a.publish("api.yaml", &export("api", ""));
    let table = ga.until("api beside web", |t| t.services.contains_key(&name("shop/api"))).await;
    assert!(table.services.contains_key(&name("shop/web")), "what was known of b stays");
    gb.until("api at b", |t| t.services.contains_key(&name("shop/api"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_in_the_name_of_another_member_are_refused_and_the_own_count() {
    let net = Net::default();
    let (a, ga, b, _gb) = peers(&net).await;
    b.publish("web.yaml", &export("web", ""));
    ga.until("web", |t| t.services.contains_key(&name("shop/web"))).await;
    let mut catalog = (*b.state.view.borrow().as_ref().unwrap().catalog).clone();
    catalog.cluster.id = "c".parse().unwrap();
    b.state.feeds.catalog(&a.cluster()).replace(convert::catalog::rows(&catalog));
    let told = problem(&a, "HNS-4008").await;
    assert_eq!(
        (told["code"].as_str(), told["object"].as_str()),
        (Some("HNS-4004"), Some("peer b row cluster"))
    );
    let services = a.get("/v1/services").await;
    assert_eq!(services[0]["clusters"], json!(["b"]), "{services}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_from_the_future_is_told_and_serves() {
    let member = Member::new("a", &Net::default()).await;
    let gateway = member.gateway("g-1").await;
    member.publish("web.yaml", &export("web", "").replace("2026-01-01", "2999-01-01"));
    gateway.until("the route", |t| t.services.contains_key(&name("shop/web"))).await;
    let told = problem(&member, "HNS-4012").await;
    assert_eq!(told["object"], "service shop/web", "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declared_peer_with_an_empty_bundle_is_refused_and_the_others_count() {
    let member = Member::new("a", &Net::default()).await;
    let other = Member::new("b", &Net::default()).await;
    let good = other.state.authority.bundle().borrow().to_json();
    let peer = |name: &str, bundle: &str| {
        format!(
            "apiVersion: hansa.dev/v1alpha1\nkind: ClusterPeer\nmetadata: {{name: {name}}}\n\
             spec: {{trustDomain: {name}.hansa.internal, gateways: ['127.0.0.1:1'], bundle: '{bundle}'}}\n"
        )
    };
    let empty = r#"{"keys":[],"spiffe_sequence":7}"#;
    member.publish("peers.yaml", &format!("{}---\n{}", peer("c", empty), peer("b", &good)));
    let told = problem(&member, "HNS-3010").await;
    assert_eq!(told["object"], "ClusterPeer c", "{told}");
    let ids: Vec<ClusterId> = member.state.roster.ids().into_iter().collect();
    assert_eq!(ids, [other.cluster()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_at_the_limits_are_served_and_longer_ones_told() {
    let member = Member::new("a", &Net::default()).await;
    let gateway = member.gateway("g-1").await;
    let (long, longer) = ("a".repeat(63), "a".repeat(64));
    member.publish("1.yaml", &export(&long, ""));
    member.publish("2.yaml", &export(&longer, ""));
    let table = gateway.until("63", |t| t.services.contains_key(&name(&format!("shop/{long}")))).await;
    assert_eq!(table.services.len(), 1);
    let told = problem(&member, "HNS-2003").await;
    assert!(told["object"].as_str().unwrap().starts_with("2.yaml"), "{told}");

    // host.cluster.service.namespace.svc.clusterset.local: 253 characters are the most.
    let cluster = format!("{}.{}", "c".repeat(63), "d".repeat(63));
    let headless = export(&long, "")
        .replace("spec: {ports", "spec: {clusterIP: None, ports")
        .replace("endpoints: [{", &format!("endpoints: [{{hostname: {long}, "));
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let change = |config: &mut hansa_controller::Config| config.cluster = cluster.parse().unwrap();
    let other = Member::with("b", &Net::default(), dir, change).await;
    other.publish("1.yaml", &headless);
    let told = problem(&other, "HNS-2003").await;
    assert!(told["cause"].as_str().unwrap().contains("no name of its own"), "{told}");
    let exports = |s: &State| s.view.borrow().as_ref().is_some_and(|v| v.own.exports.len() == 1);
    other.until("the export in spite of it", exports).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_for_which_no_address_is_left_is_told_and_the_others_serve() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let two = |config: &mut hansa_controller::Config| config.vip.gateway_bits = 1;
    let member = Member::with("a", &Net::default(), dir, two).await;
    let (one, two) = (member.gateway("g-1").await, member.gateway("g-2").await);
    two.until("both", |t| t.siblings.len() == 2).await;
    let _three = member.gateway("g-3").await;
    let told = problem(&member, "HNS-4010").await;
    assert_eq!(told["object"], "gateway g-3", "{told}");
    member.publish("web.yaml", &export("web", ""));
    one.until("the route", |t| t.services.contains_key(&name("shop/web"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_and_udp_on_one_number_are_two_ports_of_one_address() {
    let member = Member::new("a", &Net::default()).await;
    let (gateway, dns) = (member.gateway("g-1").await, member.dns("d-1").await);
    let both = export("web", "").replace(
        "{name: http, port: 80, targetPort: 8080}",
        "{name: http, port: 80, targetPort: 8080}, {name: quic, port: 80, protocol: UDP, targetPort: 8080}",
    );
    member.publish("web.yaml", &both);
    let table = gateway.until("the route", |t| !t.services.is_empty()).await;
    let route = &table.services[&name("shop/web")];
    assert_eq!((route.ports.len(), route.vips.len()), (2, 1));
    let zone = dns.until("the name", |z| !z.services.is_empty()).await;
    assert_eq!(zone.services[&name("shop/web")].ports.len(), 2);
    let twice = both.replace("protocol: UDP, ", "").replace("name: web", "name: twice");
    member.publish("twice.yaml", &twice);
    let told = problem(&member, "HNS-2003").await;
    assert!(told["cause"].as_str().unwrap().contains("stands twice"), "{told}");
    assert!(gateway.until("web", |t| t.services.len() == 1).await.services.contains_key(&name("shop/web")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_gateway_is_cut_at_once_and_stays_out_until_it_is_allowed() {
    let net = Net::default();
    let member = Member::new("a", &net).await;
    let (_one, two) = (member.gateway("g-1").await, member.gateway("g-2").await);
    two.until("both", |t| t.siblings.len() == 2).await;
    let connected = |id: &'static str| {
        move |s: &State| {
            let all = s.nodes.all(hansa_controller::nodes::Kind::Gateway);
            all.get(&id.parse::<NodeId>().unwrap()).is_some_and(|node| node.session.is_some())
        }
    };
    let deny = |what: &str| json!({ "what": what });
    let begun = Instant::now();
    let (status, trust) = member.call("POST", "/v1/trust/deny", deny("g-1")).await;
    let holder = "spiffe://a.hansa.internal/hansa/gateway/g-1";
    assert_eq!((status, &trust["denied"]), (200, &json!([holder])), "{trust}");
    member.until("g-1 cut", |s| !connected("g-1")(s)).await;
    let table = two.until("the list at g-2", |t| t.deny.contains(holder)).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(connected("g-2")(&member.state) && table.deny.len() == 1);

    for (what, expected) in [
        ("g-9", "HNS-7005"),
        ("serial:a:zz", "HNS-7004"),
        ("spiffe://a.hansa.internal/hansa/controller", "HNS-7004"),
    ] {
        let answer = member.call("POST", "/v1/trust/deny", deny(what)).await;
        assert_eq!(code(&answer), expected, "{answer:?}");
    }

    let (id, net, dir) = member.stop().await;
    let member = Member::on(id, &net, dir).await;
    assert_eq!(member.get("/v1/trust").await[0]["denied"], json!([holder]), "it survives a restart");
    let token = member.token("gateway", "g-1").await;
    let config = hansa_link::Config {
        role: Role::Gateway("g-1".parse().unwrap()),
        cluster: member.cluster(),
        state_dir: member.dir.path().join("g-1-anew"),
        controllers: vec![member.listen.to_string()],
        credential: Some(Credential::Token(token)),
    };
    let error = Link::start(config, &Tasks::new()).await.err().expect("a denied id enrols nowhere");
    assert!(error.to_string().contains("HNS-3005"), "{error}");
    assert!(!connected("g-1")(&member.state));
    assert_eq!(member.call("POST", "/v1/trust/allow", deny("gateway/g-1")).await.0, 200);
    assert_eq!(code(&member.call("POST", "/v1/trust/allow", deny("gateway/g-1")).await), "HNS-7005");
    member.until("g-1 back", connected("g-1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_that_is_not_on_disk_is_in_force_and_not_acknowledged() {
    let member = Member::new("a", &Net::default()).await;
    let what = |path: &str| (format!("/v1/trust/{path}"), json!({"what": "gateway/g-1"}));
    let ask = async |path: &str| {
        let (path, body) = what(path);
        let answer = member.call("POST", &path, body).await;
        (answer.0, code(&answer).to_owned())
    };
    // The CA file alone cannot be written: a folder stands in its place.
    let file = member.dir.path().join("state/ca.json");
    std::fs::rename(&file, file.with_extension("aside")).unwrap();
    std::fs::create_dir(&file).unwrap();
    let holder = "spiffe://a.hansa.internal/hansa/gateway/g-1";
    let in_force = async || member.get("/v1/trust").await[0]["denied"].clone();
    let unwritten = (409, "HNS-1005".to_owned());
    assert_eq!(ask("deny").await, unwritten);
    assert_eq!(in_force().await, json!([holder]), "it is refused already");
    assert_eq!(ask("allow").await, unwritten);
    assert_eq!(in_force().await, json!([]));
    assert_eq!(ask("allow").await, unwritten, "asked again, it is still not on disk");
    assert!(member.state.store.healthy(), "the store has nothing to do with it");
    std::fs::remove_dir(&file).unwrap();
    assert_eq!(ask("deny").await, (200, String::new()));
    assert_eq!(ask("allow").await, (200, String::new()));
    assert_eq!(ask("allow").await, (404, "HNS-7005".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_gone_for_good_is_forgotten_and_its_addresses_are_free() {
    let member = Member::new("a", &Net::default()).await;
    let (one, two) = (member.gateway("g-1").await, member.gateway("g-2").await);
    let table = two.until("both", |t| t.siblings.len() == 2).await;
    let blocks = |id: &str, table: &hansa_core::mesh::RouteTable| -> Vec<String> {
        let sibling = table.siblings.get(&id.parse::<NodeId>().unwrap());
        sibling.iter().flat_map(|s| &s.blocks).map(ToString::to_string).collect()
    };
    let former = blocks("g-1", &table);
    assert_eq!(code(&member.call("DELETE", "/v1/nodes/gateway/g-1", Value::Null).await), "HNS-7014");
    drop(one);
    let gone = async {
        while member.call("DELETE", "/v1/nodes/gateway/g-1", Value::Null).await.0 != 204 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, gone).await.unwrap();
    two.until("alone", |t| t.siblings.len() == 1).await;
    assert_eq!(code(&member.call("DELETE", "/v1/nodes/gateway/g-1", Value::Null).await), "HNS-7005");
    assert_eq!(member.get("/v1/status").await["gateways"].as_array().unwrap().len(), 1);
    let three = member.gateway("g-3").await;
    let table = three.until("itself", |t| t.siblings.len() == 2).await;
    assert_eq!(blocks("g-3", &table), former, "the block is used again");
    let kept: BTreeMap<String, Value> = member.state.store.scan_json("node/").into_iter().collect();
    assert!(!kept.contains_key("gateway/g-1"), "{kept:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bundle_endpoint_serves_the_own_bundle_and_nothing_else() {
    use hansa_identity::bundle::Bundle;
    use hansa_identity::tls::{Pin, pinned_client, server_name};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    // Nobody else's.
    let free = "127.96.0.3:15013".parse().unwrap();
    let change = |config: &mut hansa_controller::Config| {
        config.bundle_endpoint = Some(hansa_controller::config::BundleEndpoint { listen: free });
    };
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let member = Member::with("a", &Net::default(), dir, change).await;
    let own = member.state.authority.bundle().borrow().clone();
    let ask = async |method: &str| {
        let pin = Pin::Bundle((*own).clone());
        let client = pinned_client(pin, &[hansa_identity::verify::RoleKind::Controller], &[b"http/1.1"]);
        let stream = tokio::net::TcpStream::connect(free).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
        let mut stream = connector.connect(server_name(), stream).await.unwrap();
        stream.write_all(format!("{method} /bundle HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        let read = tokio::time::timeout(LONG, stream.read_to_string(&mut text)).await.unwrap();
        read.unwrap();
        text
    };
    let answer = ask("GET").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/json"), "{head}");
    assert!(body.contains("spiffe_sequence") && body.contains("spiffe_refresh_hint"), "{body}");
    assert_eq!(Bundle::from_json(member.state.authority.domain(), body.as_bytes()).unwrap(), *own);
    assert!(ask("POST").await.starts_with("HTTP/1.1 405"));
}
