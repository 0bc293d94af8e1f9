//! The tools people have: dig, kdig, dnsperf, curl and redis-cli as clients in the members.

use std::fmt::Write as _;

use crate::fabric::{Fabric, tool};

fn dig(fabric: &Fabric, args: &[&str]) -> String {
    fabric.exec("gcp-eu", &[&["dig", "+time=2", "+tries=1"], args].concat())
}

/// A headless service with so many pods that its addresses need more than one UDP packet.
fn many_pods(count: u8) -> String {
    let mut endpoints = String::new();
    for pod in 0..count {
        writeln!(
            endpoints,
            "- {{addresses: [10.0.3.{pod}], hostname: pod-{pod}, conditions: {{ready: true}}}}"
        )
        .unwrap();
    }
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: many, namespace: data}}
spec: {{clusterIP: None, ports: [{{name: web, port: 80}}]}}
---
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {{name: many, namespace: data}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: many, namespace: data, labels: {{kubernetes.io/service-name: many}}}}
addressType: IPv4
ports: [{{name: web, port: 80}}]
endpoints:
{endpoints}"
    )
}

fn dig_judges(fabric: &Fabric) {
    let name = "checkout.shop.svc.clusterset.local";
    let address = dig(fabric, &[name, "A", "+short"]);
    assert!(!address.is_empty() && address.lines().all(|line| line.contains('.')), "{address}");
    let header = |args: &[&str]| dig(fabric, &[args, &["+noall", "+comments"]].concat());
    let found = header(&[name, "A"]);
    assert!(found.contains("status: NOERROR") && found.contains("qr aa rd"), "{found}");
    assert!(found.contains("EDNS: version: 0") && found.contains("udp: 1232"), "{found}");
    let none = header(&[name, "AAAA"]);
    assert!(none.contains("status: NOERROR") && none.contains("ANSWER: 0, AUTHORITY: 1"), "{none}");
    let missing = header(&["no.shop.svc.clusterset.local", "A"]);
    assert!(missing.contains("status: NXDOMAIN") && missing.contains("AUTHORITY: 1"), "{missing}");
    let version = header(&[name, "A", "+edns=1", "+noednsneg"]);
    assert!(version.contains("status: BADVERS"), "{version}");
    let plain = header(&[name, "A", "+noedns"]);
    assert!(plain.contains("ADDITIONAL: 0") && !plain.contains("EDNS"), "{plain}");
    let unknown = header(&[name, "A", "+opcode=5"]);
    assert!(unknown.contains("status: NOTIMP"), "{unknown}");
    let chaos = header(&["-c", "CH", name, "A"]);
    assert!(chaos.contains("status: REFUSED"), "{chaos}");
    let outside = header(&["www.example.org", "A"]);
    let why = "EDE: 20 (Not Authoritative): (HNS-6005 forwarding is off)";
    assert!(outside.contains("status: REFUSED") && outside.contains(why), "{outside}");

    assert_eq!(dig(fabric, &["dns-version.clusterset.local", "TXT", "+short"]).trim(), "\"1.0.0\"");
    let service = dig(fabric, &[&format!("_http._tcp.{name}"), "SRV", "+short"]);
    assert_eq!(service.trim(), format!("0 0 80 {name}."));
    let pods = dig(fabric, &["kafka.data.svc.clusterset.local", "SRV", "+short"]);
    for pod in 0..3 {
        assert!(pods.contains(&format!(" kafka-{pod}.aws-eu.kafka.data.svc.clusterset.local.")), "{pods}");
    }
    let pod = dig(fabric, &["kafka-0.aws-eu.kafka.data.svc.clusterset.local", "A", "+short"]);
    assert!(pod.contains('.'), "{pod}");
    let echoed = dig(fabric, &["CheckOUT.Shop.svc.clusterset.local", "A", "+noall", "+answer"]);
    assert!(echoed.starts_with("CheckOUT.Shop.svc.clusterset.local."), "{echoed}");
}

fn dig_follows_truncation(fabric: &Fabric) {
    std::fs::write(fabric.path("aws-eu/manifests/many.yaml"), many_pods(120)).unwrap();
    let name = "many.data.svc.clusterset.local";
    let ask = ["dig", name, "A", "+short"];
    let all = fabric.exec_until("gcp-eu", &ask, |said| said.lines().count() >= 120);
    // dig got TC over UDP and asked again over TCP by itself.
    assert_eq!(all.lines().filter(|line| !line.starts_with(';')).count() % 120, 0, "{all}");
    for (limit, bytes) in [("+noedns", 512), ("+bufsize=512", 512), ("+bufsize=4096", 1_232)] {
        let cut = dig(fabric, &[name, "A", "+ignore", limit]);
        assert!(cut.contains("qr aa tc rd"), "{limit}: {cut}");
        let size = cut.lines().find_map(|line| line.strip_prefix(";; MSG SIZE  rcvd: ")).unwrap();
        assert!(size.trim().parse::<u32>().unwrap() <= bytes, "{limit}: {size}");
    }
}

fn kdig_agrees(fabric: &Fabric) {
    let name = "checkout.shop.svc.clusterset.local";
    let sorted = |text: String| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let digs = sorted(dig(fabric, &[name, "A", "+short"]));
    for how in ["+notcp", "+tcp", "+edns", "+dnssec", "+bufsize=600"] {
        let kdigs = sorted(fabric.exec("gcp-eu", &["kdig", name, "A", "+short", how]));
        assert_eq!(kdigs, digs, "{how}");
    }
}

fn dnsperf_gets_every_answer(fabric: &Fabric) {
    let questions = fabric.path("questions");
    let names = ["checkout.shop", "kafka.data", "no.shop", "cart.shop"];
    let lines = names.map(|name| format!("{name}.svc.clusterset.local A\n"));
    std::fs::write(&questions, lines.concat()).unwrap();
    let server = fabric.exec("gcp-eu", &["dig", "dns-version.clusterset.local", "TXT"]);
    let server = server.lines().find_map(|line| line.strip_prefix(";; SERVER: ")).unwrap();
    let (host, port) = server.split_once('(').unwrap().0.split_once('#').unwrap();
    let file = questions.to_string_lossy();
    let said =
        fabric.exec("gcp-eu", &["dnsperf", "-s", host, "-p", port, "-d", &file, "-n", "500", "-q", "20"]);
    let row = |name: &str| said.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim);
    assert!(row("Queries completed:").is_some_and(|text| text.starts_with("2000 ")), "{said}");
    let codes = row("Response codes:").unwrap();
    assert!(codes.contains("NOERROR 1500") && codes.contains("NXDOMAIN 500"), "{codes}");
}

fn stock_clients_are_served(fabric: &Fabric) {
    let url = "http://checkout.shop.svc.clusterset.local/referee";
    for member in ["aws-eu", "gcp-eu", "rack-1"] {
        let said = fabric.exec(member, &["curl", "-sS", "--fail", "--max-time", "5", url]);
        assert!(said.contains("\"path\":\"/referee\""), "{member}: {said}");
    }
    let redis = |member: &str, words: &[&str]| {
        let program = ["timeout", "10", "redis-cli", "-h", "cart.shop.svc.clusterset.local"];
        fabric.exec(member, &[&program, words].concat()).trim().to_owned()
    };
    let big = "x".repeat(100_000);
    assert_eq!(redis("aws-eu", &["set", "referee", &big]), "OK");
    assert_eq!(redis("gcp-eu", &["get", "referee"]), big);
    assert_eq!(redis("gcp-eu", &["strlen", "referee"]), "100000");
}

#[test]
fn stock_tools_find_and_use_services() {
    for (name, package) in [
        ("dig", "dnsutils"),
        ("kdig", "knot-dnsutils"),
        ("dnsperf", "dnsperf"),
        ("curl", "curl"),
        ("redis-cli", "redis-tools"),
    ] {
        tool(name, package);
    }
    let fabric = Fabric::up();
    dig_judges(&fabric);
    dig_follows_truncation(&fabric);
    kdig_agrees(&fabric);
    dnsperf_gets_every_answer(&fabric);
    stock_clients_are_served(&fabric);
}
