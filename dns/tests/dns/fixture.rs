//! Zones, questions and servers for the tests. Messages are made and read by hickory, as a referee.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hansa_core::catalog::{Protocol, ServiceType};
use hansa_core::name::ServiceName;
use hansa_core::zone::{Zone, ZoneHost, ZonePort, ZoneService};
use hansa_dns::{Config, DnsMetrics, Outcome, Process, Responder, Served, Server, Shelf, Via};
use hansa_runtime::drain::Drain;
use hansa_runtime::ready::Ready;
use hansa_runtime::tasks::Tasks;
use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn service(name: &str, kind: ServiceType, ips: &[&str]) -> ZoneService {
    let (namespace, name) = name.split_once('/').unwrap();
    let port = |name: &str, protocol| ZonePort { name: Some(name.parse().unwrap()), protocol, port: 42 };
    ZoneService {
        service: ServiceName::new(namespace, name).unwrap(),
        kind,
        ports: vec![port("tcp", Protocol::Tcp), port("udp", Protocol::Udp)],
        ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        hosts: Vec::new(),
    }
}

pub(crate) fn host(hostname: &str, cluster: &str, ready: bool, ips: &[&str]) -> ZoneHost {
    let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
    ZoneHost { hostname: hostname.parse().unwrap(), cluster: cluster.parse().unwrap(), ready, ips }
}

/// `shop/web` with addresses, `data/db` with hosts, `data/gone` with none ready, `big/many` with 200.
pub(crate) fn zone() -> Zone {
    let mut zone = Zone::default();
    zone.insert(service("shop/web", ServiceType::ClusterSetIP, &["10.1.0.1", "10.1.0.2", "fd00::1"]));
    let mut db = service("data/db", ServiceType::Headless, &[]);
    db.hosts = vec![
        host("db-0", "aws-eu", true, &["10.2.0.1", "fd00::21"]),
        host("db-0", "east.gcp", true, &["10.2.0.2"]),
        host("db-1", "aws-eu", false, &["10.2.0.3"]),
    ];
    zone.insert(db);
    let mut gone = service("data/gone", ServiceType::Headless, &[]);
    gone.hosts = vec![host("g-0", "aws-eu", false, &["10.2.0.9"])];
    zone.insert(gone);
    let many: Vec<String> = (0..200).map(|n| format!("10.3.0.{n}")).collect();
    zone.insert(service(
        "big/many",
        ServiceType::ClusterSetIP,
        &many.iter().map(|s| &**s).collect::<Vec<_>>(),
    ));
    zone
}

pub(crate) fn responder() -> Responder {
    let shelf = Shelf::default();
    shelf.store(Served { zone: Arc::new(zone()), serial: 77 });
    Responder::new(shelf, None, DnsMetrics::default())
}

/// A question, with EDNS if a payload size is given.
pub(crate) fn question(name: &str, kind: RecordType, payload: Option<u16>) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(format!("{name}.")).unwrap(), kind));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload).set_version(0);
        message.set_edns(edns);
    }
    message
}

/// The extended error of an answer (RFC 8914), as another implementation reads it.
pub(crate) fn why(answer: &Message) -> Option<(u16, String)> {
    match answer.edns.as_ref()?.option(EdnsCode::Unknown(15))? {
        EdnsOption::Unknown(_, data) => {
            let (info, text) = data.split_first_chunk()?;
            Some((u16::from_be_bytes(*info), String::from_utf8(text.to_vec()).unwrap()))
        }
        _ => None,
    }
}

pub(crate) const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

pub(crate) fn raw(responder: &Responder, packet: &[u8], via: Via) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    match responder.respond(packet, LOCAL, (via, 0), &mut out) {
        Outcome::Silence => None,
        Outcome::Answered => Some(out),
        Outcome::Forward(_) => panic!("nothing is forwarded here"),
    }
}

pub(crate) fn ask(responder: &Responder, name: &str, kind: RecordType) -> Message {
    let message = question(name, kind, Some(1_232));
    let bytes = raw(responder, &message.to_vec().unwrap(), Via::Udp).unwrap();
    let answer = Message::from_vec(&bytes).unwrap();
    assert_eq!(answer.metadata.id, message.metadata.id);
    assert_eq!(answer.queries, message.queries);
    answer
}

pub(crate) fn ips(answer: &Message) -> Vec<String> {
    let ip = |data: &RData| match data {
        RData::A(ip) => ip.0.to_string(),
        RData::AAAA(ip) => ip.0.to_string(),
        other => panic!("{other}"),
    };
    answer.answers.iter().map(|record| ip(&record.data)).collect()
}

pub(crate) fn config(dir: &Path, more: &str) -> Config {
    let text = format!(
        "id: dns-0\ncluster: aws-eu\nstateDir: {}\nlisten: ['127.0.0.1:0']\nadmin: {{listen: '127.0.0.1:0'}}\ndrain: 0s\n{more}",
        dir.display()
    );
    let sources = hansa_runtime::config::Sources::default().text("dns.yaml", text);
    hansa_runtime::config::load::<Config>(&sources).unwrap().config
}

pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) shelf: Shelf,
    pub(crate) process: Process,
    pub(crate) run: JoinHandle<Result<(), hansa_dns::RunError>>,
}

impl Running {
    pub(crate) async fn start(config: Config) -> Self {
        let process = Process { tasks: Tasks::new(), drain: Drain::new(), ready: Ready::new(), logs: None };
        let server = Server::bind(config, process.clone()).await.unwrap();
        let (address, shelf) = (server.addresses()[0], server.shelf().clone());
        Self { address, shelf, process, run: tokio::spawn(server.run()) }
    }

    pub(crate) async fn stop(self) {
        self.process.drain.begin("test");
        timeout(LIMIT, self.run).await.unwrap().unwrap().unwrap();
        assert!(self.process.tasks.shutdown(LIMIT).await);
    }

    pub(crate) async fn udp(&self, message: &Message) -> Message {
        udp(self.address, message).await
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

pub(crate) async fn udp(address: SocketAddr, message: &Message) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(address).await.unwrap();
    let mut buffer = [0; 4096];
    // Datagrams may be lost even here: asked again, as a client does.
    for _ in 0..20 {
        socket.send(&message.to_vec().unwrap()).await.unwrap();
        if let Ok(read) = timeout(Duration::from_secs(5), socket.recv(&mut buffer)).await {
            return Message::from_vec(&buffer[..read.unwrap()]).unwrap();
        }
    }
    panic!("no answer");
}

pub(crate) async fn send(stream: &mut TcpStream, message: &Message) {
    let bytes = message.to_vec().unwrap();
    stream.write_u16(bytes.len() as u16).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
}

pub(crate) async fn receive(stream: &mut TcpStream) -> Message {
    let length = timeout(LIMIT, stream.read_u16()).await.unwrap().unwrap();
    let mut bytes = vec![0; length.into()];
    timeout(LIMIT, stream.read_exact(&mut bytes)).await.unwrap().unwrap();
    Message::from_vec(&bytes).unwrap()
}
