//! The controller over real sockets and TLS: enrolling, joining, exports on their way, restarts.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "controller/support.rs"]
mod support;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hansa_controller::control::State;
use hansa_controller::store;
use hansa_core::spiffe::Role;
use hansa_link::{Credential, Link};
use hansa_runtime::tasks::Tasks;
use serde_json::Value;
use support::{LONG, Member, Net, export, name, pair};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_enrols_once_and_a_token_is_for_its_id_alone() {
    let member = Member::new("a", &Net::default()).await;
    let token = member.token("gateway", "g-1").await;
    let config = |id: &str, token: &str| hansa_link::Config {
        role: Role::Gateway(id.parse().unwrap()),
        cluster: member.cluster(),
        state_dir: member.dir.path().join(format!("{id}-{}", token.len())),
        controllers: vec![member.listen.to_string()],
        credential: Some(Credential::Token(token.to_owned())),
    };
    let tasks = Tasks::new();
    assert!(Link::start(config("g-2", &token), &tasks).await.is_err(), "another id");
    let link = Link::start(config("g-1", &token), &tasks).await.unwrap();
    assert_eq!(link.id().to_string(), "spiffe://a.hansa.internal/hansa/gateway/g-1");
    let mut again = config("g-1", &token);
    again.state_dir = member.dir.path().join("again");
    let error = Link::start(again, &tasks).await.err().expect("the token is spent");
    assert!(error.to_string().contains("HNS-3008"), "{error}");
    tasks.shutdown(LONG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_published_after_the_gateway_listens_and_withdrawn_before_it_stops() {
    let member = Member::new("a", &Net::default()).await;
    let gateway = member.gateway("g-1").await;
    let dns = member.dns("d-1").await;
    // The first table may leave before the gateway's own registration is in it.
    gateway.until("a table with itself", |t| t.siblings.len() == 1).await;
    dns.until("an open zone", |_| true).await;

    gateway.stuck_at.store(member.state.feeds.routes().position().version, Ordering::SeqCst);
    let traffic = "spec: {internalTrafficPolicy: Local, trafficDistribution: PreferClose, ports";
    member.publish("web.yaml", &export("web", "").replace("spec: {ports", traffic));
    let table = gateway.until("the route", |t| t.services.contains_key(&name("shop/web"))).await;
    assert_eq!(table.services[&name("shop/web")].vips.values().flatten().count(), 2);
    member.until("the import", |s| s.view.borrow().as_ref().is_some_and(|v| v.mesh.imports.len() == 1)).await;
    assert!(dns.zone.borrow().as_ref().unwrap().services.is_empty(), "nobody listens yet");
    let imports = member.get("/v1/serviceimports").await;
    assert_eq!(imports[0]["status"]["conditions"][0]["reason"], "Pending");
    let spec = &imports[0]["spec"];
    assert_eq!(
        (spec["internalTrafficPolicy"].as_str(), spec["trafficDistribution"].as_str()),
        (Some("Local"), Some("PreferClose"))
    );

    gateway.stuck_at.store(0, Ordering::SeqCst);
    let bound_version = member.state.feeds.routes().position().version;
    gateway
        .handle
        .report(hansa_proto::convert::report::GatewayReport { bound_version, ..Default::default() });
    let zone = dns.until("the name", |z| z.services.contains_key(&name("shop/web"))).await;
    let vips = &table.services[&name("shop/web")].vips[&"g-1".parse().unwrap()];
    assert_eq!(&zone.services[&name("shop/web")].ips, vips);
    let exports = member.get("/v1/serviceexports").await;
    assert_eq!(exports[0]["status"]["conditions"][0]["reason"], "Valid");

    member.withdraw("web.yaml");
    dns.until("no name", |z| z.services.is_empty()).await;
    gateway.until("no route", |t| t.services.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_services_at_once_are_names_within_seconds() {
    let member = Member::new("a", &Net::default()).await;
    let _gateway = member.gateway("g-1").await;
    let dns = member.dns("d-1").await;
    dns.until("an open zone", |_| true).await;
    let all: Vec<String> = (0..1_000).map(|n| export(&format!("s-{n}"), "")).collect();
    let begun = Instant::now();
    member.publish("many.yaml", &all.join("---\n"));
    dns.until("a thousand names", |z| z.services.len() == 1_000).await;
    println!("1,000 services: {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_makes_both_sides_peers_and_exports_travel_both_ways() {
    let net = Net::default();
    let (a, ga, b, gb) = pair(&net).await;
    let token = a.invite().await;
    let (status, joined) = b.join(&token).await;
    assert_eq!((status, joined["id"].as_str()), (200, Some("a")), "{joined}");
    a.publish("web.yaml", &export("web", ""));
    b.publish("api.yaml", &export("api", "hansa.dev/export-to: nobody"));
    b.publish("web.yaml", &export("web", ""));
    let table =
        gb.until("web of both", |t| t.services.get(&name("shop/web")).is_some_and(|s| s.clusters.len() == 2));
    let table = table.await;
    assert!(table.peers.contains_key(&a.cluster()) && table.services[&name("shop/web")].local.is_some());
    assert_eq!(table.peers[&a.cluster()].gateways.len(), 1);
    let table =
        ga.until("web of both", |t| t.services.get(&name("shop/web")).is_some_and(|s| s.clusters.len() == 2));
    assert!(!table.await.services.contains_key(&name("shop/api")), "hidden by export-to");

    // The first link may be replaced once both know each other's gateways: rows travelled, and it is between two.
    let connected = async {
        loop {
            let status = a.get("/v1/status").await;
            let peer = &status["peers"][0];
            // A feed just connected has not yet compared digests.
            let compared = peer["digestOk"] == true && peer["appliedAgeSeconds"].is_number();
            if peer["connected"] == true && compared {
                return status;
            }
            // A status is asked for, never announced: it is asked again.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let status = tokio::time::timeout(LONG, connected).await.expect("connected, with the same digest");
    assert_eq!(status["peers"][0]["reach"], "unknown");
    assert!(status["peers"][0]["appliedAgeSeconds"].as_f64().unwrap() < 5.0, "{status}");
    assert_eq!(a.get("/v1/trust").await.as_array().unwrap().len(), 2);
    let explain = a.get("/v1/explain?service=shop/web&port=80").await;
    assert_eq!(explain["gateways"].as_array().unwrap().len(), 1);

    let (status, error) = b.join(&token).await;
    assert_eq!((status, error["code"].as_str()), (409, Some("HNS-4002")), "{error}");
    let (status, _) = b.call("DELETE", "/v1/peers/a", Value::Null).await;
    assert_eq!(status, 204);
    gb.until("no peer", |t| t.peers.is_empty() && t.services[&name("shop/web")].clusters.len() == 1).await;
    // The other side is told nothing, but its feed is cut and stays out.
    let cut =
        |s: &State| s.roster.all().values().all(|e| e.link.as_ref().is_some_and(|l| !l.borrow().connected));
    a.until("the feed to be cut", cut).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_may_join_at_once() {
    let net = Net::default();
    let (a, _ga, b, _gb) = pair(&net).await;
    let (of_a, of_b) = tokio::join!(a.invite(), b.invite());
    let (at_b, at_a) = tokio::join!(b.join(&of_a), a.join(&of_b));
    let known = |answer: &(u16, Value)| answer.0 == 200 || answer.1["code"] == "HNS-4002";
    assert!(known(&at_a) && known(&at_b), "{at_a:?} {at_b:?}");
    for member in [&a, &b] {
        let following = |s: &State| {
            s.roster.all().values().any(|e| e.link.as_ref().is_some_and(|l| l.borrow().applied.is_some()))
        };
        member.until("to follow the other", following).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_altered_foreign_or_used_are_refused_with_their_codes() {
    let net = Net::default();
    let (a, _ga, b, _gb) = pair(&net).await;
    let token = a.invite().await;
    let code = |answer: (u16, Value)| answer.1["code"].as_str().unwrap_or_default().to_owned();
    assert_eq!(code(a.join(&token).await), "HNS-4001");
    let mut altered = token.clone();
    altered.replace_range(40..41, if &token[40..41] == "A" { "B" } else { "A" });
    assert_eq!(code(b.join(&altered).await), "HNS-3009");
    assert_eq!(code(b.join("hello").await), "HNS-3009");

    let c = Member::new("c", &net).await;
    let _gc = c.gateway("g-c").await;
    assert_eq!(b.join(&token).await.0, 200);
    assert_eq!(code(c.join(&token).await), "HNS-3008");

    let body = serde_json::json!({"name": null, "ttlSeconds": 1});
    let (_, short) = a.call("POST", "/v1/invite", body).await;
    let short = short["token"].as_str().unwrap().to_owned();
    let expired = async {
        while code(c.join(&short).await) != "HNS-3007" {
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert!(c.state.roster.all().is_empty() || c.state.roster.remove(&a.cluster()).await.is_ok());
        }
    };
    tokio::time::timeout(LONG, expired).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_addresses_and_peers_and_takes_nothing_away() {
    let net = Net::default();
    let (a, _ga, b, gb) = pair(&net).await;
    let dns = b.dns("d-1").await;
    assert_eq!(b.join(&a.invite().await).await.0, 200);
    a.publish("web.yaml", &export("web", ""));
    b.publish("api.yaml", &export("api", ""));
    dns.until("both names", |z| z.services.len() == 2).await;
    let before = gb.until("both routes", |t| t.services.len() == 2).await;
    let epoch = b.state.feeds.epoch();

    let (id, net, dir) = b.stop().await;
    let b = Member::on(id, &net, dir).await;
    assert!(b.state.feeds.epoch() > epoch);
    tokio::time::timeout(LONG, b.ready.wait()).await.unwrap();
    b.publish("new.yaml", &export("new", ""));
    let zone = dns.until("the new name", |z| z.services.contains_key(&name("shop/new"))).await;
    assert_eq!(zone.services.len(), 3);
    let after = gb.until("all routes", |t| t.services.len() == 3).await;
    for service in ["shop/web", "shop/api"] {
        assert_eq!(before.services[&name(service)].vips, after.services[&name(service)].vips);
    }
    assert_eq!((gb.losses.load(Ordering::SeqCst), dns.losses.load(Ordering::SeqCst)), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_store_is_set_aside_and_the_controller_serves() {
    let net = Net::default();
    let a = Member::new("a", &net).await;
    let gateway = a.gateway("g-1").await;
    gateway.until("the first table", |_| true).await;
    let root = a.state.authority.root();
    let what = serde_json::json!({ "what": "gateway/g-2" });
    assert_eq!(a.call("POST", "/v1/trust/deny", what).await.0, 200);
    let (id, net, dir) = a.stop().await;
    let path = dir.path().join("state").join(store::FILE);
    std::fs::write(&path, "not a store").unwrap();
    let a = Member::on(id, &net, dir).await;
    assert_eq!(a.state.authority.root(), root, "keys are not in the store");
    assert_eq!(a.state.authority.denied().len(), 1, "nor is the deny list");
    assert!(path.with_file_name(format!("{}.corrupt-1", store::FILE)).exists());
    tokio::time::timeout(LONG, a.ready.wait()).await.unwrap();
    a.publish("web.yaml", &export("web", ""));
    gateway.until("the route after the loss", |t| t.services.len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_controller_on_the_same_state_is_refused() {
    let a = Member::new("a", &Net::default()).await;
    let process = hansa_controller::Process {
        tasks: Tasks::new(),
        drain: Default::default(),
        ready: Default::default(),
        logs: None,
    };
    let second = hansa_controller::Controller::bind(support::config("a", a.dir.path()), process).await;
    let error = second.err().expect("it must not start");
    assert!(error.to_string().contains("in use by another controller"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_are_told_on_both_sides() {
    let net = Net::default();
    let (a, _ga, b, _gb) = pair(&net).await;
    assert_eq!(b.join(&a.invite().await).await.0, 200);
    a.publish("web.yaml", &export("web", ""));
    let other = export("web", "").replace("port: 80,", "port: 81,").replace("2026-01-01", "2026-02-01");
    b.publish("web.yaml", &other);
    for member in [&a, &b] {
        let told = async {
            loop {
                let exports = member.get("/v1/serviceexports").await;
                let conflict = exports[0]["status"]["conditions"][2].clone();
                if conflict["status"] == "True" {
                    assert_eq!(conflict["reason"], "PortConflict");
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LONG, told).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_gets_what_its_role_may_follow_and_nothing_else() {
    use hansa_proto::feed::{self, FollowEvent, Kind, LinkError};
    let member = Member::new("a", &Net::default()).await;
    let link = member.link(Role::Dns("d-1".parse().unwrap()), "d-1").await;
    for (name, kind) in [("d-1", Kind::Routes), ("d-2", Kind::Zone), ("a", Kind::Catalog)] {
        let dialer = link.clone();
        let connect = move || {
            let link = dialer.clone();
            async move { link.connect().await }
        };
        let (_handle, mut events, run) = feed::follow(feed::Config::new(name, kind), connect, None);
        let run = tokio::spawn(run);
        match tokio::time::timeout(LONG, events.recv()).await.unwrap() {
            Some(FollowEvent::Lost { error: LinkError::Refused(why), .. }) => {
                assert!(why.contains("HNS-3004"), "{why}");
            }
            other => panic!("{name}: {other:?}"),
        }
        run.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_and_chattering_strangers_keep_nobody_out() {
    use tokio::io::AsyncWriteExt;
    let member = Member::new("a", &Net::default()).await;
    let mut strangers = Vec::new();
    for n in 0..200 {
        let mut stream = tokio::net::TcpStream::connect(member.listen).await.unwrap();
        if n % 2 == 0 {
            // The controller may have closed it already.
            let _ = stream.write_all(&[0x16; 4_096]).await;
        }
        strangers.push(stream);
    }
    let gateway = member.gateway("g-1").await;
    gateway.until("the first table", |_| true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_removed_and_added_again_hears_of_what_comes_afterwards() {
    let net = Net::default();
    let (a, _ga, b, gb) = pair(&net).await;
    assert_eq!(b.join(&a.invite().await).await.0, 200);
    for name in ["one", "two", "three"] {
        a.publish(&format!("{name}.yaml"), &export(name, ""));
    }
    gb.until("three", |t| t.services.len() == 3).await;
    // One side alone removes the other: b goes on with what it holds.
    assert_eq!(a.call("DELETE", "/v1/peers/b", Value::Null).await.0, 204);
    a.until("no publisher for b", |s| s.feeds.known_catalog(&b.cluster()).is_none()).await;
    let record = hansa_controller::roster::Record {
        cluster: b.cluster(),
        trust_domain: b.state.authority.domain().clone(),
        locality: b.state.facts.locality.clone(),
        bundle: b.state.authority.bundle().borrow().to_json().into(),
        gateways: b.state.view.borrow().as_ref().unwrap().catalog.gateways.clone(),
        origin: hansa_controller::roster::Origin::Token,
        added: 0,
    };
    let bundle = (**b.state.authority.bundle().borrow()).clone();
    a.state.roster.add(record, bundle).await.unwrap();
    a.publish("four.yaml", &export("four", ""));
    gb.until("what was made afterwards", |t| t.services.contains_key(&name("shop/four"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_the_manifests_takes_nothing_away() {
    let net = Net::default();
    let (a, _ga, b, gb) = pair(&net).await;
    let dns = a.dns("d-1").await;
    assert_eq!(b.join(&a.invite().await).await.0, 200);
    a.publish("web.yaml", &export("web", ""));
    gb.until("web", |t| t.services.contains_key(&name("shop/web"))).await;
    dns.until("web", |z| z.services.len() == 1).await;
    let (id, net, dir) = a.stop().await;
    std::fs::rename(dir.path().join("manifests"), dir.path().join("away")).unwrap();
    let gone = |config: &mut hansa_controller::Config| config.source.folder = dir.path().join("nowhere");
    let a = Member::with(id, &net, dir.clone(), gone).await;
    tokio::time::timeout(LONG, a.ready.wait()).await.unwrap();
    let epoch = a.state.feeds.epoch();
    let moved = |s: &State| {
        let entry = s.roster.get(&"a".parse().unwrap());
        entry.and_then(|e| e.link.map(|l| l.borrow().applied)).flatten().is_some_and(|at| at.epoch == epoch)
    };
    b.until("to follow the new start", moved).await;
    assert!(gb.table.borrow().as_ref().unwrap().services.contains_key(&name("shop/web")));
    assert_eq!((gb.losses.load(Ordering::SeqCst), dns.losses.load(Ordering::SeqCst)), (0, 0));
    let status = a.get("/v1/status").await;
    assert!(status["problems"].as_array().unwrap().iter().any(|p| p["code"] == "HNS-2005"), "{status}");
}
