//! A whole member of real processes, and what may be wrong on its disks and with its limits: every fault is
//! told with its code, and everything else goes on.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod common;

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::server::{Server, ask, configure, ports, start, started};
use common::{Ran, command, ran};
use tempfile::TempDir;

const LONG: Duration = Duration::from_secs(30);

/// One controller, one gateway and one DNS server, configured; and a server that says `hello` to whoever
/// connects.
struct Member {
    dir: TempDir,
    dns: SocketAddr,
    service: u16,
    hello: u16,
}

/// The running servers, the controller first.
type Servers = [Server; 3];

const NODES: [&str; 2] = ["gateway", "dns"];

impl Member {
    /// Everything enrolled and running, with virtual addresses on loopback.
    fn start() -> (Self, Servers) {
        Self::start_with("127.61.0.0/16")
    }

    /// The same with other virtual addresses.
    fn start_with(vips: &str) -> (Self, Servers) {
        let dir = tempfile::tempdir().unwrap();
        let [listen, admin, health, dns, service] = ports();
        let file = configure(dir.path(), "one", [listen, admin, health]);
        let text = std::fs::read_to_string(&file).unwrap() + &format!("vip: {{prefixes: ['{vips}']}}\n");
        std::fs::write(&file, text).unwrap();
        let dns = SocketAddr::from((Ipv4Addr::LOCALHOST, dns));
        let member = Self { dir, dns, service, hello: hello() };
        let controller = member.serve("controller");
        for node in NODES {
            let token = member.path(&format!("{node}.token"));
            let out = token.to_str().unwrap();
            assert_eq!(member.ask(&["enroll", "--role", node, "--id", node, "--out", out]).code, 0);
            std::fs::write(member.path(&format!("{node}.yaml")), member.node(node, listen)).unwrap();
        }
        let servers = [controller, member.serve("gateway"), member.serve("dns")];
        let enrolled = || NODES.iter().all(|node| member.state(node).join("bundle.json").exists());
        until(enrolled, "not enrolled", &servers.each_ref());
        (member, servers)
    }

    /// The configuration of a gateway or a DNS server.
    fn node(&self, node: &str, controller: u16) -> String {
        let [admin, health, tunnel, relay] = ports();
        let own = match node {
            "gateway" => format!(
                "tunnel: {{listen: ['127.0.0.1:{tunnel}']}}\nrelay: {{listen: '127.0.0.1:{relay}'}}\n\
                 drain: {{deadline: 0s, accept: 0s}}\n"
            ),
            _ => format!("listen: ['{}']\nforward: {{upstreams: []}}\n", self.dns),
        };
        format!(
            "id: {node}\ncluster: aws-eu\nstateDir: {}\ncontroller: ['127.0.0.1:{controller}']\nenrollToken: {}\n\
             admin: {{listen: '127.0.0.1:{admin}'}}\nhealth: {{listen: '127.0.0.1:{health}'}}\n{own}",
            self.state(node).display(),
            self.path(&format!("{node}.token")).display(),
        )
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn state(&self, server: &str) -> PathBuf {
        self.path(if server == "controller" { "one/state" } else { server })
    }

    fn config(&self, server: &str) -> String {
        let name = if server == "controller" { "one" } else { server };
        self.path(&format!("{name}.yaml")).to_str().unwrap().to_owned()
    }

    fn serve(&self, server: &str) -> Server {
        match server {
            "controller" => start(&self.config(server)),
            "gateway" => self.serve_without_capability(),
            _ => started(command(&[server, "--config", &self.config(server)])),
        }
    }

    /// A gateway that may not change routes, whoever runs the tests: loopback needs none.
    fn serve_without_capability(&self) -> Server {
        let mut bare = Command::new("sh");
        let run = format!("{} gateway --config {}", env!("CARGO_BIN_EXE_hansa"), self.config("gateway"));
        let drop = "setpriv --bounding-set=-net_admin --inh-caps=-net_admin";
        let script = format!("[ $(id -u) != 0 ] || exec {drop} {run}; exec {run}");
        bare.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).args(["-c", &script]);
        started(bare)
    }

    /// Where no file can grow: what a full disk answers, without a disk of its own.
    fn serve_on_a_full_disk(&self, server: &str) -> Server {
        let mut full = Command::new("sh");
        let hansa = env!("CARGO_BIN_EXE_hansa");
        let run = format!("exec {hansa} {server} --config {}", self.config(server));
        full.env_clear().args(["-c", &format!("trap '' XFSZ; ulimit -S -f 0; {run}")]);
        started(full)
    }

    fn ask(&self, args: &[&str]) -> Ran {
        ask(self.dir.path(), args)
    }

    /// Exports a service that leads to `hello`.
    fn export(&self, name: &str) {
        let meta =
            format!("metadata: {{name: {name}, namespace: shop, creationTimestamp: '2026-01-01T00:00:00Z'}}");
        let text = format!(
            "apiVersion: v1\nkind: Service\n{meta}\nspec: {{ports: [{{name: p, port: {port}, targetPort: {hello}}}]}}\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}-1, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}\n\
             addressType: IPv4\nports: [{{name: p, port: {hello}, protocol: TCP}}]\n\
             endpoints: [{{addresses: [127.0.0.1], conditions: {{ready: true}}}}]\n\
             ---\napiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\n{meta}\n",
            port = self.service,
            hello = self.hello,
        );
        std::fs::write(self.path(&format!("one/m/{name}.yaml")), text).unwrap();
    }

    /// The address behind the name, once it has one.
    fn address(&self, name: &str) -> Option<SocketAddr> {
        let server = self.dns.to_string();
        let asked = ["dns", "query", &format!("{name}.shop"), "--server", &server, "-o", "json"];
        let ran = self.ask(&asked);
        let answer: serde_json::Value = serde_json::from_str(&ran.out).ok()?;
        let ip = answer["answers"].as_array()?.iter().find(|record| record["type"] == "A")?;
        Some((ip["data"].as_str()?.parse::<Ipv4Addr>().ok()?, self.service).into())
    }

    /// Waits until the service answers by its name.
    fn answers(&self, name: &str, servers: &[&Server]) {
        let word = || {
            let stream = TcpStream::connect_timeout(&self.address(name)?, LONG).ok()?;
            word(stream)
        };
        until(|| word().as_deref() == Some("hello"), &format!("{name} does not answer"), servers);
    }
}

/// A server that says its word to whoever connects; its port.
fn hello() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // Who has gone does not want it.
            let _ = std::io::Write::write_all(&mut stream, b"hello");
        }
    });
    port
}

/// What the other side says until it ends.
fn word(mut stream: TcpStream) -> Option<String> {
    stream.set_read_timeout(Some(LONG)).ok()?;
    let mut said = String::new();
    stream.read_to_string(&mut said).ok()?;
    Some(said)
}

fn until(holds: impl Fn() -> bool, what: &str, servers: &[&Server]) {
    let begun = Instant::now();
    while !holds() {
        let logs = || servers.iter().map(|server| server.log()).collect::<Vec<_>>().join("\n--\n");
        assert!(begun.elapsed() < LONG, "{what}\n{}", logs());
        // Between two looks at what nobody announces.
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn says(server: &Server, code: &str) {
    until(|| server.log().contains(code), &format!("never said {code}"), &[server]);
}

/// True if the file holds this text.
fn holds(file: &Path, text: &str) -> bool {
    let bytes = std::fs::read(file).unwrap_or_default();
    bytes.windows(text.len()).any(|piece| piece == text.as_bytes())
}

/// Another limit for a running process.
fn limit(server: &Server, what: &str) {
    let id = server.child.id().to_string();
    assert!(Command::new("prlimit").args(["--pid", &id, what]).status().unwrap().success(), "{what}");
}

#[test]
fn what_is_damaged_on_a_disk_is_set_aside_with_its_code_and_all_go_on() {
    let (member, mut servers) = Member::start();
    member.export("web");
    member.answers("web", &servers.each_ref());
    let files = [
        ("controller", "controller.redb"),
        ("controller", "first-seen.json"),
        ("gateway", "routes.saved"),
        ("gateway", "paths.json"),
        ("dns", "zone.feed"),
        ("dns", "bundle.json"),
    ];
    let gone = |server: &str, file: &str| !member.state(server).join(file).exists();
    // The gateway knows of no path that failed, so it keeps no file of them.
    until(|| files.iter().all(|(s, f)| *f == "paths.json" || !gone(s, f)), "not all is on disk", &[]);
    servers.iter_mut().for_each(Server::kill);
    for (server, file) in files {
        std::fs::write(member.state(server).join(file), "{\"half\":").unwrap();
    }
    // Without its bundle the DNS server enrols anew.
    let controller = member.serve("controller");
    let out = member.path("dns.token");
    std::fs::remove_file(&out).unwrap();
    let again = ["enroll", "--role", "dns", "--id", "dns", "--out", out.to_str().unwrap()];
    assert_eq!(member.ask(&again).code, 0);
    let (gateway, dns) = (member.serve("gateway"), member.serve("dns"));
    for (server, file) in files {
        let log = match server {
            "controller" => &controller,
            "gateway" => &gateway,
            _ => &dns,
        };
        let told = || log.log().lines().any(|line| line.contains("HNS-1004") && line.contains(file));
        until(told, &format!("{server} does not tell of {file}"), &[log]);
        let aside = member.state(server).join(format!("{file}.corrupt-1"));
        assert!(aside.exists(), "{} is not kept", aside.display());
    }
    member.answers("web", &[&controller, &gateway, &dns]);
}

#[test]
fn a_full_disk_of_a_gateway_and_a_dns_server_loses_nothing_and_heals_by_itself() {
    let (member, mut servers) = Member::start();
    member.export("web");
    member.answers("web", &servers.each_ref());
    let kept = [("gateway", "routes.saved"), ("dns", "zone.feed")].map(|(s, f)| member.state(s).join(f));
    until(|| kept.iter().all(|file| holds(file, "web")), "not on disk", &servers.each_ref());
    servers[1..].iter_mut().for_each(Server::kill);
    let mut full = NODES.map(|node| member.serve_on_a_full_disk(node));
    member.export("late");
    member.answers("late", &[&full[0], &full[1]]);
    full.iter().for_each(|server| says(server, "HNS-1005"));
    assert!(
        kept.iter().all(|file| holds(file, "web") && !holds(file, "late")),
        "what is kept stays as it was"
    );
    full.iter().for_each(|server| limit(server, "--fsize=unlimited:unlimited"));
    until(|| kept.iter().all(|file| holds(file, "late")), "never kept", &[&full[0], &full[1]]);
    // It is: they start and serve without a controller.
    full.iter_mut().for_each(Server::kill);
    servers[0].kill();
    let again = NODES.map(|node| member.serve(node));
    member.answers("late", &[&again[0], &again[1]]);
}

#[test]
fn a_gateway_without_file_descriptors_says_so_and_serves_later() {
    let (member, servers) = Member::start();
    member.export("web");
    member.answers("web", &servers.each_ref());
    let gateway = &servers[1];
    let address = member.address("web").unwrap();
    limit(gateway, "--nofile=16:");
    let waiting: Vec<_> = (0..8).map(|_| TcpStream::connect_timeout(&address, LONG).unwrap()).collect();
    says(gateway, "HNS-1006");
    limit(gateway, "--nofile=4096:");
    for stream in waiting {
        assert_eq!(word(stream).as_deref(), Some("hello"));
    }
}

#[test]
fn a_dns_server_says_why_it_does_not_answer() {
    let (member, mut servers) = Member::start();
    servers.iter_mut().for_each(Server::kill);
    // There may be none yet.
    let _ = std::fs::remove_file(member.state("dns").join("zone.feed"));
    let dns = member.serve("dns");
    let server = member.dns.to_string();
    for (name, rcode, why) in [
        ("checkout.shop", "SERVFAIL", "HNS-6001 no zone yet"),
        ("www.example.org", "REFUSED", "HNS-6005 forwarding is off"),
    ] {
        let asked = ["dns", "query", name, "--server", &server];
        let json = member.ask(&[&asked[..], &["-o", "json"]].concat());
        let answer = json.json();
        assert_eq!((json.code, &answer["rcode"], &answer["why"]), (1, &rcode.into(), &why.into()));
        let shown = member.ask(&asked).out;
        assert!(shown.contains(&format!("{rcode} ({why}) from {server}")), "{shown}");
    }
    says(&dns, "HNS-4013");
}

#[test]
fn a_removed_name_that_a_dns_server_does_not_confirm_is_told() {
    let (member, servers) = Member::start();
    member.export("web");
    member.answers("web", &servers.each_ref());
    let [controller, _, dns] = &servers;
    let signal = |name: &str| {
        let id = dns.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success(), "{name}");
    };
    signal("-STOP");
    std::fs::remove_file(member.path("one/m/web.yaml")).unwrap();
    says(controller, "HNS-4011");
    signal("-CONT");
    until(|| member.address("web").is_none(), "the name stays", &servers.each_ref());
}

#[test]
fn addresses_that_a_gateway_may_not_bring_up_are_told_and_no_name_leads_there() {
    // Of a documentation range (RFC 5737): no loopback, so routes are needed.
    let (member, servers) = Member::start_with("198.51.100.0/22");
    let [_, gateway, _] = &servers;
    member.export("web");
    says(gateway, "HNS-5009");
    let status = || member.ask(&["status", "-o", "json"]).json();
    let unready = || status()["gateways"][0]["ready"] == false;
    until(unready, "it calls itself ready", &servers.each_ref());
    assert_eq!(member.address("web"), None);
}

#[test]
fn an_object_that_stands_twice_is_named_and_the_first_file_counts() {
    let (member, servers) = Member::start();
    member.export("web");
    member.answers("web", &servers.each_ref());
    let again = std::fs::read_to_string(member.path("one/m/web.yaml")).unwrap();
    let other = again.replace(&format!("port: {},", member.service), "port: 1,");
    assert_ne!(again, other);
    std::fs::write(member.path("one/m/xtra.yaml"), other).unwrap();
    let told = || member.ask(&["status", "-o", "json"]).json()["problems"].clone();
    let twice = |problem: &serde_json::Value| {
        problem["code"] == "HNS-2004" && problem["object"].as_str().is_some_and(|o| o.contains("xtra.yaml"))
    };
    until(|| told().as_array().unwrap().iter().any(twice), "not told", &[&servers[0]]);
    member.answers("web", &servers.each_ref());
}

#[test]
fn keys_that_others_may_read_or_that_are_damaged_are_named_and_left_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (member, mut servers) = Member::start();
    servers.iter_mut().for_each(Server::kill);
    let refused = |server: &str, code: &str, file: &str| {
        let ran = ran(command(&[server, "--config", &member.config(server)]).output().unwrap());
        assert!(ran.code != 0 && ran.err.contains(code) && ran.err.contains(file), "{server}: {ran:?}");
    };
    let open = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    for (server, file) in [("controller", "ca.json"), ("gateway", "identity.pem"), ("dns", "identity.pem")] {
        let path = member.state(server).join(file);
        let before = std::fs::read(&path).unwrap();
        open(&path, 0o644);
        refused(server, "HNS-3006", file);
        assert_eq!(std::fs::read(&path).unwrap(), before);
        open(&path, 0o600);
    }
    // A new root would break every peering: nobody but its operator may want one.
    let authority = member.state("controller").join("ca.json");
    std::fs::write(&authority, "{\"half\":").unwrap();
    refused("controller", "HNS-3015", "ca.json");
    assert_eq!(std::fs::read(&authority).unwrap(), b"{\"half\":");
}
