//! Members in one process: a CA each, gateways with hand-made tables, sample services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use hansa_core::catalog::{
    Affinity, EndpointCount, GatewayInfo, LocalEndpoint, LocalService, Port, Protocol, ServiceType,
    TargetPort,
};
use hansa_core::mesh::{Candidate, Failback, HostRoute, Peer, RouteTable, ServiceRoute, Sibling, Transport};
use hansa_core::name::{ClusterId, NodeId, ServiceName};
use hansa_core::services::Services;
use hansa_core::spiffe::{Role, SpiffeId, TrustDomain};
use hansa_gateway::{Config, Gateway, Process, Table};
use hansa_identity::ca::{Ca, CaOptions};
use hansa_identity::store::{KeyRequest, Keys};
use hansa_identity::tls::Tls;
use hansa_identity::verify::Trust;
use hansa_runtime::config::{Sources, load};
use hansa_runtime::drain::Drain;
use hansa_runtime::ready::Ready;
use hansa_runtime::tasks::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The service port of every sample.
pub(crate) const PORT: u16 = 8080;
/// The port of every relay.
const RELAY: u16 = 15_008;
/// Long enough for anything that must happen.
pub(crate) const LONG: Duration = Duration::from_secs(15);

static NEXT: AtomicU8 = AtomicU8::new(1);

/// One running gateway.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) tunnel: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) process: Process,
    pub(crate) block: u8,
    table: watch::Sender<Arc<RouteTable>>,
    relay: SocketAddr,
    runtime: Option<Runtime>,
    run: Option<JoinHandle<Result<(), String>>>,
    _state: tempfile::TempDir,
}

/// One cluster.
pub(crate) struct Member {
    pub(crate) cluster: ClusterId,
    domain: TrustDomain,
    ca: Ca,
    pub(crate) nodes: Vec<Node>,
    services: BTreeMap<ServiceName, (LocalService, ServiceType)>,
}

/// All clusters.
pub(crate) struct World {
    pub(crate) members: Vec<Member>,
    pub(crate) failback: Failback,
    pub(crate) transport: Transport,
}

fn keys(ca: &Ca, domain: &TrustDomain, id: &NodeId) -> Keys {
    let role = Role::Gateway(id.clone());
    let key = KeyRequest::new(SpiffeId::of(domain, &role)).unwrap();
    let leaf = ca.sign(&role, key.csr(), SystemTime::now()).unwrap();
    Keys::new(key.complete(vec![leaf]).unwrap())
}

impl Member {
    async fn start(name: &str, gateways: usize, extra: &str) -> Self {
        let cluster: ClusterId = name.parse().unwrap();
        let domain: TrustDomain = format!("{name}.test").parse().unwrap();
        let ca = Ca::create(domain.clone(), CaOptions::default(), SystemTime::now()).unwrap();
        let mut member = Self { cluster, domain, ca, nodes: Vec::new(), services: BTreeMap::new() };
        for n in 1..=gateways {
            let id: NodeId = format!("g-{n}").parse().unwrap();
            let node = member.node(id, extra).await;
            member.nodes.push(node);
        }
        member
    }

    async fn node(&self, id: NodeId, extra: &str) -> Node {
        let block = NEXT.fetch_add(1, Ordering::Relaxed);
        // The address is nobody else's.
        let relay = SocketAddr::from(([127, 97, block, 254], RELAY));
        self.node_at(id, (block, relay), extra).await
    }

    async fn node_at(&self, id: NodeId, (block, relay): (u8, SocketAddr), extra: &str) -> Node {
        let state = tempfile::tempdir().unwrap();
        let text = format!(
            "id: {id}\ncluster: {}\nstateDir: {}\ncontroller: []\nadmin: {{listen: \"127.0.0.1:0\"}}\n\
             health: {{listen: \"127.0.0.1:0\"}}\ntunnel: {{listen: [\"127.0.0.1:0\"]}}\n\
             relay: {{listen: \"{relay}\"}}\n{extra}",
            self.cluster,
            state.path().display()
        );
        let config: Config = load(&Sources::default().text("gateway.yaml", text)).unwrap().config;
        let (table, seen) = watch::channel(Arc::new(self.empty()));
        let tls = Tls::new(keys(&self.ca, &self.domain, &id), Trust::default());
        let process = Process { tasks: Tasks::new(), drain: Drain::new(), ready: Ready::new(), logs: None };
        // A runtime of its own, so that it can die as a process does.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let bind = Gateway::bind(config, process.clone(), Table::Fixed(tls, seen));
        let gateway = runtime.spawn(bind).await.unwrap().unwrap();
        let (tunnel, admin) = (gateway.tunnel_addresses()[0], gateway.admin_address().unwrap());
        // Not ready before it says so, also where nobody has begun to run it yet.
        process.ready.condition("listeners");
        let run = Some(runtime.spawn(gateway.run()));
        let runtime = Some(runtime);
        Node { id, tunnel, admin, process, block, table, relay, runtime, run, _state: state }
    }

    fn empty(&self) -> RouteTable {
        RouteTable {
            cluster: self.cluster.clone(),
            trust_domain: self.domain.clone(),
            locality: format!("cloud-{}/r/z", self.cluster).parse().unwrap(),
            bundle: self.ca.bundle().to_json().into(),
            deny: BTreeSet::new(),
            failback: Failback::default(),
            peers: BTreeMap::new(),
            siblings: BTreeMap::new(),
            services: Services::default(),
        }
    }

    /// Exports `service` with endpoints on these local ports.
    pub(crate) fn export(&mut self, service: &str, ports: &[u16]) -> &mut LocalService {
        let endpoints = ports.iter().enumerate().map(|(n, target)| LocalEndpoint {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            hostname: Some(format!("h-{n}").parse().unwrap()),
            ready: true,
            locality: format!("cloud-{}/r/z", self.cluster).parse().unwrap(),
            ports: vec![TargetPort { protocol: Protocol::Tcp, service: PORT, target: *target }],
        });
        let local = LocalService { export_to: None, endpoints: endpoints.collect() };
        let row = self.services.entry(service.parse().unwrap());
        &mut row.insert_entry((local, ServiceType::ClusterSetIP)).into_mut().0
    }

    /// Starts the gateway number `n` anew, with its addresses.
    pub(crate) async fn restart(&mut self, n: usize) {
        let old = &self.nodes[n];
        let (id, place) = (old.id.clone(), (old.block, old.relay));
        self.nodes[n] = self.node_at(id, place, "").await;
    }

    /// Exports a UDP `service`.
    pub(crate) fn export_udp(&mut self, service: &str, port: u16) {
        for endpoint in &mut self.export(service, &[port]).endpoints {
            endpoint.ports[0].protocol = Protocol::Udp;
        }
    }

    /// None of its endpoints is ready any more.
    pub(crate) fn unready(&mut self, service: &str) {
        let (local, _) = self.services.get_mut(&service.parse().unwrap()).unwrap();
        local.endpoints.iter_mut().for_each(|endpoint| endpoint.ready = false);
    }

    /// Takes an export back.
    pub(crate) fn unexport(&mut self, service: &str) {
        self.services.remove(&service.parse().unwrap());
    }

    pub(crate) fn headless(&mut self, service: &str) {
        self.services.get_mut(&service.parse().unwrap()).unwrap().1 = ServiceType::Headless;
    }
}

impl World {
    /// Clusters with so many gateways each.
    pub(crate) async fn start(members: &[(&str, usize)]) -> Self {
        Self::with(members, "").await
    }

    /// The same with more lines in every configuration.
    pub(crate) async fn with(members: &[(&str, usize)], extra: &str) -> Self {
        let mut all = Vec::new();
        for (name, gateways) in members {
            all.push(Member::start(name, *gateways, extra).await);
        }
        let failback = Failback { hold_down_ms: 300, ramp_ms: 300 };
        Self { members: all, failback, transport: Transport::Auto }
    }

    /// Puts tables in force that hold every export, and waits until all listen.
    pub(crate) async fn publish(&self) {
        for member in &self.members {
            for node in &member.nodes {
                node.table.send_replace(Arc::new(self.table(member)));
            }
        }
        for node in self.members.iter().flat_map(|m| &m.nodes).filter(|n| n.run.is_some()) {
            tokio::time::timeout(LONG, node.process.ready.wait()).await.unwrap();
        }
    }

    /// Puts the present table of one member alone in force.
    pub(crate) async fn publish_to(&self, name: &str) {
        let member = self.members.iter().find(|m| m.cluster.as_str() == name).unwrap();
        for node in &member.nodes {
            node.table.send_replace(Arc::new(self.table(member)));
        }
        // A task of its own takes it up.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    fn table(&self, member: &Member) -> RouteTable {
        let mut table = RouteTable { failback: self.failback, ..member.empty() };
        for node in &member.nodes {
            let blocks = vec![format!("127.97.{}.0/24", node.block).parse().unwrap()];
            let sibling = Sibling { id: node.id.clone(), relay: Some(node.relay), blocks, draining: false };
            table.siblings.insert(node.id.clone(), sibling);
        }
        for peer in self.members.iter().filter(|m| m.cluster != member.cluster) {
            let gateways = peer.nodes.iter().map(|node| {
                let info = GatewayInfo {
                    id: node.id.clone(),
                    locality: Default::default(),
                    addresses: vec![node.tunnel.to_string()],
                    draining: false,
                };
                (node.id.clone(), info)
            });
            let row = Peer {
                cluster: peer.cluster.clone(),
                trust_domain: peer.domain.clone(),
                locality: peer.empty().locality,
                bundle: peer.ca.bundle().to_json().into(),
                gateways: gateways.collect(),
                transport: self.transport,
                deny: BTreeSet::new(),
            };
            table.peers.insert(peer.cluster.clone(), row);
        }
        let names = self.names().into_iter().enumerate();
        let rows = names.map(|(index, (name, kind))| self.route(member, &name, kind, index as u8 + 1));
        table.services = rows.map(Arc::new).collect();
        table
    }

    fn names(&self) -> BTreeMap<ServiceName, ServiceType> {
        let rows = self.members.iter().flat_map(|m| &m.services);
        rows.map(|(name, (_, kind))| (name.clone(), *kind)).collect()
    }

    fn route(&self, member: &Member, name: &ServiceName, kind: ServiceType, index: u8) -> ServiceRoute {
        let vips = |last: u8| -> BTreeMap<NodeId, Vec<IpAddr>> {
            let vip = |node: &Node| IpAddr::from([127, 97, node.block, last]);
            member.nodes.iter().map(|node| (node.id.clone(), vec![vip(node)])).collect()
        };
        let mut protocol = Protocol::Tcp;
        let mut clusters = Vec::new();
        let mut hosts = Vec::new();
        for owner in &self.members {
            let Some((local, _)) = owner.services.get(name) else { continue };
            let ready = local.endpoints.iter().filter(|e| e.ready).count() as u32;
            let total = local.endpoints.len() as u32;
            let count = EndpointCount { locality: owner.empty().locality, ready, total };
            protocol = local.endpoints[0].ports[0].protocol;
            let ports = BTreeSet::from([(protocol, PORT)]);
            clusters.push(Candidate::new(owner.cluster.clone(), &ports, [count]));
            if kind == ServiceType::Headless {
                for endpoint in &local.endpoints {
                    hosts.push(HostRoute {
                        cluster: owner.cluster.clone(),
                        hostname: endpoint.hostname.clone().unwrap(),
                        ready: true,
                        vips: vips(100 + index * 10 + hosts.len() as u8),
                    });
                }
            }
        }
        let port = Port { name: None, protocol, app_protocol: None, port: PORT };
        ServiceRoute {
            service: name.clone(),
            kind,
            ports: vec![port],
            affinity: Affinity::None,
            vips: if kind == ServiceType::Headless { BTreeMap::new() } else { vips(index) },
            clusters,
            hosts,
            local: member.services.get(name).map(|(local, _)| local.clone()),
        }
    }

    pub(crate) fn member(&mut self, name: &str) -> &mut Member {
        self.members.iter_mut().find(|m| m.cluster.as_str() == name).unwrap()
    }

    /// Where `service` is on the first gateway of `member`.
    pub(crate) fn vip(&self, member: &str, service: &str) -> SocketAddr {
        self.vip_of(member, 0, service)
    }

    /// Where `service` is on the gateway number `n` of `member`.
    pub(crate) fn vip_of(&self, member: &str, n: usize, service: &str) -> SocketAddr {
        let member = self.members.iter().find(|m| m.cluster.as_str() == member).unwrap();
        let service: ServiceName = service.parse().unwrap();
        let at = self.names().keys().position(|name| *name == service).unwrap();
        SocketAddr::from(([127, 97, member.nodes[n].block, at as u8 + 1], PORT))
    }

    /// Where the host number `n` of the only headless service is on the first gateway of `member`.
    pub(crate) fn host_vip(&self, member: &str, service: &str, n: u8) -> SocketAddr {
        let SocketAddr::V4(vip) = self.vip(member, service) else { unreachable!() };
        let [a, b, c, index] = vip.ip().octets();
        SocketAddr::from(([a, b, c, 100 + index * 10 + n], PORT))
    }

    /// Waits until `member` reaches all its peers.
    pub(crate) async fn connected(&self, member: &str) {
        let member = self.members.iter().find(|m| m.cluster.as_str() == member).unwrap();
        let peers = self.members.len() - 1;
        for node in &member.nodes {
            until(|| async {
                let page = node.snapshot().await;
                let reach = page["reach"].as_object().unwrap();
                reach.len() == peers && reach.values().all(|peer| peer["reach"] == "reachable")
            })
            .await;
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Node {
    /// The debug page.
    pub(crate) async fn snapshot(&self) -> serde_json::Value {
        let text = get(self.admin, "/debug/snapshot").await;
        serde_json::from_str(&text).unwrap()
    }

    /// What it takes a path to be, empty where it knows nothing of it.
    pub(crate) async fn track(&self, path: &str) -> String {
        let snapshot = self.snapshot().await;
        snapshot["tracks"][path]["track"]["state"].as_str().unwrap_or_default().to_owned()
    }

    /// One figure of the metrics page, 0 if it is not there.
    pub(crate) async fn metric(&self, start: &str) -> f64 {
        let text = get(self.admin, "/metrics").await;
        let lines = text.lines().filter(|line| line.starts_with(start));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Ends everything at once, as a kill does for those outside.
    pub(crate) fn kill(&mut self) {
        self.run.take();
        self.runtime.take().unwrap().shutdown_background();
    }

    /// Waits for the end of the drain.
    pub(crate) async fn ended(&mut self) {
        tokio::time::timeout(LONG, self.run.take().unwrap()).await.unwrap().unwrap().unwrap();
    }
}

/// Repeats a question until its answer is yes.
pub(crate) async fn until<F: Future<Output = bool>>(mut question: impl FnMut() -> F) {
    let asking = async {
        while !question().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, asking).await.expect("it never became true");
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// A server that says its name and then echoes, and counts what reached it.
pub(crate) struct Echo {
    pub(crate) port: u16,
    pub(crate) accepted: Arc<AtomicUsize>,
    pub(crate) bytes: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Echo {
    pub(crate) async fn start(name: &'static str) -> Self {
        Self::on(name, Closed::new()).await
    }

    /// Where nobody listened so far.
    pub(crate) async fn on(name: &'static str, Closed { socket, port }: Closed) -> Self {
        let listener = socket.listen(1_024).unwrap();
        let (accepted, bytes) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (count, moved) = (accepted.clone(), bytes.clone());
        let task = tokio::spawn(async move {
            loop {
                let Ok((mut stream, _)) = listener.accept().await else {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                };
                count.fetch_add(1, Ordering::SeqCst);
                let moved = moved.clone();
                tokio::spawn(async move {
                    stream.write_all(name.as_bytes()).await.ok();
                    let mut buffer = vec![0; 1 << 10];
                    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                        moved.fetch_add(n, Ordering::SeqCst);
                        if stream.write_all(&buffer[..n]).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { port, accepted, bytes, task }
    }

    pub(crate) fn stop(self) {
        self.task.abort();
    }
}

/// A port of loopback where nobody listens, and nobody else can for as long as this lives.
pub(crate) struct Closed {
    socket: TcpSocket,
    pub(crate) port: u16,
}

impl Closed {
    pub(crate) fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let port = socket.local_addr().unwrap().port();
        Self { socket, port }
    }
}

/// Sends `text`, ends, and reads all.
pub(crate) async fn ask(to: SocketAddr, text: &str) -> std::io::Result<String> {
    let talk = async {
        let mut stream = TcpStream::connect(to).await?;
        stream.write_all(text.as_bytes()).await?;
        stream.shutdown().await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    tokio::time::timeout(LONG, talk).await.expect("no answer")
}
