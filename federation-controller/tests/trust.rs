//! Trust over real sockets: what is denied travels, roots rotate, strangers leave room for members.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "controller/support.rs"]
#[allow(dead_code, reason = "each test binary uses a part")]
mod support;

use std::time::Duration;

use hansa_controller::control::State;
use hansa_core::name::NodeId;
use hansa_core::spiffe::Role;
use hansa_identity::deny::DenyEntry;
use hansa_proto::convert::catalog::MAX_DENIED;
use serde_json::Value;
use support::{LONG, Member, Net, export, name, pair};

async fn rotate(member: &Member, phase: &str) -> (u16, Value) {
    let body = serde_json::json!({"phase": phase, "force": false});
    member.call("POST", "/v1/trust/rotate", body).await
}

/// Waits until the refusal to activate the next root names exactly these as behind.
async fn still_behind(member: &Member, behind: &str) {
    let mut last = Value::Null;
    let wait = async {
        loop {
            let (status, answer) = rotate(member, "activate").await;
            assert_eq!((status, answer["code"].as_str()), (409, Some("HNS-3012")), "{answer}");
            let cause = answer["cause"].as_str().unwrap();
            if cause.contains(&format!("behind: {behind};")) && cause.contains("hansa forget") {
                return;
            }
            last = answer;
            // Acknowledgements of the others are on their way.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let found = tokio::time::timeout(LONG, wait).await;
    assert!(found.is_ok(), "behind: {behind}, but {last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_denied_travels_to_peers_for_the_own_domain_alone() {
    let net = Net::default();
    let (a, _ga, b, gb) = pair(&net).await;
    let _other = a.gateway("g-2").await;
    let c = Member::new("c", &net).await;
    let gc = c.gateway("g-c").await;
    for other in [&b, &c] {
        assert_eq!(other.join(&a.invite().await).await.0, 200);
    }
    let deny = |what: &str| serde_json::json!({ "what": what });
    let of_a = "spiffe://a.hansa.internal/hansa/gateway/g-a";
    let said = |cluster: &'static str, count: usize| {
        move |t: &hansa_core::mesh::RouteTable| {
            t.peers.get(&cluster.parse().unwrap()).is_some_and(|peer| peer.deny.len() == count)
        }
    };
    // What is denied of others stays at home.
    let (of_b, of_c) =
        ("spiffe://b.hansa.internal/hansa/gateway/g-b", "spiffe://c.hansa.internal/hansa/gateway/g-c");
    for what in ["gateway/g-a", of_b, of_c] {
        assert_eq!(a.call("POST", "/v1/trust/deny", deny(what)).await.0, 200);
    }
    for gateway in [&gb, &gc] {
        let table = gateway.until("what a denies", said("a", 1)).await;
        assert!(table.peers[&a.cluster()].deny.contains(of_a) && table.deny.is_empty(), "{table:?}");
        let without_it = |t: &hansa_core::mesh::RouteTable| {
            let gateways = &t.peers[&"a".parse().unwrap()].gateways;
            gateways.keys().map(ToString::to_string).eq(["g-2"])
        };
        gateway.until("its other gateway alone", without_it).await;
    }
    let shown = b.get("/v1/trust").await;
    assert_eq!(
        (&shown[1]["told"][0], &shown[0]["denied"]),
        (&of_a.into(), &serde_json::json!([])),
        "{shown}"
    );

    // The others are not told what b denies of a.
    for what in ["spiffe://a.hansa.internal/hansa/gateway/x", "gateway/g-9"] {
        assert_eq!(b.call("POST", "/v1/trust/deny", deny(what)).await.0, 200);
    }
    let own_of_b: DenyEntry = "spiffe://b.hansa.internal/hansa/gateway/g-9".parse().unwrap();
    let of_b_alone = |s: &State| {
        let told = s.roster.all()[&"b".parse().unwrap()].told.clone();
        told.len() == 1 && told.iter().all(|entry| *entry == own_of_b)
    };
    a.until("what b denies", of_b_alone).await;

    // b restarts while a is away.
    let (id, net_of_a, dir_of_a) = a.stop().await;
    let (id_of_b, net, dir) = b.stop().await;
    let b = Member::on(id_of_b, &net, dir).await;
    let trust = b.state.authority.tls().trust().current();
    assert_eq!(trust.told.of(&"a.hansa.internal".parse().unwrap()).map(|list| list.len()), Some(1));
    gb.until("the table of the new run", |t| said("a", 1)(t) && t.deny.len() == 2).await;

    let a = Member::on(id, &net_of_a, dir_of_a).await;
    assert_eq!(a.call("POST", "/v1/trust/allow", deny("gateway/g-a")).await.0, 200);
    gb.until("it is allowed again", said("a", 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_deny_list_is_told_with_its_code() {
    let member = Member::new("a", &Net::default()).await;
    let all: Vec<_> = (0..MAX_DENIED).map(|n| format!("spiffe://x/hansa/gateway/g-{n}")).collect();
    let all: Vec<DenyEntry> = all.iter().map(|entry| entry.parse().unwrap()).collect();
    assert!(member.state.authority.deny(&all).await.unwrap());
    let one_more = serde_json::json!({ "what": "gateway/g-1" });
    let (status, answer) = member.call("POST", "/v1/trust/deny", one_more).await;
    assert_eq!((status, answer["code"].as_str()), (409, Some("HNS-3013")), "{answer}");
    assert!(answer["next"].as_str().unwrap().contains("hansa trust allow"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_is_not_activated_while_a_server_is_behind_or_anybody_refuses_the_bundle() {
    use hansa_controller::roster::Following;
    use hansa_core::policy::Refusal;
    let net = Net::default();
    let (a, ga, b, _gb) = pair(&net).await;
    assert_eq!(b.join(&a.invite().await).await.0, 200);
    let link = a.link(Role::Dns("d-1".parse().unwrap()), "d-1").await;
    let dns = support::Dns::start(link.clone(), "d-1");
    dns.until("an open zone", |_| true).await;
    drop(dns);
    let dns_of = |s: &State| s.nodes.all(hansa_controller::nodes::Kind::Dns);
    a.until("its DNS server to be gone", |s| dns_of(s).values().all(|node| node.session.is_none())).await;

    assert_eq!(rotate(&a, "publish").await.0, 200);
    ga.until("the new bundle", |t| t.bundle.matches("x5c").count() == 2).await;
    let peer_has_it = |s: &State| s.roster.all().values().all(|entry| entry.bundle.roots.len() == 2);
    b.until("the new bundle", peer_has_it).await;
    let refused = async |behind: &str| still_behind(&a, behind).await;
    refused("dns/d-1 (not connected)").await;
    let _dns = support::Dns::start(link, "d-1");
    let applied = a.state.feeds.zone().position().version;
    let caught_up =
        |s: &State| dns_of(s).values().all(|node| node.applied.is_some_and(|version| version >= applied));
    a.until("its DNS server to catch up", caught_up).await;

    // The peer says that it took the version, and that it refuses the row.
    let says = |session: u64, key: &str| Following {
        session,
        applied: Some(u64::MAX),
        heard: Some(tokio::time::Instant::now()),
        refusals: vec![Refusal { key: key.to_owned(), reason: "HNS-3010".to_owned() }],
        conflicts: Vec::new(),
    };
    a.state.roster.followed(&b.cluster(), says(u64::MAX, "cluster"));
    refused("peer b (refuses it)").await;
    a.state.roster.followed(&b.cluster(), says(u64::MAX, "export/shop/web"));
    // So does an own gateway.
    let position = a.state.feeds.routes().position();
    let nothing = hansa_proto::feed::follow::Applied {
        position,
        snapshot: false,
        changed: Vec::new(),
        removed: Vec::new(),
        refused: Vec::new(),
    };
    let bad = Refusal { key: "self".to_owned(), reason: "it cannot be read".to_owned() };
    ga.handle.applied(&nothing, vec![bad]);
    let told = |s: &State| {
        let all = s.nodes.all(hansa_controller::nodes::Kind::Gateway);
        all.values().any(|node| !node.refusals.is_empty())
    };
    a.until("its refusal", told).await;
    refused("gateway/g-a (refuses it)").await;
    let touched = hansa_proto::feed::follow::Applied { removed: vec!["self".to_owned()], ..nothing };
    ga.handle.applied(&touched, Vec::new());
    let activated = async {
        while rotate(&a, "activate").await.0 != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LONG, activated).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_waits_for_a_server_that_is_gone_until_it_is_forgotten_and_for_no_denied_one() {
    use hansa_controller::nodes::Kind;
    let member = Member::new("a", &Net::default()).await;
    let here = member.gateway("g-1").await;
    for gone in ["g-2", "g-3"] {
        let gateway = member.gateway(gone).await;
        gateway.until("its table", |_| true).await;
        drop(gateway);
        let away = move |s: &State| {
            let all = s.nodes.all(Kind::Gateway);
            all.get(&gone.parse::<NodeId>().unwrap()).is_some_and(|node| node.session.is_none())
        };
        member.until("it is away", away).await;
    }
    assert_eq!(rotate(&member, "publish").await.0, 200);
    here.until("the new bundle", |t| t.bundle.matches("x5c").count() == 2).await;
    let named = async |behind: &str| still_behind(&member, behind).await;
    named("gateway/g-2 (not connected), gateway/g-3 (not connected)").await;
    let what = serde_json::json!({"what": "gateway/g-2"});
    assert_eq!(member.call("POST", "/v1/trust/deny", what).await.0, 200);
    named("gateway/g-3 (not connected)").await;
    assert_eq!(member.call("DELETE", "/v1/nodes/gateway/g-3", Value::Null).await.0, 204);
    assert_eq!(rotate(&member, "activate").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_is_rotated_once_everybody_acknowledged_it() {
    let net = Net::default();
    let (a, _ga, b, _gb) = pair(&net).await;
    assert_eq!(b.join(&a.invite().await).await.0, 200);
    let (status, trust) = rotate(&a, "publish").await;
    assert_eq!((status, trust["rotation"].as_str()), (200, Some("published")), "{trust}");
    let activated = async {
        loop {
            let (status, answer) = rotate(&a, "activate").await;
            if status == 200 {
                return answer;
            }
            assert_eq!(answer["code"], "HNS-3012", "{answer}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let answer = tokio::time::timeout(LONG, activated).await.unwrap();
    assert_eq!((answer["rotation"].as_str(), answer["roots"].as_array().unwrap().len()), (Some("active"), 2));
    // The old root signed leaves that still live.
    assert_eq!(rotate(&a, "retire").await.0, 409);
    // Whoever comes now meets the new root, and b knows it: an export still travels.
    let (id, net, dir) = a.stop().await;
    let a = Member::on(id, &net, dir).await;
    a.publish("web.yaml", &export("web", ""));
    let known =
        |s: &State| s.view.borrow().as_ref().is_some_and(|v| v.mesh.imports.contains_key(&name("shop/web")));
    b.until("the export under the new root", known).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_at_the_join_door_are_bounded_and_leave_the_door_for_enrolling_free() {
    use hansa_identity::tls::{self, ALPN_JOIN, Pin, pinned_client};
    use hansa_identity::verify::RoleKind;
    let member = Member::new("a", &Net::default()).await;
    let bundle = (**member.state.authority.bundle().borrow()).clone();
    let client =
        std::sync::Arc::new(pinned_client(Pin::Bundle(bundle), &[RoleKind::Controller], &[ALPN_JOIN]));
    let knock = async || {
        let tcp = tokio::net::TcpStream::connect(member.listen).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(client.clone());
        tokio::time::timeout(LONG, connector.connect(tls::server_name(), tcp)).await.unwrap()
    };
    let mut inside = Vec::new();
    let full = loop {
        match knock().await {
            Ok(stream) => inside.push(stream),
            Err(error) => break error,
        }
        assert!(inside.len() <= hansa_controller::listen::MOST_STRANGERS, "no end of places");
    };
    assert_eq!(inside.len(), hansa_controller::listen::MOST_STRANGERS, "{full}");
    // The door for enrolling has places of its own.
    member.gateway("g-1").await.until("its table", |_| true).await;
    drop(inside);
    while knock().await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_gone_or_silent_is_a_broken_path_of_every_import() {
    let member = Member::new("a", &Net::default()).await;
    let gone = member.gateway("g-1").await;
    let _here = member.gateway("g-2").await;
    member.publish("web.yaml", &export("web", ""));
    member.publish("api.yaml", &export("api", ""));
    let imports = |s: &State| s.view.borrow().as_ref().is_some_and(|v| v.mesh.imports.len() == 2);
    member.until("both imports", imports).await;
    let paths = async |query: &str| -> Vec<(String, String, Value)> {
        let check = member.get(&format!("/v1/check{query}")).await;
        let paths = check["paths"].as_array().unwrap().iter();
        let text = |path: &Value, key: &str| path[key].as_str().unwrap().to_owned();
        paths.map(|p| (text(p, "service"), text(p, "gateway"), p["hops"][2].clone())).collect()
    };
    assert_eq!(paths("").await, [], "the stand-ins walk nothing, and both answer");
    drop(gone);
    let away = |s: &State| {
        s.nodes.all(hansa_controller::nodes::Kind::Gateway).values().any(|node| node.session.is_none())
    };
    member.until("g-1 to be gone", away).await;
    let found = paths("").await;
    let named: Vec<_> =
        found.iter().map(|(service, gateway, _)| (service.as_str(), gateway.as_str())).collect();
    assert_eq!(named, [("shop/api:80", "g-1"), ("shop/web:80", "g-1")]);
    for (_, _, hop) in &found {
        assert_eq!(
            (&hop["id"], &hop["ok"], &hop["code"]),
            (&"gateway".into(), &false.into(), &"HNS-4009".into())
        );
    }
    assert_eq!(paths("?service=shop/web").await.len(), 1);
    assert_eq!(paths("?peer=b").await, []);
}
