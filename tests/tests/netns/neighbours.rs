//! IPv6 addresses of a gateway on its clients' link: found by neighbour discovery, by the anchor of
//! their block or one by one, and moved to another host when the gateway dies. Three namespaces on
//! one switch; the gateway is this test binary started again inside, with a table of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hansa_core::catalog::{
    Affinity, EndpointCount, LocalEndpoint, LocalService, Port, Protocol, ServiceType, TargetPort,
};
use hansa_core::mesh::{Candidate, RouteTable, ServiceRoute, Sibling};
use hansa_core::name::NodeId;
use hansa_core::spiffe::{Role, SpiffeId, TrustDomain};
use hansa_gateway::{Config, Gateway, Process, Table};
use hansa_identity::ca::{Ca, CaOptions};
use hansa_identity::store::{KeyRequest, Keys};
use hansa_identity::tls::Tls;
use hansa_identity::verify::Trust;
use hansa_runtime::config::{Sources, load};
use hansa_runtime::{drain::Drain, ready::Ready, tasks::Tasks};
use tokio::io::AsyncWriteExt as _;

const ROLE: &str = "HANSA_NEIGHBOUR";
const BLOCK: &str = "fd00:97:1::/64";
const VIP: &str = "fd00:97:1::7";
const PORT: u16 = 8080;

fn ip(line: &str) -> bool {
    let status = Command::new("ip").args(line.split(' ')).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// A switch, a client and two hosts, in namespaces that go with this value.
struct Hosts(String);

impl Hosts {
    fn new(name: &str) -> Self {
        crate::needs_root();
        let tag = format!("hn{name}{}", std::process::id());
        let hosts = Self(tag.clone());
        let mut good = ip(&format!("netns add {tag}-s"));
        good &= ip(&format!("-n {tag}-s link add br0 type bridge forward_delay 0"));
        good &= ip(&format!("-n {tag}-s link set br0 up"));
        for (n, host) in ["c", "1", "2"].into_iter().enumerate() {
            let veth = format!("link add eth0 netns {tag}-{host} type veth peer name p{host} netns {tag}-s");
            good &= ip(&format!("netns add {tag}-{host}")) && ip(&veth);
            good &= ip(&format!("-n {tag}-s link set p{host} master br0 up"));
            good &= ip(&format!("-n {tag}-{host} link set lo up"));
            good &= ip(&format!("-n {tag}-{host} link set eth0 up"));
            good &= ip(&format!("-n {tag}-{host} addr add fd00:10::{}/64 dev eth0 nodad", n + 1));
        }
        assert!(good, "the namespaces of {tag}");
        hosts
    }

    fn inside(&self, host: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &format!("{}-{host}", self.0)]);
        command
    }

    fn gateway(&self, host: &str) -> Running {
        let mut command = self.inside(host);
        command.arg(std::env::current_exe().unwrap());
        command.args(["neighbours::inside", "--exact", "--nocapture", "--test-threads=1"]);
        let mut child = command.env(ROLE, host).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("READY")), "a gateway on host {host}");
        Running(child)
    }

    /// What the client reads from the service, as soon as it can.
    fn reached(&self, limit: Duration) -> String {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            let script = format!("exec 3<>/dev/tcp/{VIP}/{PORT} && head -c 1 <&3");
            let mut command = self.inside("c");
            let said = command.args(["timeout", "0.3", "bash", "-c", &script]).stderr(Stdio::null()).output();
            let said = String::from_utf8(said.unwrap().stdout).unwrap();
            if !said.is_empty() {
                return said;
            }
        }
        let neighbours = self.inside("c").args(["ip", "-6", "neigh"]).output().unwrap();
        panic!("not reached within {limit:?}: {}", String::from_utf8_lossy(&neighbours.stdout));
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for host in ["c", "1", "2", "s"] {
            ip(&format!("netns del {}-{host}", self.0));
        }
    }
}

struct Running(Child);

impl Running {
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn found_and_moved(name: &str, route: &str) {
    let hosts = Hosts::new(name);
    assert!(ip(&format!("-n {}-c -6 route add {BLOCK} {route}", hosts.0)), "{route}");
    let mut first = hosts.gateway("1");
    assert_eq!(hosts.reached(Duration::from_secs(5)), "1");
    first.kill();
    let _second = hosts.gateway("2");
    assert_eq!(hosts.reached(Duration::from_secs(2)), "2");
}

#[test]
fn a_block_is_reached_by_its_anchor_and_moves() {
    found_and_moved("a", "via fd00:97:1::1 dev eth0 onlink");
}

#[test]
fn single_addresses_are_found_on_the_link_and_move() {
    found_and_moved("l", "dev eth0");
}

/// Not a test by itself: the gateway, where it is asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inside() {
    let Ok(name) = std::env::var(ROLE) else { return };
    let name: &'static str = name.leak();
    let service = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = service.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = service.accept().await {
            stream.write_all(name.as_bytes()).await.unwrap();
        }
    });
    let state = tempfile::tempdir().unwrap();
    let text = format!(
        "id: g\ncluster: a\nstateDir: {}\ncontroller: []\nadmin: {{listen: \"127.0.0.1:0\"}}\n\
         health: {{listen: \"127.0.0.1:0\"}}\ntunnel: {{dialOnly: true}}\nvip: {{device: eth0}}\n",
        state.path().display()
    );
    let config: Config = load(&Sources::default().text("gateway.yaml", text)).unwrap().config;
    let domain: TrustDomain = "a.test".parse().unwrap();
    let ca = Ca::create(domain.clone(), CaOptions::default(), SystemTime::now()).unwrap();
    let role = Role::Gateway("g".parse().unwrap());
    let key = KeyRequest::new(SpiffeId::of(&domain, &role)).unwrap();
    let leaf = ca.sign(&role, key.csr(), SystemTime::now()).unwrap();
    let tls = Tls::new(Keys::new(key.complete(vec![leaf]).unwrap()), Trust::default());
    let (_sender, tables) = tokio::sync::watch::channel(Arc::new(table(&domain, &ca, target)));
    let process = Process { tasks: Tasks::new(), drain: Drain::new(), ready: Ready::new(), logs: None };
    let gateway = Gateway::bind(config, process.clone(), Table::Fixed(tls, tables)).await.unwrap();
    let run = tokio::spawn(gateway.run());
    process.ready.wait().await;
    println!("READY");
    run.await.unwrap().unwrap();
}

fn table(domain: &TrustDomain, ca: &Ca, target: u16) -> RouteTable {
    let me: NodeId = "g".parse().unwrap();
    let blocks = vec![BLOCK.parse().unwrap()];
    let sibling = Sibling { id: me.clone(), relay: None, blocks, draining: false };
    let vip: IpAddr = VIP.parse().unwrap();
    let ports = vec![TargetPort { protocol: Protocol::Tcp, service: PORT, target }];
    let endpoint = LocalEndpoint {
        address: IpAddr::from([127, 0, 0, 1]),
        hostname: None,
        ready: true,
        locality: Default::default(),
        ports,
    };
    let count = EndpointCount { locality: Default::default(), ready: 1, total: 1 };
    let ports_of = BTreeSet::from([(Protocol::Tcp, PORT)]);
    let row = ServiceRoute {
        service: "shop/web".parse().unwrap(),
        kind: ServiceType::ClusterSetIP,
        ports: vec![Port { name: None, protocol: Protocol::Tcp, app_protocol: None, port: PORT }],
        affinity: Affinity::None,
        vips: BTreeMap::from([(me.clone(), vec![vip])]),
        clusters: vec![Candidate::new("a".parse().unwrap(), &ports_of, [count])],
        hosts: Vec::new(),
        local: Some(LocalService { export_to: None, endpoints: vec![endpoint] }),
    };
    RouteTable {
        cluster: "a".parse().unwrap(),
        trust_domain: domain.clone(),
        locality: Default::default(),
        bundle: ca.bundle().to_json().into(),
        deny: BTreeSet::new(),
        failback: Default::default(),
        peers: BTreeMap::new(),
        siblings: BTreeMap::from([(me, sibling)]),
        services: [Arc::new(row)].into_iter().collect(),
    }
}
