//! The gRPC services: feed, enrolment and renewal. Joining is in `join`.
//!
//! Called by `listen`, which puts the [`Caller`] into every request. Decides from the certificate,
//! never from what a message claims, which projection a caller gets and which id is signed.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hansa_core::code::{Code, trust};
use hansa_core::name::{ClusterId, NodeId};
use hansa_core::spiffe::{Role, SpiffeId};
use hansa_identity::ca::CaError;
use hansa_identity::cert::Leaf;
use hansa_identity::deny::DenyEntry;
use hansa_identity::token::verify_proof;
use hansa_proto::context;
use hansa_proto::feed::{self, Event, EventBody, Kind as RowKind, Timing};
use hansa_proto::wire::feed::v1 as feed_pb;
use hansa_proto::wire::feed::v1::feed_server;
use hansa_proto::wire::trust::v1 as trust_pb;
use hansa_proto::wire::trust::v1::enroll_request::Credential;
use hansa_proto::wire::trust::v1::trust_server;
use rustls::pki_types::CertificateDer;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info, warn};

use crate::authority::Authority;
use crate::feeds::{Feeds, Projection};
use crate::listen::{Caller, Door};
use crate::nodes::{Came, Kind, Nodes, Said};
use crate::roster::{Following, Roster};
use crate::secrets::{Purpose, Secrets};

/// Events on the way from all followers of one kind; each session keeps one place for its last.
const EVENTS: usize = 8_192;

/// A refusal as the other side sees it: code first, then the cause.
pub(crate) fn refusal(code: Code, cause: impl std::fmt::Display) -> Status {
    Status::permission_denied(format!("{code} {cause}"))
}

/// The [`Caller`] of a request.
pub(crate) fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request.extensions().get::<Caller>().cloned().ok_or_else(|| Status::internal("no caller"))
}

/// Hands the feeds to followers. Clones share it.
#[derive(Clone)]
pub struct FeedService {
    authority: Authority,
    roster: Roster,
    feeds: Feeds,
    gateways: mpsc::Sender<Event>,
    dns: mpsc::Sender<Event>,
    peers: mpsc::Sender<Event>,
}

/// What followers tell, to be taken up by [`Ears::run`].
pub struct Ears {
    nodes: Nodes,
    roster: Roster,
    gateways: mpsc::Receiver<Event>,
    dns: mpsc::Receiver<Event>,
    peers: mpsc::Receiver<Event>,
}

impl FeedService {
    /// The service, and the other end of its events.
    pub fn new(authority: Authority, roster: Roster, nodes: Nodes, feeds: Feeds) -> (Self, Ears) {
        let (gateways, gateways_out) = mpsc::channel(EVENTS);
        let (dns, dns_out) = mpsc::channel(EVENTS);
        let (peers, peers_out) = mpsc::channel(EVENTS);
        let ears =
            Ears { nodes, roster: roster.clone(), gateways: gateways_out, dns: dns_out, peers: peers_out };
        (Self { authority, roster, feeds, gateways, dns, peers }, ears)
    }

    /// What this id may follow, under which follower name.
    fn entitled(&self, id: &SpiffeId) -> Option<(RowKind, Projection, String)> {
        let own = id.trust_domain() == self.authority.domain();
        match id.role()? {
            Role::Gateway(node) if own => Some((RowKind::Routes, Projection::Routes, node.to_string())),
            Role::Dns(node) if own => Some((RowKind::Zone, Projection::Zone, node.to_string())),
            Role::Controller if !own => {
                let peer = self.roster.by_domain(id.trust_domain())?;
                Some((RowKind::Catalog, Projection::Catalog(peer.clone()), peer.to_string()))
            }
            _ => None,
        }
    }
}

#[tonic::async_trait]
impl feed_server::Feed for FeedService {
    type FollowStream = feed::serve::Outbound;

    async fn follow(
        &self,
        request: Request<Streaming<feed_pb::FollowerMessage>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let id = caller(&request)?.id.ok_or_else(|| Status::unauthenticated("a certificate is needed"))?;
        let wrong = |cause: String| refusal(trust::CERT_WRONG_ROLE, cause);
        let entitled = self.entitled(&id).ok_or_else(|| wrong(format!("{id} may not follow anything")))?;
        let (kind, projection, name) = entitled;
        let mut inbound = request.into_inner();
        let timing = Timing::default();
        let hello = feed::hello(&mut inbound, &timing).await?;
        if hello.kind != kind || hello.follower != name {
            let cause = format!("{id} asks for {} as {}", hello.kind.as_str(), hello.follower);
            warn!(code = %trust::CERT_WRONG_ROLE, %id, cause, "follower refused");
            return Err(wrong(cause));
        }
        let publisher = self.feeds.serve(&projection).await;
        let publisher = publisher.ok_or_else(|| Status::unavailable("not ready yet"))?;
        info!(%id, software = %hello.software, kind = kind.as_str(), "follower connected");
        let events = match kind {
            RowKind::Routes => &self.gateways,
            RowKind::Zone => &self.dns,
            RowKind::Catalog => &self.peers,
        };
        let outbound = feed::serve(&publisher, hello, inbound, events, timing).await?;
        Ok(Response::new(outbound))
    }
}

impl Ears {
    /// Takes up what followers tell, until all senders are gone.
    pub async fn run(mut self) {
        loop {
            tokio::select! {
                Some(event) = self.gateways.recv() => node_event(&self.nodes, Kind::Gateway, event),
                Some(event) = self.dns.recv() => node_event(&self.nodes, Kind::Dns, event),
                Some(event) = self.peers.recv() => peer_event(&self.roster, event),
                else => return,
            }
        }
    }
}

fn node_event(nodes: &Nodes, kind: Kind, event: Event) {
    // The name is that of the certificate, which has been a node id.
    let Ok(id) = event.follower.parse::<NodeId>() else { return };
    match event.body {
        EventBody::Hello(hello, follower) => {
            nodes.hello(kind, &id, event.session, Came { info: hello.node, follower: Some(follower) });
        }
        EventBody::Ack(ack) => {
            let applied = ack.applied.map(|p| p.version);
            let said = Said { applied, refusals: ack.refusals, info: ack.node, report: ack.report };
            nodes.said(kind, &id, event.session, said);
        }
        EventBody::Gone => {
            info!(%id, kind = kind.text(), "follower gone");
            nodes.gone(kind, &id, event.session);
        }
    }
}

fn peer_event(roster: &Roster, event: Event) {
    let Ok(id) = event.follower.parse::<ClusterId>() else { return };
    let session = event.session;
    match event.body {
        EventBody::Hello(..) => {
            roster.followed(&id, Following { session, heard: Some(Instant::now()), ..Following::default() });
        }
        EventBody::Ack(ack) => roster.followed(
            &id,
            Following {
                session,
                applied: ack.applied.map(|p| p.version),
                heard: Some(Instant::now()),
                refusals: ack.refusals,
                conflicts: ack.conflicts,
            },
        ),
        EventBody::Gone => debug!(peer = %id, "peer no longer follows"),
    }
}

/// Signs certificates for own servers. Clones share it.
#[derive(Clone)]
pub struct TrustService {
    /// The authority.
    pub authority: Authority,
    /// Behind the tokens.
    pub secrets: Secrets,
}

impl TrustService {
    fn signed(&self, leaf: &CertificateDer<'static>) -> Result<trust_pb::Signed, Status> {
        let facts = Leaf::parse(leaf).map_err(|e| Status::internal(e.to_string()))?;
        let not_after = facts.not_after.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(trust_pb::Signed {
            chain: vec![Bytes::copy_from_slice(leaf)],
            bundle: self.authority.bundle().borrow().to_json(),
            not_after_ms: u64::try_from(not_after.as_millis()).unwrap_or(u64::MAX),
        })
    }

    async fn enrolled(
        &self,
        caller: &Caller,
        asked: trust_pb::EnrollRequest,
    ) -> Result<trust_pb::Signed, Status> {
        let no = |cause: String| refusal(trust::ENROL_REFUSED, cause);
        let node: NodeId = asked.id.parse().map_err(|e| no(format!("{e}")))?;
        let role = match asked.role.as_str() {
            "gateway" => Role::Gateway(node),
            "dns" => Role::Dns(node),
            _ => return Err(no("the role must be gateway or dns".to_owned())),
        };
        let Some(Credential::Proof(proof)) = asked.credential else {
            return Err(no("only enrolment tokens are taken here".to_owned()));
        };
        let id = SpiffeId::of(self.authority.domain(), &role);
        let now = SystemTime::now();
        let found = self.secrets.find(&proof.id, now);
        let (secret, purpose) = found.map_err(|refused| refusal(refused.code(), refused))?;
        let text = id.to_string();
        let context = context::enroll(&proof.id, &text, &asked.csr);
        if !verify_proof(&secret, &caller.binding, &context, &proof.proof) {
            return Err(refusal(trust::TOKEN_INVALID, "the proof of the token is wrong"));
        }
        if purpose != (Purpose::Enroll { id: id.clone() }) {
            return Err(no(format!("the token is not for {id}")));
        }
        if self.authority.denied().contains(&DenyEntry::Holder(id.clone())) {
            let cause = format!("{id} is denied; `hansa trust allow` it first");
            return Err(refusal(trust::CERT_DENIED, cause));
        }
        // Signed before it is spent: a request that cannot be signed costs no token. Whoever loses
        // the race for the secret never sees the certificate.
        let leaf = self.authority.sign(&role, &asked.csr).map_err(|e| no(e.to_string()))?;
        self.secrets.spend(&proof.id, now).await.map_err(|refused| refusal(refused.code(), refused))?;
        info!(target: "audit", event = "enrolled", %id);
        self.signed(&leaf)
    }
}

#[tonic::async_trait]
impl trust_server::Trust for TrustService {
    async fn enroll(
        &self,
        request: Request<trust_pb::EnrollRequest>,
    ) -> Result<Response<trust_pb::Signed>, Status> {
        let caller = caller(&request)?;
        if caller.door != Door::Enroll {
            return Err(Status::failed_precondition("enrolment has its own protocol (hansa-enroll)"));
        }
        let signed = self.enrolled(&caller, request.into_inner()).await;
        if let Err(status) = &signed {
            warn!(target: "audit", event = "enrolment_refused", cause = status.message());
        }
        signed.map(Response::new)
    }

    async fn renew(
        &self,
        request: Request<trust_pb::RenewRequest>,
    ) -> Result<Response<trust_pb::Signed>, Status> {
        let id = caller(&request)?.id.ok_or_else(|| Status::unauthenticated("a certificate is needed"))?;
        let role = id.role().filter(|role| *role != Role::Controller);
        let Some(role) = role.filter(|_| id.trust_domain() == self.authority.domain()) else {
            return Err(refusal(trust::CERT_WRONG_ROLE, format!("{id} is not renewed here")));
        };
        let signed = self.authority.sign(&role, &request.into_inner().csr);
        let leaf = signed.map_err(|error: CaError| {
            warn!(target: "audit", event = "renewal_refused", %id, %error);
            refusal(trust::ENROL_REFUSED, error)
        })?;
        self.signed(&leaf).map(Response::new)
    }
}
