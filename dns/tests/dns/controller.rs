//! Behind a controller: enrol with a token, follow, acknowledge, go on without it, come back.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use hansa_core::spiffe::{Role, SpiffeId, TrustDomain};
use hansa_core::zone::Zone;
use hansa_identity::bundle::BundleSet;
use hansa_identity::ca::{Ca, CaOptions};
use hansa_identity::store::{KeyRequest, Keys};
use hansa_identity::tls::{ALPN_ENROLL, ALPN_H2, Tls};
use hansa_identity::token::{EnrollToken, Secret, channel_binding, verify_proof};
use hansa_identity::verify::{Admit, Domains, RoleKind, Trust, TrustSnapshot};
use hansa_proto::convert::zone::rows;
use hansa_proto::feed::{self, Event, EventBody, Position, Publisher, Timing};
use hansa_proto::transport::{self, Known};
use hansa_proto::wire::feed::v1::FollowerMessage;
use hansa_proto::wire::feed::v1::feed_server::{Feed, FeedServer};
use hansa_proto::wire::trust::v1::enroll_request::Credential;
use hansa_proto::wire::trust::v1::trust_server::{Trust as TrustRpc, TrustServer};
use hansa_proto::wire::trust::v1::{EnrollRequest, RenewRequest, Signed};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use tokio::net::TcpListener;
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status, Streaming};

use crate::fixture::*;

pub(crate) fn authority(domain: &str) -> Ca {
    Ca::create(domain.parse().unwrap(), CaOptions::default(), SystemTime::now()).unwrap()
}

const DNS: &str = "spiffe://a/hansa/dns/dns-0";

struct State {
    ca: Ca,
    secret: Secret,
    publisher: Publisher,
    events: mpsc::Sender<Event>,
    renewed: Mutex<usize>,
}

impl State {
    fn sign(&self, csr: &[u8]) -> Result<Response<Signed>, Status> {
        let role = DNS.parse::<SpiffeId>().unwrap().role().unwrap();
        let leaf = self.ca.sign(&role, csr, SystemTime::now());
        let leaf = leaf.map_err(|error| Status::permission_denied(error.to_string()))?;
        let (chain, bundle) = (vec![leaf.to_vec().into()], self.ca.bundle().to_json());
        Ok(Response::new(Signed { chain, bundle, not_after_ms: 0 }))
    }
}

/// What the TLS side knows: the channel binding, for enrolment.
type Info = Option<[u8; 32]>;

#[derive(Clone)]
struct Service(Arc<State>);

#[tonic::async_trait]
impl TrustRpc for Service {
    async fn enroll(&self, request: Request<EnrollRequest>) -> Result<Response<Signed>, Status> {
        let binding = request.extensions().get::<Info>().copied().flatten().unwrap();
        let request = request.into_inner();
        let Some(Credential::Proof(proof)) = &request.credential else {
            return Err(Status::permission_denied("no proof"));
        };
        let context = hansa_proto::context::enroll(&proof.id, DNS, &request.csr);
        if !verify_proof(&self.0.secret, &binding, &context, &proof.proof) {
            return Err(Status::permission_denied("the proof is wrong"));
        }
        self.0.sign(&request.csr)
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<Signed>, Status> {
        *self.0.renewed.lock().unwrap() += 1;
        self.0.sign(&request.into_inner().csr)
    }
}

#[tonic::async_trait]
impl Feed for Service {
    type FollowStream = feed::serve::Outbound;

    async fn follow(
        &self,
        request: Request<Streaming<FollowerMessage>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let mut inbound = request.into_inner();
        let timing = Timing { beat: Duration::from_millis(100), ..Timing::default() };
        let hello = feed::hello(&mut inbound, &timing).await?;
        assert_eq!((hello.follower.as_str(), hello.kind), ("dns-0", feed::Kind::Zone));
        Ok(Response::new(feed::serve(&self.0.publisher, hello, inbound, &self.0.events, timing).await?))
    }
}

struct Controller {
    state: Arc<State>,
    tls: Tls,
    events: Arc<AsyncMutex<mpsc::Receiver<Event>>>,
    address: SocketAddr,
    server: Option<JoinHandle<()>>,
}

impl Controller {
    async fn start() -> Self {
        let (mut ca, domain) = (authority("a"), "a".parse::<TrustDomain>().unwrap());
        let key = KeyRequest::new(SpiffeId::of(&domain, &Role::Controller)).unwrap();
        let leaf = ca.sign(&Role::Controller, key.csr(), SystemTime::now()).unwrap();
        // Leaves of the server live so shortly that it must renew within the test.
        ca.set_options(CaOptions { leaf_life: Duration::from_secs(6), ..CaOptions::default() });
        let bundles: BundleSet = [ca.bundle()].into_iter().collect();
        let trust = Trust::new(TrustSnapshot { bundles, ..TrustSnapshot::default() });
        let tls = Tls::new(Keys::new(key.complete(vec![leaf]).unwrap()), trust);
        let (events, receiver) = mpsc::channel(64);
        let publisher = Publisher::new(1, 0);
        let secret = Secret::generate().unwrap();
        let state = Arc::new(State { ca, secret, publisher, events, renewed: Mutex::new(0) });
        // Its own, so that it finds its port free when it comes again.
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let address = ([127, 95, 0, NEXT.fetch_add(1, Ordering::Relaxed)], 0).into();
        let mut controller =
            Self { state, tls, events: Arc::new(AsyncMutex::new(receiver)), address, server: None };
        controller.listen().await;
        controller
    }

    async fn listen(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        let admit = Admit::roles(Domains::one("a".parse().unwrap()), [RoleKind::Dns]);
        let doors = Doors {
            enroll: TlsAcceptor::from(Arc::new(self.tls.server_without_client_auth(&[ALPN_ENROLL]))),
            mutual: TlsAcceptor::from(Arc::new(self.tls.server(admit, &[ALPN_H2]))),
        };
        self.server = Some(tokio::spawn(serve(listener, doors, Service(self.state.clone()))));
    }

    async fn stop(&mut self) {
        let server = self.server.take().unwrap();
        server.abort();
        let _ = server.await;
    }

    fn token(&self) -> String {
        let token = EnrollToken {
            controllers: vec![self.address.to_string()],
            cluster: "aws-eu".parse().unwrap(),
            root_sha256: self.state.ca.active_root().fingerprint(),
            id: DNS.parse().unwrap(),
            secret_id: "0011223344556677".to_owned(),
            secret: self.state.secret.clone(),
            expires: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() + 600,
        };
        token.to_text()
    }

    fn publish(&self, zone: &Zone) {
        let bundle = self.state.ca.bundle().to_json();
        self.state.publisher.replace(rows(&"aws-eu".parse().unwrap(), &bundle, zone));
    }

    async fn acked(&self, position: Position) {
        let mut events = self.events.lock().await;
        let wait = async {
            loop {
                let event = events.recv().await.unwrap();
                if matches!(&event.body, EventBody::Ack(ack) if ack.applied == Some(position)) {
                    return;
                }
            }
        };
        timeout(LIMIT, wait).await.unwrap();
    }
}

struct Doors {
    enroll: TlsAcceptor,
    mutual: TlsAcceptor,
}

async fn serve(listener: TcpListener, doors: Doors, service: Service) {
    let mut tasks = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let lazy = tokio_rustls::LazyConfigAcceptor::new(Default::default(), stream);
        let Ok(start) = lazy.await else { continue };
        let enroll =
            start.client_hello().alpn().is_some_and(|mut names| names.any(|name| name == ALPN_ENROLL));
        let acceptor = if enroll { &doors.enroll } else { &doors.mutual };
        let Ok(stream) = start.into_stream(acceptor.config().clone()).await else { continue };
        let info: Info = enroll.then(|| channel_binding(stream.get_ref().1).unwrap());
        let service = service.clone();
        tasks.spawn(async move {
            let one = tokio_stream::iter([Ok::<_, std::io::Error>(Known::new(stream, info))]);
            let one = futures::StreamExt::chain(one, futures::stream::pending());
            let server = transport::server()
                .add_service(TrustServer::new(service.clone()))
                .add_service(FeedServer::new(service));
            let _ = server.serve_with_incoming(one).await;
        });
    }
}

const WEB: &str = "web.shop.svc.clusterset.local";

async fn until(running: &Running, wanted: usize) {
    let wait = async {
        loop {
            let answer = running.udp(&question(WEB, RecordType::A, None)).await;
            if answer.metadata.response_code == ResponseCode::NoError && answer.answers.len() == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, wait).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enrols_follows_acknowledges_and_outlives_the_controller() {
    let mut controller = Controller::start().await;
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, controller.token()).unwrap();
    let more = format!("enrollToken: {}\n", token.display());
    controller.publish(&zone());
    let running = Running::start(config(dir.path(), &more)).await;
    until(&running, 2).await;
    assert!(running.process.ready.is_ready());
    controller.acked(controller.state.publisher.position()).await;

    // An acknowledgement means that the answer has changed.
    let mut smaller = zone();
    smaller.insert(service("shop/web", hansa_core::catalog::ServiceType::ClusterSetIP, &["10.1.0.1"]));
    controller.publish(&smaller);
    controller.acked(controller.state.publisher.position()).await;
    assert_eq!(running.udp(&question(WEB, RecordType::A, None)).await.answers.len(), 1);

    // The leaf lives for seconds here: it is renewed without anybody noticing.
    let renewed = async {
        while *controller.state.renewed.lock().unwrap() == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LIMIT, renewed).await.unwrap();

    // The controller goes: the last zone stays, also across a restart without token.
    controller.stop().await;
    until(&running, 1).await;
    let path = dir.path().join("zone.feed");
    let saved = || {
        std::fs::read(&path).is_ok_and(|bytes| {
            feed::Saved::decode(&bytes)
                .is_ok_and(|saved| saved.position == controller.state.publisher.position())
        })
    };
    let kept = async {
        while !saved() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, kept).await.unwrap();
    running.stop().await;
    std::fs::write(&token, controller.token()).unwrap();
    let running = Running::start(config(dir.path(), &more)).await;
    until(&running, 1).await;

    // And it goes on by itself when the controller is back.
    controller.publish(&zone());
    controller.listen().await;
    until(&running, 2).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_for_another_server_is_refused_with_the_reason() {
    let controller = Controller::start().await;
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), &format!("enrollToken: {}\n", controller.token()));
    config.id = "dns-9".parse().unwrap();
    let running = Running::start(config).await;
    let error = timeout(LIMIT, running.run).await.unwrap().unwrap().unwrap_err();
    assert!(error.to_string().contains("the token is for spiffe://a/hansa/dns/dns-0"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_zone_file_is_set_aside_and_fetched_anew() {
    let controller = Controller::start().await;
    controller.publish(&zone());
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("zone.feed"), b"hansaf01 but not really").unwrap();
    let running = Running::start(config(dir.path(), &format!("enrollToken: {}\n", controller.token()))).await;
    until(&running, 2).await;
    assert!(dir.path().join("zone.feed.corrupt-1").exists());
    running.stop().await;
}
