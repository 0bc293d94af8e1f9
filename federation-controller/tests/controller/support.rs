//! A controller under test with stand-ins for its gateways and DNS servers, over real sockets and TLS.
//!
//! The relay leads straight to the other controller's port: what gateways would splice.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use hansa_controller::control::State;
use hansa_controller::relay::{Io, Relay, RelayError};
use hansa_controller::{Config, Controller, Process};
use hansa_core::mesh::RouteTable;
use hansa_core::name::{ClusterId, ServiceName};
use hansa_core::spiffe::Role;
use hansa_core::zone::Zone;
use hansa_link::{Credential, Link};
use hansa_proto::convert::Apply;
use hansa_proto::convert::report::{GatewayReport, NodeInfo};
use hansa_proto::convert::routes::RouteRows;
use hansa_proto::convert::zone::ZoneRows;
use hansa_proto::feed::{self, FollowEvent, Handle, Kind};
use hansa_runtime::drain::Drain;
use hansa_runtime::ready::Ready;
use hansa_runtime::tasks::Tasks;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;

pub(crate) const LONG: Duration = Duration::from_secs(20);

/// Where every member's controller listens, as the network knows it.
#[derive(Clone, Default)]
pub(crate) struct Net {
    controllers: Arc<Mutex<BTreeMap<String, SocketAddr>>>,
}

struct Direct(Net);

fn no(cause: impl ToString) -> RelayError {
    RelayError::Unreachable(cause.to_string())
}

impl Relay for Direct {
    fn peer<'a>(&'a self, peer: &'a ClusterId) -> BoxFuture<'a, Result<Io, RelayError>> {
        let address = self.0.controllers.lock().unwrap().get(peer.as_str()).copied();
        Box::pin(async move {
            let address = address.ok_or_else(|| no("no such member"))?;
            Ok(Box::new(TcpStream::connect(address).await.map_err(no)?) as Io)
        })
    }

    fn join<'a>(&'a self, address: &'a str, _bundle: &'a str) -> BoxFuture<'a, Result<Io, RelayError>> {
        Box::pin(async move { Ok(Box::new(TcpStream::connect(address).await.map_err(no)?) as Io) })
    }
}

/// One member under test.
pub(crate) struct Member {
    pub(crate) id: &'static str,
    pub(crate) net: Net,
    pub(crate) dir: Arc<tempfile::TempDir>,
    pub(crate) state: State,
    pub(crate) ready: Ready,
    pub(crate) listen: SocketAddr,
    tasks: Tasks,
    running: tokio::task::JoinHandle<()>,
}

pub(crate) fn config(id: &str, dir: &Path) -> Config {
    let octet = id.bytes().fold(1u8, |sum, b| sum.wrapping_mul(31).wrapping_add(b)) % 100 + 1;
    // An address of its own, so that a restart finds its port free.
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let own = NEXT.fetch_add(1, Ordering::Relaxed);
    let text = format!(
        "cluster: {id}\nlocality: lab/{id}\nstateDir: {0}/state\nsource: {{folder: {0}/manifests}}\n\
         listen: [\"127.98.0.{own}:0\"]\nadmin: {{listen: \"127.0.0.1:0\"}}\nhealth: {{listen: \"127.0.0.1:0\"}}\n\
         vip: {{prefixes: [127.{octet}.0.0/18, \"fd00:{octet}::/64\"]}}\n",
        dir.display()
    );
    let sources = hansa_runtime::config::Sources::default().text("c.yaml", text);
    hansa_runtime::config::load::<Config>(&sources).unwrap().config
}

impl Member {
    pub(crate) async fn new(id: &'static str, net: &Net) -> Self {
        Self::on(id, net, Arc::new(tempfile::tempdir().unwrap())).await
    }

    pub(crate) async fn on(id: &'static str, net: &Net, dir: Arc<tempfile::TempDir>) -> Self {
        Self::with(id, net, dir, |_| {}).await
    }

    /// A member whose configuration is changed.
    pub(crate) async fn with(
        id: &'static str,
        net: &Net,
        dir: Arc<tempfile::TempDir>,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        std::fs::create_dir_all(dir.path().join("manifests")).unwrap();
        let ready = Ready::new();
        let tasks = Tasks::new();
        let process = Process { tasks: tasks.clone(), drain: Drain::new(), ready: ready.clone(), logs: None };
        let relay: Arc<dyn Relay> = Arc::new(Direct(net.clone()));
        let mut config = config(id, dir.path());
        change(&mut config);
        // After a restart the port must be the one its servers know.
        if let Some(known) = net.controllers.lock().unwrap().get(id) {
            config.listen = vec![*known];
        }
        let controller = Controller::bind_with(config, process, Some(relay)).await.unwrap();
        let listen = controller.addresses()[0];
        net.controllers.lock().unwrap().insert(id.to_owned(), listen);
        let state = controller.state();
        let running = tokio::spawn(async move { controller.run().await.unwrap() });
        Self { id, net: net.clone(), dir, state, ready, listen, tasks, running }
    }

    /// Ends the controller and gives back its folder.
    pub(crate) async fn stop(self) -> (&'static str, Net, Arc<tempfile::TempDir>) {
        assert!(self.tasks.shutdown(LONG).await);
        self.running.await.unwrap();
        (self.id, self.net, self.dir)
    }

    pub(crate) fn cluster(&self) -> ClusterId {
        self.id.parse().unwrap()
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("state/controller.sock")
    }

    /// One question to the control socket.
    pub(crate) async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let mut stream = UnixStream::connect(self.socket()).await.unwrap();
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: c\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
        let mut text = String::new();
        tokio::time::timeout(LONG, stream.read_to_string(&mut text)).await.unwrap().unwrap();
        let status = text[9..12].parse().unwrap();
        let body = text.split_once("\r\n\r\n").unwrap().1;
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, value) = self.call("GET", path, Value::Null).await;
        assert_eq!(status, 200, "{path}: {value}");
        value
    }

    pub(crate) async fn token(&self, role: &str, id: &str) -> String {
        let body = serde_json::json!({"role": role, "id": id, "ttlSeconds": null});
        let (status, value) = self.call("POST", "/v1/enroll", body).await;
        assert_eq!(status, 200, "{value}");
        value["token"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn invite(&self) -> String {
        let body = serde_json::json!({"name": null, "ttlSeconds": null});
        let (status, value) = self.call("POST", "/v1/invite", body).await;
        assert_eq!(status, 200, "{value}");
        value["token"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn join(&self, token: &str) -> (u16, Value) {
        self.call("POST", "/v1/join", serde_json::json!({"token": token})).await
    }

    pub(crate) fn publish(&self, file: &str, text: &str) {
        let folder = self.dir.path().join("manifests");
        std::fs::write(folder.join(format!(".{file}")), text).unwrap();
        std::fs::rename(folder.join(format!(".{file}")), folder.join(file)).unwrap();
    }

    pub(crate) fn withdraw(&self, file: &str) {
        std::fs::remove_file(self.dir.path().join("manifests").join(file)).unwrap();
    }

    pub(crate) async fn link(&self, role: Role, name: &str) -> Link {
        let kind = if matches!(role, Role::Gateway(_)) { "gateway" } else { "dns" };
        let token = self.token(kind, name).await;
        Link::start(
            hansa_link::Config {
                role,
                cluster: self.cluster(),
                state_dir: self.dir.path().join(name),
                controllers: vec![self.listen.to_string()],
                credential: Some(Credential::Token(token)),
            },
            &self.tasks_of_servers(),
        )
        .await
        .unwrap()
    }

    // Servers outlive their controller.
    fn tasks_of_servers(&self) -> Tasks {
        Tasks::new()
    }

    pub(crate) async fn gateway(&self, name: &'static str) -> Gateway {
        let link = self.link(Role::Gateway(name.parse().unwrap()), name).await;
        Gateway::start(link, name, self.listen)
    }

    pub(crate) async fn dns(&self, name: &'static str) -> Dns {
        let link = self.link(Role::Dns(name.parse().unwrap()), name).await;
        Dns::start(link, name)
    }

    /// Waits until the controller's own view fits.
    pub(crate) async fn until(&self, what: &str, mut fits: impl FnMut(&State) -> bool) {
        let wait = async {
            while !fits(&self.state) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LONG, wait).await.unwrap_or_else(|_| panic!("{}: {what}", self.id));
    }
}

/// An export with one endpoint.
pub(crate) fn export(name: &str, annotations: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{ports: [{{name: http, port: 80, targetPort: 8080}}]}}\n---\n\
         apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\n\
         metadata: {{name: {name}, namespace: shop, creationTimestamp: \"2026-01-01T00:00:00Z\", annotations: {{{annotations}}}}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}-1, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}\n\
         addressType: IPv4\nports: [{{name: http, port: 8080}}]\n\
         endpoints: [{{addresses: [10.0.1.5], conditions: {{ready: true}}}}]\n"
    )
}

pub(crate) fn name(text: &str) -> ServiceName {
    text.parse().unwrap()
}

/// A stand-in for a gateway: applies routes and says what it has bound.
pub(crate) struct Gateway {
    pub(crate) table: watch::Receiver<Option<RouteTable>>,
    pub(crate) handle: Handle,
    /// While above zero, it binds nothing newer than this version.
    pub(crate) stuck_at: Arc<AtomicU64>,
    /// How many times an applied change took a service away.
    pub(crate) losses: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Gateway {
    pub(crate) fn start(link: Link, name: &str, advertise: SocketAddr) -> Self {
        let dialer = link.clone();
        let connect = move || {
            let link = dialer.clone();
            async move { link.connect().await }
        };
        let (handle, mut events, run) = feed::follow(feed::Config::new(name, Kind::Routes), connect, None);
        let node = NodeInfo { ready: true, addresses: vec![advertise.to_string()], ..NodeInfo::default() };
        handle.node(node);
        let (table_in, table) = watch::channel(None);
        let (stuck_at, losses) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (stuck, lost, mine) = (stuck_at.clone(), losses.clone(), handle.clone());
        let take = tokio::spawn(async move {
            let mut rows = RouteRows::default();
            while let Some(event) = events.recv().await {
                match event {
                    FollowEvent::Applied(change) => {
                        let before = rows.table().map_or(0, |t| t.services.len());
                        let refused = rows.apply(&change.changed, &change.removed, change.snapshot);
                        let after = rows.table().map_or(0, |t| t.services.len());
                        lost.fetch_add(u64::from(after < before), Ordering::SeqCst);
                        mine.applied(&change, refused);
                        let limit = stuck.load(Ordering::SeqCst);
                        let version = change.position.version;
                        let bound_version = if limit > 0 { version.min(limit) } else { version };
                        mine.report(GatewayReport { bound_version, ..GatewayReport::default() });
                        table_in.send_replace(rows.table());
                    }
                    FollowEvent::Question(question) => {
                        let answer = match question.kind.as_str() {
                            "check" => serde_json::json!({"paths": []}),
                            _ => serde_json::json!({"id": "g", "tiers": [], "chosen": null, "panic": false}),
                        };
                        mine.reply(question.id, Ok(answer.to_string().into()));
                    }
                    _ => {}
                }
            }
        });
        let tasks = vec![tokio::spawn(run), take];
        Self { table, handle, stuck_at, losses, tasks }
    }

    pub(crate) async fn until(&self, what: &str, mut fits: impl FnMut(&RouteTable) -> bool) -> RouteTable {
        let mut table = self.table.clone();
        let wait = table.wait_for(|table| table.as_ref().is_some_and(&mut fits));
        let found = tokio::time::timeout(LONG, wait).await.unwrap_or_else(|_| panic!("routes: {what}"));
        found.unwrap().clone().unwrap()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// A stand-in for a DNS server.
pub(crate) struct Dns {
    pub(crate) zone: watch::Receiver<Option<Arc<Zone>>>,
    pub(crate) losses: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Dns {
    pub(crate) fn start(link: Link, name: &str) -> Self {
        let connect = move || {
            let link = link.clone();
            async move { link.connect().await }
        };
        let (handle, mut events, run) = feed::follow(feed::Config::new(name, Kind::Zone), connect, None);
        handle.node(NodeInfo { ready: true, addresses: vec!["127.0.0.1:53".into()], ..NodeInfo::default() });
        let (zone_in, zone) = watch::channel(None);
        let losses = Arc::new(AtomicU64::new(0));
        let lost = losses.clone();
        let take = tokio::spawn(async move {
            let mut rows = ZoneRows::default();
            while let Some(event) = events.recv().await {
                if let FollowEvent::Applied(change) = event {
                    let before = rows.zone().map_or(0, |z| z.services.len());
                    let refused = rows.apply(&change.changed, &change.removed, change.snapshot);
                    let after = rows.zone().map_or(0, |z| z.services.len());
                    lost.fetch_add(u64::from(after < before), Ordering::SeqCst);
                    handle.applied(&change, refused);
                    zone_in.send_replace(rows.zone());
                }
            }
        });
        Self { zone, losses, tasks: vec![tokio::spawn(run), take] }
    }

    pub(crate) async fn until(&self, what: &str, mut fits: impl FnMut(&Zone) -> bool) -> Arc<Zone> {
        let mut zone = self.zone.clone();
        let wait = zone.wait_for(|zone| zone.as_ref().is_some_and(|zone| fits(zone)));
        let found = tokio::time::timeout(LONG, wait).await.unwrap_or_else(|_| panic!("zone: {what}"));
        found.unwrap().clone().unwrap()
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// Two members with a gateway each, shown in their catalogs.
pub(crate) async fn pair(net: &Net) -> (Member, Gateway, Member, Gateway) {
    let (a, b) = (Member::new("a", net).await, Member::new("b", net).await);
    let (ga, gb) = (a.gateway("g-a").await, b.gateway("g-b").await);
    for member in [&a, &b] {
        let shown = |s: &State| s.view.borrow().as_ref().is_some_and(|v| !v.catalog.gateways.is_empty());
        member.until("its gateway in the catalog", shown).await;
    }
    (a, ga, b, gb)
}
