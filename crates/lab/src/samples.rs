//! The sample services of the demo: what they are called, where they run, which program serves them.
//! Called by bring-up; only describes.

use std::net::SocketAddr;
use std::path::Path;

use crate::config::{Port, Sample};
use crate::spec::{Host, MemberId, Plan};

/// A sample server process.
#[derive(Debug, Clone)]
pub struct Server {
    /// Pod name.
    pub pod: String,
    /// Where it runs.
    pub host: Host,
    /// Which program it is.
    pub kind: Kind,
    /// Where it listens.
    pub listen: SocketAddr,
}

/// Which program a sample server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Ours: `hansa lab serve-http`.
    Http,
    /// `redis-server`.
    Redis,
    /// Ours: `hansa lab serve-udp`.
    Udp,
}

/// What one member offers: service by service, with its servers.
#[must_use]
pub fn of(plan: &Plan, member: MemberId) -> Vec<(Sample, Vec<Server>)> {
    match member {
        MemberId::AwsEu => vec![checkout(plan, member), kafka(plan, member)],
        MemberId::GcpEu => vec![checkout(plan, member), telemetry(plan, member)],
        MemberId::Rack1 => vec![cart(plan, member)],
    }
}

/// The program and arguments of a server; `file` names a file of the given kind in the member's folder.
#[must_use]
pub fn command(server: &Server, member: MemberId, hansa: &Path, home: &Path) -> (String, Vec<String>) {
    let hansa = hansa.to_string_lossy().into_owned();
    let listen = server.listen.to_string();
    let log = home.join(format!("{}.requests.jsonl", server.pod)).to_string_lossy().into_owned();
    let ours = |verb: &str| -> Vec<String> {
        ["lab", verb, "--listen", &listen, "--member", member.as_str(), "--pod", &server.pod, "--log", &log]
            .map(String::from)
            .to_vec()
    };
    match server.kind {
        Kind::Http => (hansa, ours("serve-http")),
        Kind::Udp => (hansa, ours("serve-udp")),
        Kind::Redis => {
            let (ip, port) = (server.listen.ip().to_string(), server.listen.port().to_string());
            let args = ["--bind", &ip, "--port", &port, "--save", "", "--appendonly", "no"];
            let mut args: Vec<String> = args.map(String::from).to_vec();
            args.extend(["--protected-mode".into(), "no".into(), "--dir".into()]);
            args.push(home.to_string_lossy().into_owned());
            ("redis-server".into(), args)
        }
    }
}

fn service(
    plan: &Plan,
    member: MemberId,
    sample: (&str, &str),
    port: Port,
    servers: &[(&str, u8)],
) -> (Sample, Vec<Server>) {
    let kind = match (port.name, port.protocol) {
        (_, "UDP") => Kind::Udp,
        ("redis", _) => Kind::Redis,
        _ => Kind::Http,
    };
    let list: Vec<Server> = servers
        .iter()
        .map(|(pod, app)| Server {
            pod: (*pod).into(),
            host: Host::App(*app),
            kind,
            listen: SocketAddr::from((plan.inside(member, Host::App(*app)), port.target)),
        })
        .collect();
    let pods =
        servers.iter().map(|(pod, app)| ((*pod).to_string(), plan.inside(member, Host::App(*app)))).collect();
    let sample = Sample {
        name: sample.0.into(),
        namespace: sample.1.into(),
        port,
        pods,
        headless: sample.0 == "kafka",
    };
    (sample, list)
}

fn checkout(plan: &Plan, member: MemberId) -> (Sample, Vec<Server>) {
    let port = Port { name: "http", port: plan.http_port(), target: 8080, protocol: "TCP" };
    service(plan, member, ("checkout", "shop"), port, &[("checkout-1", 1)])
}

fn cart(plan: &Plan, member: MemberId) -> (Sample, Vec<Server>) {
    let port = Port { name: "redis", port: 6379, target: 6379, protocol: "TCP" };
    service(plan, member, ("cart", "shop"), port, &[("cart-1", 1)])
}

fn telemetry(plan: &Plan, member: MemberId) -> (Sample, Vec<Server>) {
    let port = Port { name: "syslog", port: 5140, target: 5140, protocol: "UDP" };
    service(plan, member, ("telemetry", "ops"), port, &[("telemetry-1", 2)])
}

fn kafka(plan: &Plan, member: MemberId) -> (Sample, Vec<Server>) {
    let port = Port { name: "broker", port: 9092, target: 9092, protocol: "TCP" };
    service(plan, member, ("kafka", "data"), port, &[("kafka-0", 2), ("kafka-1", 3), ("kafka-2", 4)])
}
