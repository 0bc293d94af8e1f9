//! `check` and `dns query` against a real DNS socket and real TCP listeners on loopback.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod common;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use common::Controller;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};
use serde_json::{Value, json};

/// A DNS server that knows one name; everything else does not exist.
fn dns(name: &'static str, address: Ipv4Addr) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            let mut message = Message::from_vec(&buffer[..len]).unwrap().into_response();
            let query = message.queries[0].clone();
            let known = query.name().to_string().trim_end_matches('.') == name;
            if known && query.query_type() == RecordType::A {
                message.add_answer(Record::from_rdata(query.name().clone(), 5, RData::A(A(address))));
            } else if !known {
                message.metadata.response_code = ResponseCode::NXDomain;
            }
            socket.send_to(&message.to_vec().unwrap(), from).unwrap();
        }
    });
    at
}

/// An HTTP server in place of a gateway's virtual address; returns its port.
fn http() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut buffer = [0; 1024];
            let read = stream.read(&mut buffer).unwrap_or(0);
            assert!(buffer[..read].starts_with(b"HEAD / HTTP/1.1\r\n"));
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
        }
    });
    port
}

const NAME: &str = "checkout.shop.svc.clusterset.local";

/// A controller that knows one path, which is well as far as gateways see it.
fn controller(dns: SocketAddr, port: u16, vip: IpAddr) -> Controller {
    let hop = |id: &str, ok: Value, detail: &str| json!({ "id": id, "ok": ok, "code": null, "seconds": 0.001, "detail": detail });
    let path = json!({ "service": format!("shop/checkout:{port}"), "gateway": "gateway-1", "peer": "gcp-eu",
        "peerGateway": "gateway-2", "hops": [
            hop("name", Value::Null, ""), hop("address", Value::Null, &vip.to_string()),
            hop("gateway", Value::Null, ""), hop("tunnel", json!(true), "quic"),
            hop("peer-gateway", json!(true), ""), hop("endpoint", json!(true), "")] });
    let service = json!({ "name": "shop/checkout", "kind": "ClusterSetIP", "clusters": ["gcp-eu"],
        "ports": [format!("http {port}/TCP")], "vips": [vip.to_string()], "conditions": [] });
    Controller::new([
        ("GET /v1/check", 200, json!({ "paths": [path] })),
        ("GET /v1/endpoints", 200, json!({ "dns": [dns.to_string()] })),
        ("GET /v1/services", 200, json!([service])),
    ])
}

fn hops(check: &Value) -> Vec<(String, Option<bool>)> {
    let hops = check["paths"][0]["hops"].as_array().unwrap();
    hops.iter().map(|hop| (hop["id"].as_str().unwrap().to_owned(), hop["ok"].as_bool())).collect()
}

fn broken_at(check: &Value, id: &str, code: &str) {
    let all = hops(check);
    let at = all.iter().position(|hop| hop.0 == id).unwrap();
    assert!(all[..at].iter().all(|hop| hop.1 == Some(true)), "{check:#}");
    assert_eq!(all[at].1, Some(false), "{check:#}");
    assert!(all[at + 1..].iter().all(|hop| hop.1.is_none()), "{check:#}");
    assert_eq!(check["paths"][0]["hops"][at]["code"], code, "{check:#}");
}

#[test]
fn a_good_path_is_walked_to_its_end() {
    let local = Ipv4Addr::LOCALHOST;
    let controller = controller(dns(NAME, local), http(), local.into());
    let check = controller.hansa(&["check", "checkout.shop", "-o", "json"]);
    assert_eq!(check.code, 0, "{check:?}");
    let ids: Vec<String> = hops(&check.json()).into_iter().map(|hop| hop.0).collect();
    assert_eq!(ids, ["name", "address", "gateway", "tunnel", "peer-gateway", "endpoint"]);
    assert!(check.json()["paths"][0]["hops"][2]["detail"].as_str().unwrap().contains("204"), "{}", check.out);
    let table = controller.hansa(&["check", "--peer", "gcp-eu"]);
    assert!(table.out.contains("1 of 1 paths are well"), "{}", table.out);
    let questions: Vec<String> = controller.asked().into_iter().map(|(line, _)| line).collect();
    assert!(questions.contains(&"GET /v1/check?service=shop/checkout".to_owned()), "{questions:?}");
    assert!(questions.contains(&"GET /v1/check?peer=gcp-eu".to_owned()), "{questions:?}");
}

#[test]
fn a_missing_name_is_the_first_broken_hop() {
    let local = Ipv4Addr::LOCALHOST;
    let controller = controller(dns("other.shop.svc.clusterset.local", local), http(), local.into());
    let check = controller.hansa(&["check", "-o", "json"]);
    assert_eq!(check.code, 1);
    broken_at(&check.json(), "name", "HNS-7009");
    let said: Value = serde_json::from_str(check.err.trim()).unwrap();
    assert_eq!((&said["code"], &said["object"]), (&"HNS-7003".into(), &"1 of 1 paths".into()), "{said}");
}

#[test]
fn a_silent_dns_server_is_the_first_broken_hop() {
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let local = Ipv4Addr::LOCALHOST;
    let controller = controller(silent.local_addr().unwrap(), http(), local.into());
    let check = controller.hansa(&["check", "-o", "json", "--timeout", "300ms"]);
    assert_eq!(check.code, 1);
    broken_at(&check.json(), "name", "HNS-7008");
}

#[test]
fn an_address_of_another_gateway_is_a_broken_hop() {
    let vip = Ipv4Addr::new(127, 0, 0, 9);
    let controller = controller(dns(NAME, Ipv4Addr::LOCALHOST), http(), vip.into());
    broken_at(&controller.hansa(&["check", "-o", "json"]).json(), "address", "HNS-7010");
}

#[test]
fn a_closed_port_is_a_broken_hop() {
    let local = Ipv4Addr::LOCALHOST;
    // Nobody listens on it.
    let controller = controller(dns(NAME, local), 1, local.into());
    let check = controller.hansa(&["check"]);
    assert_eq!(check.code, 1);
    assert!(check.out.contains("gateway: HNS-7011") && check.out.contains("0 of 1"), "{}", check.out);
}

#[test]
fn a_gateway_that_walked_nothing_is_a_broken_hop() {
    let hop = |id: &str| json!({ "id": id, "ok": null, "code": null, "seconds": null, "detail": "" });
    let (local, port) = (Ipv4Addr::LOCALHOST, http());
    let path = json!({ "service": format!("shop/checkout:{port}"), "gateway": "gateway-2", "peer": "gcp-eu",
        "peerGateway": null, "hops": [hop("name"), hop("address"),
            { "id": "gateway", "ok": false, "code": "HNS-4009", "seconds": null, "detail": "gone" }] });
    let controller = Controller::new([
        ("GET /v1/check", 200, json!({ "paths": [path] })),
        ("GET /v1/endpoints", 200, json!({ "dns": [dns(NAME, local).to_string()] })),
        ("GET /v1/services", 200, json!([])),
    ]);
    let check = controller.hansa(&["check", "-o", "json"]);
    assert_eq!(check.code, 1, "{check:?}");
    broken_at(&check.json(), "gateway", "HNS-4009");
}

#[test]
fn an_endpoint_that_speaks_no_http_is_a_broken_hop() {
    let local = Ipv4Addr::LOCALHOST;
    let mute = TcpListener::bind((local, 0)).unwrap();
    let controller = controller(dns(NAME, local), mute.local_addr().unwrap().port(), local.into());
    let check = controller.hansa(&["check", "-o", "json", "--timeout", "300ms"]);
    broken_at(&check.json(), "endpoint", "HNS-7012");
}

#[test]
fn questions_reach_the_server_of_the_cluster_or_the_one_named() {
    let server = dns(NAME, Ipv4Addr::new(10, 96, 0, 1));
    let controller = controller(server, 1, Ipv4Addr::LOCALHOST.into());
    let answer = controller.hansa(&["dns", "query", "checkout.shop", "-o", "json"]).json();
    assert_eq!((answer["rcode"].as_str(), answer["name"].as_str()), (Some("NOERROR"), Some(NAME)));
    assert_eq!(
        (&answer["answers"][0]["data"], &answer["answers"][0]["ttl"]),
        (&json!("10.96.0.1"), &json!(5))
    );
    let table = common::hansa(&["dns", "query", NAME, "--server", &server.to_string()]);
    assert!(table.out.contains("NOERROR") && table.out.contains("10.96.0.1"), "{table:?}");
    let unknown = common::hansa(&["dns", "query", "nobody.shop", "--server", &server.to_string()]);
    assert_eq!(unknown.code, 1);
    assert!(unknown.out.contains("NXDOMAIN"), "{unknown:?}");
    let usage = common::hansa(&["dns", "query", NAME, "NONSENSE", "--server", &server.to_string()]);
    assert_eq!(usage.code, 64);
}
