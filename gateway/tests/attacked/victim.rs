//! The gateway under attack: this test binary started again, with one gateway in it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use hansa_core::catalog::{
    Affinity, EndpointCount, GatewayInfo, LocalEndpoint, LocalService, Port, Protocol, ServiceType,
    TargetPort,
};
use hansa_core::mesh::{Candidate, Peer, RouteTable, ServiceRoute, Sibling, Transport};
use hansa_core::name::{ClusterId, NodeId};
use hansa_core::spiffe::Role;
use hansa_gateway::{Config, Gateway, Process, Table};
use hansa_identity::ca::Ca;
use hansa_runtime::config::{Sources, load};
use hansa_runtime::drain::Drain;
use hansa_runtime::logs::{self, Format, Options, Output};
use hansa_runtime::ready::Ready;
use hansa_runtime::tasks::Tasks;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::member::{Domain, LONG};

/// The service port of everything.
pub(crate) const PORT: u16 = 8080;
/// Most memory of a gateway under attack, in KiB.
const MOST: u64 = 256 * 1024;
const ROLE: &str = "HANSA_ATTACKED";

/// What the gateway is told of one peer.
pub(crate) struct Known<'a> {
    pub(crate) domain: &'a Domain,
    /// Addresses of its gateway "g"; `SELF` is the victim's own.
    pub(crate) addresses: Vec<String>,
}

/// A running victim. Killed when dropped.
pub(crate) struct Victim {
    child: Child,
    pub(crate) domain: Domain,
    pub(crate) tunnel: SocketAddr,
    admin: SocketAddr,
    block: String,
    log: NamedTempFile,
}

impl Drop for Victim {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Victim {
    /// Starts one that exports `local` (name and port on this host) and imports `remote` (name and
    /// cluster).
    pub(crate) fn start(peers: &[Known<'_>], local: &[(&str, u16)], remote: &[(&str, &str)]) -> Self {
        let domain = Domain::new("victim");
        let peers: Vec<Value> = peers
            .iter()
            .map(|peer| {
                json!({"cluster": peer.domain.cluster, "bundle": peer.domain.ca.bundle().to_json(),
                       "domain": peer.domain.trust_domain.to_string(), "addresses": peer.addresses})
            })
            .collect();
        let log = NamedTempFile::new().unwrap();
        let told = json!({"ca": domain.ca.to_state().unwrap(), "peers": peers, "local": local,
                          "remote": remote, "log": log.path()});
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["victim::inside", "--exact", "--nocapture", "--test-threads=1"])
            .env(ROLE, told.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let ready = lines.filter_map(|line| Some(line.split_once("READY ")?.1.to_owned())).next();
        let said: Value = serde_json::from_str(&ready.expect("a victim that is ready")).unwrap();
        let address = |key: &str| said[key].as_str().unwrap().parse().unwrap();
        let block = block(child.id());
        Self { child, domain, tunnel: address("tunnel"), admin: address("admin"), block, log }
    }

    /// Waits until it has logged a line with all of these words.
    pub(crate) async fn says(&self, words: &[&str]) {
        let said = async {
            loop {
                let text = std::fs::read_to_string(self.log.path()).unwrap();
                if text.lines().any(|line| words.iter().all(|word| line.contains(word))) {
                    return;
                }
                // A file tells nobody that it grows.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(tokio::time::timeout(LONG, said).await.is_ok(), "it never said {words:?}");
    }

    /// Where the imported or exported service number `n` (by name) is for the victim's clients.
    pub(crate) fn vip(&self, n: u8) -> SocketAddr {
        format!("{}{}:{PORT}", self.block, n + 1).parse().unwrap()
    }

    /// The sum of all samples that begin with `name` and contain `part`.
    pub(crate) async fn metric(&self, name: &str, part: &str) -> f64 {
        let mut stream = TcpStream::connect(self.admin).await.unwrap();
        let request = "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(part));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    /// It lives, and never used more than it may.
    pub(crate) fn stayed_small(&mut self, under: &str) {
        assert!(self.child.try_wait().unwrap().is_none(), "the gateway ended under {under}");
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        println!("{under}: peak {peak} KiB");
        assert!(peak < MOST, "{under}: {peak} KiB, at most {MOST}");
    }
}

/// Each process has virtual addresses of its own, all on loopback.
fn block(pid: u32) -> String {
    let [_, _, high, low] = pid.to_be_bytes();
    format!("127.{}.{low}.", 128 + high % 100)
}

/// Not a test by itself: the victim, where it is asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inside() {
    let Ok(told) = std::env::var(ROLE) else { return };
    let told: Value = serde_json::from_str(&told).unwrap();
    let ca = Ca::from_state(told["ca"].as_str().unwrap()).unwrap();
    let domain = Domain { cluster: "victim".parse().unwrap(), trust_domain: ca.trust_domain().clone(), ca };
    let output = Output::File(told["log"].as_str().unwrap().into());
    logs::init(&Options { output, format: Format::Json, ..Options::default() }).unwrap();
    let state = tempfile::tempdir().unwrap();
    let text = format!(
        "id: v\ncluster: victim\nstateDir: {}\ncontroller: []\nadmin: {{listen: \"127.0.0.1:0\"}}\n\
         health: {{listen: \"127.0.0.1:0\"}}\ntunnel: {{listen: [\"127.0.0.1:0\"]}}\n",
        state.path().display()
    );
    let config: Config = load(&Sources::default().text("gateway.yaml", text)).unwrap().config;
    let tls = domain.tls(&Role::Gateway("v".parse().unwrap()), &[]);
    let first = table(&domain, &told, None);
    let (sender, tables) = watch::channel(first);
    let process = Process { tasks: Tasks::new(), drain: Drain::new(), ready: Ready::new(), logs: None };
    let gateway = Gateway::bind(config, process.clone(), Table::Fixed(tls, tables)).await.unwrap();
    let (tunnel, admin) = (gateway.tunnel_addresses()[0], gateway.admin_address().unwrap());
    let run = tokio::spawn(gateway.run());
    sender.send_replace(table(&domain, &told, Some(tunnel)));
    process.ready.wait().await;
    println!("READY {}", json!({"tunnel": tunnel.to_string(), "admin": admin.to_string()}));
    run.await.unwrap().unwrap();
}

fn table(domain: &Domain, told: &Value, own: Option<SocketAddr>) -> Arc<RouteTable> {
    let me: NodeId = "v".parse().unwrap();
    let block = block(std::process::id());
    let sibling = Sibling {
        id: me.clone(),
        relay: None,
        blocks: vec![format!("{block}0/24").parse().unwrap()],
        draining: false,
    };
    let peers = told["peers"].as_array().unwrap().iter().map(|peer| self::peer(peer, own));
    let mut names = BTreeMap::<String, (ClusterId, Option<u16>)>::new();
    for pair in told["local"].as_array().unwrap() {
        let port = u16::try_from(pair[1].as_u64().unwrap()).unwrap();
        names.insert(pair[0].as_str().unwrap().to_owned(), (domain.cluster.clone(), Some(port)));
    }
    for pair in told["remote"].as_array().unwrap() {
        let cluster = pair[1].as_str().unwrap().parse().unwrap();
        names.insert(pair[0].as_str().unwrap().to_owned(), (cluster, None));
    }
    let rows = names.iter().enumerate().map(|(n, (name, (cluster, port)))| {
        let vip: IpAddr = format!("{block}{}", n + 1).parse().unwrap();
        let row = route(name, cluster, *port, BTreeMap::from([(me.clone(), vec![vip])]));
        Arc::new(row)
    });
    Arc::new(RouteTable {
        cluster: domain.cluster.clone(),
        trust_domain: domain.trust_domain.clone(),
        locality: Default::default(),
        bundle: domain.ca.bundle().to_json().into(),
        deny: BTreeSet::new(),
        failback: Default::default(),
        peers: peers.map(|peer| (peer.cluster.clone(), peer)).collect(),
        siblings: BTreeMap::from([(me.clone(), sibling)]),
        services: rows.collect(),
    })
}

fn peer(peer: &Value, own: Option<SocketAddr>) -> Peer {
    let text = |key: &str| peer[key].as_str().unwrap();
    let addresses = peer["addresses"].as_array().unwrap().iter().filter_map(|a| match a.as_str() {
        Some("SELF") => own.map(|own| format!("localhost:{}", own.port())),
        other => other.map(str::to_owned),
    });
    let id: NodeId = "g".parse().unwrap();
    let info = GatewayInfo {
        id: id.clone(),
        locality: Default::default(),
        addresses: addresses.collect(),
        draining: false,
    };
    Peer {
        cluster: text("cluster").parse().unwrap(),
        trust_domain: text("domain").parse().unwrap(),
        locality: Default::default(),
        bundle: text("bundle").into(),
        gateways: BTreeMap::from([(id, info)]),
        transport: Transport::Auto,
        deny: BTreeSet::new(),
    }
}

fn route(
    name: &str,
    cluster: &ClusterId,
    local: Option<u16>,
    vips: BTreeMap<NodeId, Vec<IpAddr>>,
) -> ServiceRoute {
    let ports = BTreeSet::from([(Protocol::Tcp, PORT)]);
    let count = EndpointCount { locality: Default::default(), ready: 1, total: 1 };
    let endpoint = |target| LocalEndpoint {
        address: IpAddr::from([127, 0, 0, 1]),
        hostname: None,
        ready: true,
        locality: Default::default(),
        ports: vec![TargetPort { protocol: Protocol::Tcp, service: PORT, target }],
    };
    ServiceRoute {
        service: name.parse().unwrap(),
        kind: ServiceType::ClusterSetIP,
        ports: vec![Port { name: None, protocol: Protocol::Tcp, app_protocol: None, port: PORT }],
        affinity: Affinity::None,
        vips,
        clusters: vec![Candidate::new(cluster.clone(), &ports, [count])],
        hosts: Vec::new(),
        local: local.map(|port| LocalService { export_to: None, endpoints: vec![endpoint(port)] }),
    }
}
