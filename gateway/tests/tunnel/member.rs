//! A member of the mesh for the tests: a domain with its CA, and gateways with real certificates.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use hansa_core::catalog::GatewayInfo;
use hansa_core::mesh::{Failback, Peer, RouteTable, Transport};
use hansa_core::name::{ClusterId, NodeId};
use hansa_core::spiffe::{Role, SpiffeId, TrustDomain};
use hansa_gateway::tunnel::{
    Config, Incoming, JoinStreams, Metrics, Open, PeerReach, ReachView, Request, Stream, Tunnels,
};
use hansa_identity::ca::{Ca, CaOptions};
use hansa_identity::store::{KeyRequest, Keys};
use hansa_identity::tls::Tls;
use hansa_identity::verify::{Trust, TrustSnapshot};
use hansa_runtime::metrics::Families;
use http::{HeaderMap, StatusCode};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Longest wait for a condition; generous, because a busy machine runs many tests at once.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// A cluster with its own CA.
pub(crate) struct Domain {
    pub(crate) cluster: ClusterId,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) ca: Ca,
}

impl Domain {
    pub(crate) fn new(name: &str) -> Self {
        let trust_domain: TrustDomain = format!("{name}.example").parse().unwrap();
        let ca = Ca::create(trust_domain.clone(), CaOptions::default(), SystemTime::now()).unwrap();
        Self { cluster: name.parse().unwrap(), trust_domain, ca }
    }

    /// TLS of a holder of this role who trusts its own domain and these.
    pub(crate) fn tls(&self, role: &Role, peers: &[&Domain]) -> Tls {
        let request = KeyRequest::new(SpiffeId::of(&self.trust_domain, role)).unwrap();
        let leaf = self.ca.sign(role, request.csr(), SystemTime::now()).unwrap();
        let keys = Keys::new(request.complete(vec![leaf]).unwrap());
        let bundles = peers.iter().map(|peer| peer.ca.bundle()).chain([self.ca.bundle()]).collect();
        Tls::new(keys, Trust::new(TrustSnapshot { bundles, ..TrustSnapshot::default() }))
    }

    /// How others see this cluster.
    pub(crate) fn peer(&self, transport: Transport, gateways: &[(&str, Vec<SocketAddr>)]) -> Peer {
        let gateways = gateways.iter().map(|(id, addresses)| {
            let id: NodeId = id.parse().unwrap();
            let addresses = addresses.iter().map(ToString::to_string).collect();
            let info =
                GatewayInfo { id: id.clone(), locality: Default::default(), addresses, draining: false };
            (id, info)
        });
        Peer {
            cluster: self.cluster.clone(),
            trust_domain: self.trust_domain.clone(),
            locality: Default::default(),
            bundle: self.ca.bundle().to_json().into(),
            gateways: gateways.collect(),
            transport,
            deny: Default::default(),
        }
    }

    pub(crate) fn table(&self, peers: Vec<Peer>) -> Arc<RouteTable> {
        Arc::new(RouteTable {
            cluster: self.cluster.clone(),
            trust_domain: self.trust_domain.clone(),
            locality: Default::default(),
            bundle: self.ca.bundle().to_json().into(),
            deny: Default::default(),
            failback: Failback::default(),
            peers: peers.into_iter().map(|peer| (peer.cluster.clone(), peer)).collect(),
            siblings: BTreeMap::new(),
            services: Default::default(),
        })
    }

    /// A gateway on a free port of the loopback interface, without peers in its table yet.
    pub(crate) fn gateway(&self, id: &str, trusted: &[&Domain]) -> Gateway {
        self.gateway_with(id, trusted, Config { listen: loopback(), ..Config::default() })
    }

    pub(crate) fn gateway_with(&self, id: &str, trusted: &[&Domain], config: Config) -> Gateway {
        let id: NodeId = id.parse().unwrap();
        let tls = self.tls(&Role::Gateway(id.clone()), trusted);
        let (table, tables) = watch::channel(self.table(Vec::new()));
        let metrics = Metrics::default();
        let (tunnels, incoming, joins) = Tunnels::bind(config, tls.clone(), tables, metrics.clone()).unwrap();
        let cancel = CancellationToken::new();
        let (run, token) = (tunnels.clone(), cancel.clone());
        tokio::spawn(async move { run.run(token).await });
        Gateway { id, tls, table, tunnels, metrics, incoming: Some(incoming), joins, cancel }
    }
}

pub(crate) fn loopback() -> Vec<SocketAddr> {
    vec!["127.0.0.1:0".parse().unwrap()]
}

/// A running gateway's tunnels.
pub(crate) struct Gateway {
    pub(crate) id: NodeId,
    pub(crate) tls: Tls,
    pub(crate) table: watch::Sender<Arc<RouteTable>>,
    pub(crate) tunnels: Tunnels,
    pub(crate) metrics: Metrics,
    pub(crate) incoming: Option<Incoming>,
    pub(crate) joins: JoinStreams,
    pub(crate) cancel: CancellationToken,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Gateway {
    pub(crate) fn address(&self) -> SocketAddr {
        self.tunnels.listening()[0]
    }

    /// The sum of all samples that begin with `name` and contain `part`.
    pub(crate) fn metric(&self, name: &str, part: &str) -> f64 {
        let mut families = Families::new();
        self.metrics.register(&mut families);
        let text = families.finish().text();
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(part));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    /// Puts these peers into the table.
    pub(crate) fn know(&self, domain: &Domain, peers: Vec<Peer>) {
        self.table.send_replace(domain.table(peers));
    }

    /// Answers every request with 200 and sends everything back.
    pub(crate) fn echo(&mut self) {
        let mut incoming = self.incoming.take().unwrap();
        tokio::spawn(async move {
            while let Some(request) = incoming.recv().await {
                tokio::spawn(echo(request));
            }
        });
    }

    /// Waits until what is known of a peer fits.
    pub(crate) async fn until(
        &self,
        peer: &Domain,
        what: &str,
        fits: impl Fn(&PeerReach) -> bool,
    ) -> PeerReach {
        let mut reach = self.tunnels.reach();
        let begun = Instant::now();
        let known = |view: &Arc<ReachView>| view.peers.get(&peer.cluster).is_some_and(&fits);
        match tokio::time::timeout(LONG, reach.wait_for(known)).await {
            Ok(view) => view.unwrap().peers[&peer.cluster].clone(),
            Err(_) => {
                let now = self.tunnels.reach().borrow().clone();
                panic!("not {what} after {:?}: {now:?}", begun.elapsed())
            }
        }
    }

    /// Waits for so many tunnels to this gateway of the peer.
    pub(crate) async fn connected(&self, peer: &Domain, gateway: &str, tunnels: u32) -> PeerReach {
        let gateway: NodeId = gateway.parse().unwrap();
        let count = |reach: &PeerReach| reach.gateways.get(&gateway).map_or(0, |g| g.tunnels);
        self.until(peer, "connected", |reach| count(reach) == tunnels).await
    }

    pub(crate) async fn open(&self, peer: &Domain) -> Stream {
        self.tunnels.open(&peer.cluster, open()).await.unwrap()
    }

    pub(crate) async fn open_via(&self, peer: &Domain, gateway: &str) -> Stream {
        let via = Some(gateway.parse().unwrap());
        self.tunnels.open(&peer.cluster, Open { via, ..open() }).await.unwrap()
    }
}

/// A request for a service.
pub(crate) fn open() -> Open<'static> {
    Open { authority: "web.shop.svc.clusterset.local:80".to_owned(), ..Open::default() }
}

async fn echo(request: Request) {
    let Request { responder, mut recv, .. } = request;
    let Ok(mut send) = responder.respond(StatusCode::OK, HeaderMap::new()).await else { return };
    while let Ok(Some(piece)) = recv.data().await {
        if send.data(piece).await.is_err() {
            return;
        }
    }
    let _ = send.finish().await;
}

/// Sends `text` and waits until it came back.
pub(crate) async fn said(stream: &mut Stream, text: &'static str) {
    stream.send.data(Bytes::from_static(text.as_bytes())).await.unwrap();
    let mut back = Vec::new();
    while back.len() < text.len() {
        let piece = tokio::time::timeout(LONG, stream.recv.data()).await.expect("an echo in time");
        back.extend_from_slice(&piece.unwrap().expect("no end yet"));
    }
    assert_eq!(back, text.as_bytes());
}

/// Takes the 200, then sends and waits for it to come back.
pub(crate) async fn greet(stream: &mut Stream, text: &'static str) {
    let answer = tokio::time::timeout(LONG, stream.recv.response()).await.expect("an answer in time");
    assert_eq!(answer.unwrap().status, StatusCode::OK);
    said(stream, text).await;
}
