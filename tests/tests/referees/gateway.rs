//! aioquic with a real gateway's certificate, as requester of a real gateway's inbound.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use hansa_http3::Code;
use serde_json::{Value, json};

use crate::aioquic;
use crate::fabric::{Fabric, text};

pub(crate) const CHECKOUT: &str = "checkout.shop.svc.clusterset.local:80";
const REQUEST: &str = "GET /referee HTTP/1.1\\r\\nhost: a\\r\\nconnection: close\\r\\n\\r\\n";

/// aioquic in the place of `from`, with the certificate of `as_who`, towards gateway 1 of `to`.
pub(crate) fn dialler(fabric: &Fabric, from: &str, as_who: Option<(&str, &str)>, to: &str) -> Command {
    let mut command = fabric.in_place(from, "gateway-1", &aioquic::python());
    let (host, port) = fabric.link(to, "gateway-1");
    command.arg("-B").arg(aioquic::path("client.py")).args(["--host", &host]);
    if let Some((member, name)) = as_who {
        let (chain, key) = fabric.identity(member, name);
        command.arg("--identity").args([chain, key]);
    }
    // Its trust is judged elsewhere; here it is ours.
    command.arg(port.to_string()).arg("-").stdin(Stdio::null());
    command
}

fn play(fabric: &Fabric, to: &str, case: &[&str]) -> Value {
    let from = if to == "aws-eu" { "gcp-eu" } else { "aws-eu" };
    let mut command = dialler(fabric, from, Some((from, "gateway-1")), to);
    println!("{case:?} at {to}");
    aioquic::parse(text(command.args(case).output().unwrap()).lines().last().unwrap())
}

fn status(seen: &Value) -> &str {
    seen["headers"][0][0][1].as_str().unwrap_or("none")
}

/// TCP and UDP services through a tunnel of aioquic.
pub(crate) fn services_answer(fabric: &Fabric) {
    let seen = play(fabric, "aws-eu", &["ask", CHECKOUT, REQUEST]);
    assert_eq!(status(&seen), "200");
    let said = seen["data"].as_str().unwrap();
    assert!(said.starts_with("HTTP/1.1 200") && said.contains("\"member\":\"aws-eu\""), "{said}");
    assert_eq!(seen["ended"], true);

    let seen =
        play(fabric, "gcp-eu", &["datagrams", "telemetry.ops.svc.clusterset.local:5140", "1", "512", "1100"]);
    assert_eq!(status(&seen), "200", "{seen}");
    let wanted =
        [("a", 1), ("b", 512), ("c", 1_100)].map(|(letter, size)| format!("\0{}", letter.repeat(size)));
    assert_eq!(seen["datagrams"], json!(wanted), "echoed unchanged");
}

fn refusals_say_why(fabric: &Fabric) {
    for (authority, wanted) in [
        ("nothing.shop.svc.clusterset.local:80", "404"),
        ("checkout.shop.svc.clusterset.local:81", "404"),
        // Only rack-1 has it: a gateway serves its own cluster and no other.
        ("cart.shop.svc.clusterset.local:6379", "404"),
        ("10.0.1.1:8080", "400"),
        ("localhost:15020", "400"),
        ("checkout.shop.svc.cluster.local:80", "400"),
    ] {
        let seen = play(fabric, "aws-eu", &["refused", authority]);
        assert_eq!(status(&seen), wanted, "{authority}: {seen}");
        let why = seen["headers"][0][1][1].as_str().unwrap();
        assert!(why.starts_with("aws-eu-gateway-1;error=") && why.contains("details=\""), "{why}");
    }
}

fn wrong_bytes_get_their_codes(fabric: &Fabric) {
    for (case, code) in [
        (["raw", "bidi", "000178", "end"], Code::H3_FRAME_UNEXPECTED),
        (["raw", "bidi", "0103000080", "end"], Code::QPACK_DECOMPRESSION_FAILED),
        (["raw", "control", "0400", "open"], Code::H3_FRAME_UNEXPECTED),
        (["raw", "uni", "000400", "open"], Code::H3_STREAM_CREATION_ERROR),
        (["raw", "encoder", "3fe11f", "open"], Code::QPACK_ENCODER_STREAM_ERROR),
        (["raw", "datagram", "40", "open"], Code::H3_DATAGRAM_ERROR),
    ] {
        let seen = play(fabric, "aws-eu", &case);
        assert_eq!(seen["closed"]["code"], code.value(), "{case:?}: {seen}");
    }
    let seen = play(fabric, "aws-eu", &["fields", "a.example", "/", "4", "20000"]);
    assert_eq!(seen["reset"], Code::H3_EXCESSIVE_LOAD.value());
}

/// Who is no gateway of a peer gets no answer to anything.
fn strangers_stay_out(fabric: &Fabric) {
    let certificate = crate::ours::Certificate::new();
    let stranger = |command: &mut Command| command.arg("refused").arg(CHECKOUT).output().unwrap();
    let mut none = dialler(fabric, "gcp-eu", None, "aws-eu");
    // A DNS server of the peer: the right domain, the wrong role.
    let mut role = dialler(fabric, "gcp-eu", Some(("gcp-eu", "dns")), "aws-eu");
    let mut own = fabric.in_place("gcp-eu", "gateway-1", &aioquic::python());
    let (host, port) = fabric.link("aws-eu", "gateway-1");
    own.arg("-B").arg(aioquic::path("client.py")).args(["--host", &host, "--identity"]);
    own.args([certificate.chain(), certificate.key()]).arg(port.to_string()).arg("-");
    for (who, command) in [("none", &mut none), ("role", &mut role), ("self-made", &mut own)] {
        let out = stranger(command);
        let line = String::from_utf8(out.stdout).unwrap();
        let seen: Value = serde_json::from_str(line.lines().last().unwrap()).unwrap();
        let shut = seen.get("failed").is_some() || seen["closed"]["code"].as_u64().is_some();
        assert!(shut && seen["headers"].as_array().is_none_or(Vec::is_empty), "{who}: {seen}");
    }
}

/// SIGTERM: GOAWAY, running tunnels end in their own time, new ones are rejected.
fn a_drain_says_goaway(fabric: &Fabric) {
    let mut command = dialler(fabric, "gcp-eu", Some(("gcp-eu", "gateway-1")), "aws-eu");
    command.args(["last_words", CHECKOUT]).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = aioquic::parse(&lines.next().unwrap().unwrap());
    assert_eq!(first["waiting"], true);
    fabric.signal("aws-eu", "gateway-1", "-TERM");
    let seen = aioquic::parse(&lines.next().unwrap().unwrap());
    assert!(child.wait().unwrap().success());
    assert_eq!(seen["goaways"].as_array().unwrap().len(), 1, "{seen}");
    assert_eq!(seen["late"]["reset"], Code::H3_REQUEST_REJECTED.value(), "{seen}");
    assert_eq!((status(&seen["running"]), &seen["running"]["ended"]), ("200", &json!(true)), "{seen}");
}

#[test]
fn aioquic_with_a_gateways_certificate() {
    let fabric = Fabric::up();
    services_answer(&fabric);
    refusals_say_why(&fabric);
    strangers_stay_out(&fabric);
    wrong_bytes_get_their_codes(&fabric);
    // After all that it still serves.
    services_answer(&fabric);
    a_drain_says_goaway(&fabric);
}
