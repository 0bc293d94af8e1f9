//! How two clusters become peers: invitations, joining, and the service that answers a join.
//!
//! Called by `control` (invite, join) and `listen` (the service). The secret is proved inside a TLS
//! connection between the two controllers and bound to it; the gateways in between carry bytes they
//! cannot read. Joining twice, or both sides at once, ends with one peering.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hansa_api::view;
use hansa_api::view::Error;
use hansa_core::catalog::GatewayInfo;
use hansa_core::code::{Code, control, trust};
use hansa_core::name::{ClusterId, NodeId};
use hansa_core::spiffe::TrustDomain;
use hansa_identity::bundle::{self, Bundle};
use hansa_identity::tls::{self, ALPN_JOIN, Pin};
use hansa_identity::token::{DEFAULT_LIFE, InviteToken, MAX_ADDRESSES, channel_binding, prove, verify_proof};
use hansa_identity::verify::{self, RoleKind};
use hansa_proto::wire::join::v1::{self as pb, join_client::JoinClient, join_server};
use hansa_proto::wire::trust::v1::SecretProof;
use hansa_proto::{context, convert, transport};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use tracing::{info, warn};

use crate::authority::Authority;
use crate::fuse::{Facts, View, now_millis};
use crate::listen::Door;
use crate::relay::{Relay, RelayError};
use crate::roster::{Origin, Record, Roster};
use crate::secrets::{Purpose, Secrets};
use crate::serve::{caller, refusal};

/// For one address of a token: relay, handshake and the answer.
const ATTEMPT: Duration = Duration::from_secs(8);
/// Between the beginnings of two attempts (RFC 8305 section 5).
const STAGGER: Duration = Duration::from_millis(250);
/// Longest life of an invitation that can be asked for.
const MOST_LIFE: Duration = Duration::from_secs(86_400);

/// Invites and joins. Clones share it.
#[derive(Clone)]
pub struct Joiner {
    /// The own cluster.
    pub facts: Facts,
    /// Identity.
    pub authority: Authority,
    /// Where peers go.
    pub roster: Roster,
    /// Behind the tokens.
    pub secrets: Secrets,
    /// The way to others.
    pub relay: Arc<dyn Relay>,
    /// For our own gateways.
    pub view: watch::Receiver<Option<Arc<View>>>,
}

/// How long an invitation, or a join, waits for a gateway of ours in the catalog.
const GATEWAY_WAIT: Duration = Duration::from_secs(3);

/// Seconds asked for, within bounds.
pub fn life(ttl_seconds: Option<u64>) -> Duration {
    ttl_seconds.map_or(DEFAULT_LIFE, |s| Duration::from_secs(s.max(1)).min(MOST_LIFE))
}

/// The time a token ends, for people.
pub fn expires(unix: u64) -> String {
    let at = i64::try_from(unix).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    at.map(|at| at.to_string()).unwrap_or_default()
}

/// A connection to the inviting controller, with what the proof is bound to.
struct Reached {
    channel: Channel,
    binding: [u8; 32],
}

struct Known {
    record: Record,
    bundle: Bundle,
}

impl Joiner {
    fn introduction(&self) -> pb::Introduction {
        let bundle = self.authority.bundle().borrow().to_json();
        let view = self.view.borrow().clone();
        let gateways = view.iter().flat_map(|view| view.catalog.gateways.values());
        pb::Introduction {
            cluster: self.facts.cluster.to_string(),
            trust_domain: self.authority.domain().to_string(),
            locality: self.facts.locality.to_string(),
            bundle,
            gateways: gateways.map(convert::catalog::gateway_to).collect(),
            software: concat!("hansa/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }

    /// Waits a moment for a gateway that fits: one that has just started may not yet stand in the
    /// catalog, and the peer would learn of none.
    async fn gateway(&self, fits: impl Fn(&GatewayInfo) -> bool) {
        let mut view = self.view.clone();
        let known = view.wait_for(|view| {
            let gateways = view.iter().flat_map(|view| view.catalog.gateways.values());
            gateways.into_iter().any(&fits)
        });
        // Whether it came or not is seen by the caller.
        let _ = timeout(GATEWAY_WAIT, known).await;
    }

    /// Makes an invitation.
    ///
    /// # Errors
    /// HNS-4009: no gateway of ours can be dialled, so nobody could use it.
    pub async fn invite(&self, request: view::InviteRequest) -> Result<view::Token, Error> {
        let object = || "invitation".to_owned();
        let wanted = request.name.map(|name| name.parse::<ClusterId>()).transpose();
        let cluster =
            wanted.map_err(|e| Error::new(hansa_core::code::cli::USAGE, object(), e.to_string()))?;
        self.gateway(|gateway| !gateway.addresses.is_empty()).await;
        let introduction = self.introduction();
        let addresses = introduction.gateways.iter().flat_map(|g| g.addresses.iter().cloned());
        let gateways: Vec<String> = addresses.take(MAX_ADDRESSES).collect();
        if gateways.is_empty() {
            let cause =
                "no connected gateway of this cluster has an address to dial; invite from the other side";
            return Err(Error::new(control::NO_GATEWAY, object(), cause));
        }
        let life = life(request.ttl_seconds);
        let made = self.secrets.make(Purpose::Invite { cluster }, life, SystemTime::now()).await;
        let made = made.map_err(|e| Error::new(trust::TOKEN_INVALID, object(), e.to_string()))?;
        let token = InviteToken {
            cluster: self.facts.cluster.clone(),
            trust_domain: self.authority.domain().clone(),
            gateways,
            bundle: introduction.bundle,
            secret_id: made.id,
            secret: made.secret,
            expires: made.expires,
        };
        info!(target: "audit", event = "invitation_made", secret = %token.secret_id);
        Ok(view::Token { token: token.to_text(), expires: expires(made.expires) })
    }

    /// Joins the cluster that made the token.
    ///
    /// # Errors
    /// What is wrong with the token, with the way there, or what the other side refused.
    pub async fn join(&self, text: &str) -> Result<view::Joined, Error> {
        let token = InviteToken::parse(text, SystemTime::now());
        let token = token.map_err(|e| Error::new(e.code(), "token", e.to_string()))?;
        if self.roster.admissible(&token.cluster, &token.trust_domain)? {
            let object = format!("peer {}", token.cluster);
            return Err(Error::new(control::JOIN_KNOWN, object, "this peer is known already"));
        }
        let pinned = token.bundle();
        let pinned = pinned.map_err(|e| Error::new(trust::TOKEN_INVALID, "token", e.to_string()))?;
        // A gateway that only dials out has no address.
        self.gateway(|_| true).await;
        let introduction = self.race(&token, &pinned).await?;
        self.joined(&token, pinned, introduction).await
    }

    /// Reaches for the addresses one after another, 250 ms apart, without waiting for the slow ones (as
    /// RFC 8305 does), and asks over the first connection that stands: the secret is shown once.
    async fn race(&self, token: &InviteToken, pinned: &Bundle) -> Result<pb::Introduction, Error> {
        let mut left = token.gateways.iter();
        let mut running = FuturesUnordered::new();
        let mut causes = Vec::new();
        let mut due = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
        loop {
            let more = left.len() > 0;
            let (address, reached) = tokio::select! {
                Some(ended) = running.next(), if !running.is_empty() => ended,
                () = &mut due, if more => {
                    running.extend(left.next().map(|address| async move {
                        (address, timeout(ATTEMPT, self.reach(token, address, pinned)).await)
                    }));
                    due.as_mut().reset(Instant::now() + STAGGER);
                    continue;
                }
                else => break,
            };
            let late = || Failed::Here("no answer in time".to_owned());
            let answer = match reached {
                Ok(Ok(reached)) => {
                    timeout(ATTEMPT, self.introduce(token, reached)).await.unwrap_or_else(|_| Err(late()))
                }
                Ok(Err(failed)) => Err(failed),
                Err(_) => Err(late()),
            };
            match answer {
                Ok(introduction) => return Ok(introduction),
                Err(Failed::Final(error)) => return Err(error),
                Err(Failed::Here(cause)) => causes.push(format!("{address}: {cause}")),
            }
            // The next one need not wait for a slower one.
            due.as_mut().reset(Instant::now());
        }
        let object = format!("peer {}", token.cluster);
        Err(Error::new(control::PEER_UNREACHABLE, object, causes.join("; ")))
    }

    async fn reach(&self, token: &InviteToken, address: &str, pinned: &Bundle) -> Result<Reached, Failed> {
        let io = self.relay.join(address, &token.bundle).await.map_err(|error| match error {
            RelayError::NoGateway => Failed::Final(Error::new(
                control::NO_GATEWAY,
                "join",
                "no gateway of this cluster is connected to its controller",
            )),
            RelayError::Unreachable(cause) => Failed::Here(cause),
        })?;
        let config = tls::pinned_client(Pin::Bundle(pinned.clone()), &[RoleKind::Controller], &[ALPN_JOIN]);
        let stream = TlsConnector::from(Arc::new(config)).connect(tls::server_name(), io).await;
        let stream = stream.map_err(|error| {
            Failed::Here(verify::reason(&error).map_or_else(|| error.to_string(), ToString::to_string))
        })?;
        let here = |error: &dyn std::fmt::Display| Failed::Here(error.to_string());
        let binding = channel_binding(stream.get_ref().1).map_err(|e| here(&e))?;
        let channel = transport::client(stream).await.map_err(|e| here(&e))?;
        Ok(Reached { channel, binding })
    }

    async fn introduce(&self, token: &InviteToken, reached: Reached) -> Result<pb::Introduction, Failed> {
        let Reached { channel, binding } = reached;
        let introduction = self.introduction();
        let proof = prove(&token.secret, &binding, &context::join(&token.secret_id, &introduction));
        let proof = SecretProof { id: token.secret_id.clone(), proof: Bytes::copy_from_slice(&proof) };
        let request = pb::JoinRequest { introduction: Some(introduction), proof: Some(proof) };
        let reply = JoinClient::new(channel).join(request).await;
        let reply = reply.map_err(|status| failed(&status, &token.cluster))?.into_inner();
        reply.introduction.ok_or_else(|| Failed::Here("the answer is empty".to_owned()))
    }

    async fn joined(
        &self,
        token: &InviteToken,
        pinned: Bundle,
        introduction: pb::Introduction,
    ) -> Result<view::Joined, Error> {
        let object = format!("peer {}", token.cluster);
        let bad = |cause: String| Error::new(trust::TOKEN_INVALID, object.clone(), cause);
        let mut known = read(introduction).map_err(bad)?;
        if known.record.cluster != token.cluster || known.record.trust_domain != token.trust_domain {
            return Err(bad("the one who answered is not the one who invited".to_owned()));
        }
        // The token is what was handed over by a person; a newer bundle must follow from it.
        if bundle::accept(Some(&pinned), &known.bundle).is_err() {
            known.record.bundle = token.bundle.as_str().into();
            known.bundle = pinned;
        }
        let gateways = known.record.gateways.len();
        self.roster.add(known.record, known.bundle).await?;
        let trust_domain = token.trust_domain.to_string();
        Ok(view::Joined { id: token.cluster.to_string(), trust_domain, gateways })
    }

    async fn answer(&self, binding: &[u8; 32], request: pb::JoinRequest) -> Result<pb::JoinReply, Status> {
        let missing = || Status::invalid_argument("introduction or proof is missing");
        let introduction = request.introduction.ok_or_else(missing)?;
        let proof = request.proof.ok_or_else(missing)?;
        let now = SystemTime::now();
        let refused = |refused: crate::secrets::Refused| refusal(refused.code(), refused);
        let (secret, purpose) = self.secrets.find(&proof.id, now).map_err(refused)?;
        let Purpose::Invite { cluster } = purpose else {
            return Err(refusal(trust::TOKEN_INVALID, "the token is not an invitation"));
        };
        if !verify_proof(&secret, binding, &context::join(&proof.id, &introduction), &proof.proof) {
            return Err(refusal(trust::TOKEN_INVALID, "the proof of the token is wrong"));
        }
        let known = read(introduction).map_err(Status::invalid_argument)?;
        let id = &known.record.cluster;
        if cluster.is_some_and(|wanted| wanted != *id) {
            return Err(refusal(trust::TOKEN_INVALID, format!("the invitation is not for {id}")));
        }
        // The very same peer may come again: both sides joined at once, or our answer was lost.
        let admissible = self.roster.admissible(id, &known.record.trust_domain);
        let again = admissible
            .map_err(|error| Status::permission_denied(format!("{} {}", error.code, error.cause)))?;
        if again
            && self
                .roster
                .get(id)
                .is_some_and(|entry| bundle::accept(Some(&entry.bundle), &known.bundle).is_err())
        {
            return Err(refusal(control::JOIN_KNOWN, format!("{id} is known with another bundle")));
        }
        self.secrets.spend(&proof.id, now).await.map_err(refused)?;
        let added = self.roster.add(known.record, known.bundle).await;
        added.map_err(|error| Status::permission_denied(format!("{} {}", error.code, error.cause)))?;
        Ok(pb::JoinReply { introduction: Some(self.introduction()) })
    }
}

enum Failed {
    /// Another address may do better.
    Here(String),
    /// The other side has decided.
    Final(Error),
}

/// A refusal carries its code in front of its words.
fn failed(status: &Status, peer: &ClusterId) -> Failed {
    let text = status.message();
    let code = text.split_once(' ').and_then(|(code, rest)| {
        let number: u16 = code.strip_prefix("HNS-")?.parse().ok()?;
        let known: Code = hansa_core::code::all().into_iter().find(|known| known.number == number)?;
        Some((known, rest))
    });
    match code {
        Some((code, cause)) => Failed::Final(Error::new(code, format!("peer {peer}"), cause)),
        None => Failed::Here(format!("{}: {text}", status.code())),
    }
}

fn read(introduction: pb::Introduction) -> Result<Known, String> {
    let cluster: ClusterId = introduction.cluster.parse().map_err(|e| format!("{e}"))?;
    let trust_domain: TrustDomain = introduction.trust_domain.parse().map_err(|e| format!("{e}"))?;
    let bundle = Bundle::from_json(&trust_domain, introduction.bundle.as_bytes());
    let bundle = bundle.map_err(|e| e.to_string())?;
    if bundle.is_revoked() {
        return Err("the bundle holds no root".to_owned());
    }
    if introduction.gateways.len() > MAX_ADDRESSES {
        return Err(format!("more than {MAX_ADDRESSES} gateways"));
    }
    let gateways = introduction.gateways.into_iter().map(|wire| {
        let gateway: GatewayInfo = convert::catalog::gateway_info(wire).map_err(|e| e.to_string())?;
        Ok((gateway.id.clone(), gateway))
    });
    let gateways: std::collections::BTreeMap<NodeId, GatewayInfo> =
        gateways.collect::<Result<_, String>>()?;
    let record = Record {
        cluster,
        trust_domain,
        locality: introduction.locality.parse().map_err(|e| format!("{e}"))?,
        bundle: introduction.bundle.into(),
        gateways,
        origin: Origin::Token,
        added: now_millis(),
    };
    Ok(Known { record, bundle })
}

/// Answers joins.
#[derive(Clone)]
pub struct JoinService(
    /// Who decides.
    pub Joiner,
);

#[tonic::async_trait]
impl join_server::Join for JoinService {
    async fn join(&self, request: Request<pb::JoinRequest>) -> Result<Response<pb::JoinReply>, Status> {
        let caller = caller(&request)?;
        if caller.door != Door::Join {
            return Err(Status::failed_precondition("joining has its own protocol (hansa-join)"));
        }
        let answer = self.0.answer(&caller.binding, request.into_inner()).await;
        if let Err(status) = &answer {
            warn!(target: "audit", event = "join_refused", cause = status.message());
        }
        answer.map(Response::new)
    }
}
