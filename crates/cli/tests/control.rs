//! Every verb that asks the controller, against a socket with known answers.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod common;

use std::os::unix::fs::PermissionsExt;

use common::{Controller, command, ran};
use hansa_api::view;
use hansa_core::code::{control, trust};
use hansa_core::reach::Reach;
use serde_json::{Value, json};

fn status() -> Value {
    let peer = view::PeerStatus {
        id: "gcp-eu".into(),
        connected: false,
        applied_version: Some(7),
        applied_age_seconds: Some(75.0),
        digest_ok: true,
        reach: Reach::Unreachable,
        reach_age_seconds: Some(4.25),
        gateways: vec![view::PeerGatewayStatus { id: "gateway-1".into(), tunnels: 0, streams: 0 }],
        transport: String::new(),
        rtt_ms: None,
        bundle_expires: None,
        refused_rows: Vec::new(),
    };
    let gateway =
        view::NodeStatus { id: "gateway-1".into(), ready: true, connected: true, ..Default::default() };
    let status = view::Status {
        cluster: "aws-eu".into(),
        gateways: vec![gateway],
        peers: vec![peer],
        // A peer's text must not steer the terminal.
        problems: vec![view::Error::new(control::PEER_UNREACHABLE, "peer gcp-eu", "silent\x1b[2J")],
        ..Default::default()
    };
    serde_json::to_value(status).unwrap()
}

#[test]
fn status_shows_reach_and_age() {
    let controller = Controller::new([("GET /v1/status", 200, status())]);
    let table = controller.hansa(&["status"]);
    assert_eq!((table.code, table.err.as_str()), (0, ""));
    for text in ["aws-eu", "gateway-1", "gcp-eu", "unreachable", "4.2s", "v7 75s", "HNS-4003"] {
        assert!(table.out.contains(text), "{text} is not in\n{}", table.out);
    }
    assert!(!table.out.contains('\x1b'));
    assert_eq!(controller.hansa(&["status", "-o", "json"]).json(), status());
    let yaml = controller.hansa(&["status", "-o", "yaml"]);
    assert!(yaml.out.contains("reachAgeSeconds: 4.25"), "{}", yaml.out);
}

#[test]
fn services_and_objects_are_listed() {
    let service = json!([{ "name": "shop/checkout", "kind": "ClusterSetIP", "clusters": ["aws-eu", "gcp-eu"],
        "ports": ["http 80/TCP"], "vips": ["10.96.0.1"], "conditions": [
            {"type": "Ready", "status": "False", "reason": "NoAddress", "message": "x"}] }]);
    let import = json!([{ "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceImport",
        "metadata": {"name": "checkout", "namespace": "shop"},
        "spec": {"type": "ClusterSetIP", "ports": [{"port": 80, "protocol": "TCP"}], "ips": ["10.96.0.1"]},
        "status": {"clusters": [{"cluster": "aws-eu"}]} }]);
    let controller =
        Controller::new([("GET /v1/services", 200, service), ("GET /v1/serviceimports", 200, import)]);
    let table = controller.hansa(&["services"]).out;
    for text in ["shop/checkout", "aws-eu gcp-eu", "http 80/TCP", "10.96.0.1", "Ready=False(NoAddress)"] {
        assert!(table.contains(text), "{text} is not in\n{table}");
    }
    assert!(controller.hansa(&["get", "serviceimports"]).out.contains("80/TCP"));
    let yaml = controller.hansa(&["get", "serviceimports", "-o", "yaml"]).out;
    assert!(
        yaml.contains("kind: ServiceImportList") && yaml.contains("multicluster.x-k8s.io/v1beta1"),
        "{yaml}"
    );
}

#[test]
fn explain_asks_for_service_and_port() {
    let gateway = |id: &str, shares: &[(&str, f64)]| {
        let candidates = shares.iter().map(|(cluster, share)| {
            json!({ "cluster": cluster, "endpoints": 2, "healthy": 2.0, "share": share, "reason": "nearest",
                "ageSeconds": null })
        });
        json!({ "id": id, "chosen": shares.first().map(|s| s.0), "panic": false, "tiers": [{
            "name": "region", "capacity": 1.0, "share": 1.0, "candidates": candidates.collect::<Vec<_>>() }] })
    };
    let gateways = [
        gateway("gateway-1", &[("aws-eu", 1.0)]),
        gateway("gateway-2", &[("gcp-eu", 0.4999), ("aws-eu", 0.5001)]),
        gateway("gateway-3", &[("gcp-eu", 0.0)]),
        // As where it stands in two tiers.
        gateway("gateway-4", &[("aws-eu", 0.4), ("gcp-eu", 0.4), ("aws-eu", 0.2)]),
    ];
    let answer = json!({ "service": "shop/checkout:80", "from": "aws/eu-central-1", "gateways": gateways });
    let controller = Controller::new([("GET /v1/explain", 200, answer.clone())]);
    for name in ["checkout.shop:80", "shop/checkout:80", "checkout.shop.svc.clusterset.local:80"] {
        let table = controller.hansa(&["explain", name]);
        assert_eq!(table.code, 0, "{}", table.err);
        let gateways = [
            "gateway-1: most goes to aws-eu\n",
            "gateway-2: most goes to aws-eu and gcp-eu alike\n",
            "gateway-3: goes nowhere\n",
            "gateway-4: most goes to aws-eu\n",
        ];
        for text in gateways.into_iter().chain(["region (100 %)", "nearest", "2.0/2"]) {
            assert!(table.out.contains(text), "{text} is not in\n{}", table.out);
        }
    }
    assert_eq!(controller.hansa(&["explain", "checkout.shop", "-o", "json"]).json(), answer);
    let asked: Vec<String> = controller.asked().into_iter().map(|(line, _)| line).collect();
    assert_eq!(asked[2], "GET /v1/explain?service=shop/checkout&port=80");
    assert_eq!(asked[3], "GET /v1/explain?service=shop/checkout");
}

#[test]
fn tokens_go_to_stdout_or_to_a_closed_file() {
    let token = json!({ "token": "hansa-enroll-abc", "expires": "2026-01-01T00:00:00Z" });
    let controller =
        Controller::new([("POST /v1/enroll", 200, token.clone()), ("POST /v1/invite", 200, token.clone())]);
    let enroll = ["enroll", "--role", "gateway", "--id", "gateway-1", "--ttl", "1h"];
    let ran = controller.hansa(&enroll);
    assert_eq!((ran.code, ran.out.as_str()), (0, "hansa-enroll-abc\n"));
    assert!(!ran.err.contains("hansa-enroll-abc") && ran.err.contains("works once"));
    assert_eq!(controller.hansa(&["enroll", "--role", "dns", "--id", "d", "-o", "json"]).json(), token);
    let file = controller.file("t");
    let ran =
        controller.hansa(&["peer", "invite", "--name", "gcp-eu", "--out", file.to_str().unwrap(), "-q"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert!(!ran.out.contains("hansa-enroll-abc"), "a token in a file is not printed too");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "hansa-enroll-abc\n");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let bodies: Vec<Value> =
        controller.asked().iter().map(|(_, body)| serde_json::from_str(body).unwrap()).collect();
    assert_eq!(bodies[0], json!({ "role": "gateway", "id": "gateway-1", "ttlSeconds": 3600 }));
    assert_eq!(bodies[2], json!({ "name": "gcp-eu", "ttlSeconds": null }));
}

#[test]
fn joining_reads_a_file_or_stdin() {
    let joined = json!({ "id": "aws-eu", "trustDomain": "aws-eu.example", "gateways": 2 });
    let controller = Controller::new([("POST /v1/join", 200, joined)]);
    let file = controller.file("t");
    std::fs::write(&file, "  tok\n").unwrap();
    let ran_file = controller.hansa(&["peer", "join", file.to_str().unwrap()]);
    assert!(ran_file.out.contains("joined aws-eu"), "{ran_file:?}");
    let mut from_stdin = command(&["peer", "join", "-", "--socket"]);
    from_stdin.arg(controller.socket()).stdin(std::fs::File::open(&file).unwrap());
    assert_eq!(ran(from_stdin.output().unwrap()).code, 0);
    for (_, body) in controller.asked() {
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), json!({ "token": "tok" }));
    }
    let missing = controller.hansa(&["peer", "join", "/nonexistent/t"]);
    assert_eq!(missing.code, 1);
    assert!(missing.err.contains("HNS-7007"), "{}", missing.err);
}

#[test]
fn errors_of_the_controller_pass_with_their_exit_code() {
    let error = |code| serde_json::to_value(view::Error::new(code, "token", "cause")).unwrap();
    let controller = Controller::new([
        ("POST /v1/join", 409, error(trust::TOKEN_EXPIRED)),
        ("POST /v1/invite", 503, error(control::NO_GATEWAY)),
        ("GET /v1/services", 200, json!({ "not": "a list" })),
    ]);
    let file = controller.file("t");
    std::fs::write(&file, "tok").unwrap();
    let refused = controller.hansa(&["peer", "join", file.to_str().unwrap(), "-o", "json"]);
    assert_eq!((refused.code, refused.out.as_str()), (5, ""));
    assert_eq!(refused.error(), error(trust::TOKEN_EXPIRED));
    assert_eq!(controller.hansa(&["peer", "invite"]).code, 3);
    let garbled = controller.hansa(&["services"]);
    assert_eq!(garbled.code, 70);
    assert!(garbled.err.contains("HNS-7006"), "{}", garbled.err);
    assert_eq!(controller.hansa(&["trust", "list"]).code, 70, "an older controller");
}

#[test]
fn peers_and_trust_are_shown_and_changed() {
    let trust = json!({ "trustDomain": "aws-eu.example", "owner": "own", "sequence": 3, "refreshHintSeconds": 300,
        "roots": [{ "fingerprint": "ab12", "notBefore": "2026-01-01T00:00:00Z",
            "notAfter": "2036-01-01T00:00:00Z", "active": true }],
        "rotation": "published", "denied": [], "told": [], "bundle": { "keys": [] } });
    let mut denied = trust.clone();
    denied["denied"] = json!(["spiffe://aws-eu.example/hansa/gateway/gateway-2"]);
    let mut peer = trust.clone();
    (peer["owner"], peer["told"]) = (json!("gcp-eu"), json!(["spiffe://gcp-eu.example/hansa/gateway/g-7"]));
    let controller = Controller::new([
        ("DELETE /v1/peers/gcp-eu", 204, Value::Null),
        ("GET /v1/trust", 200, json!([trust.clone(), peer])),
        ("POST /v1/trust/rotate", 200, trust.clone()),
        ("POST /v1/trust/deny", 200, denied.clone()),
        ("POST /v1/trust/allow", 200, trust),
        ("DELETE /v1/nodes/gateway/gateway-2", 204, Value::Null),
    ]);
    assert!(controller.hansa(&["trust", "deny", "gateway-2"]).out.contains("hansa/gateway/gateway-2"));
    let (_, body) = controller.asked().pop().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), json!({ "what": "gateway-2" }));
    assert_eq!(controller.hansa(&["trust", "deny", "gateway-2", "-o", "json"]).json(), denied);
    assert!(controller.hansa(&["trust", "allow", "gateway-2"]).out.contains("nothing is denied"));
    let forgot = controller.hansa(&["forget", "--role", "gateway", "--id", "gateway-2", "-o", "json"]);
    assert_eq!(forgot.json(), json!({ "role": "gateway", "id": "gateway-2" }), "{}", forgot.err);
    let removed = controller.hansa(&["peer", "remove", "gcp-eu", "-o", "json"]);
    assert_eq!(removed.json(), json!({ "id": "gcp-eu" }), "{}", removed.err);
    assert!(controller.hansa(&["trust", "list"]).out.contains("published"));
    assert!(controller.hansa(&["trust", "list"]).out.contains("1 by its own word"));
    let shown = controller.hansa(&["trust", "show", "gcp-eu"]).out;
    assert!(shown.contains("gateway/g-7"), "{shown}");
    let shown = controller.hansa(&["trust", "show"]).out;
    assert!(shown.contains("ab12") && shown.contains("\"keys\""), "{shown}");
    let unknown = controller.hansa(&["trust", "show", "nobody"]);
    assert_eq!(unknown.code, 1);
    assert!(unknown.err.contains("HNS-7005"));
    assert_eq!(controller.hansa(&["trust", "rotate", "activate", "--force"]).code, 0);
    let (_, body) = controller.asked().pop().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), json!({ "phase": "activate", "force": true }));
}
