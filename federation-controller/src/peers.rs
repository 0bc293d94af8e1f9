//! One follower per peer: its catalog comes in through our gateways, over end-to-end mutual TLS.
//!
//! Started by `controller`. A peer that is added is followed at once, one that is removed is dropped
//! at once. Nothing a peer sends ends anything but its own feed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hansa_core::code::control;
use hansa_core::name::ClusterId;
use hansa_identity::tls::{self, ALPN_H2};
use hansa_identity::verify;
use hansa_proto::convert::report::ServiceConflict;
use hansa_proto::feed::follow::Limits;
use hansa_proto::feed::{self, Config, FollowEvent, Handle, Kind, LinkError};
use hansa_runtime::tasks::Tasks;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::authority::Authority;
use crate::fuse::View;
use crate::relay::{Io, Relay};
use crate::roster::Roster;

/// For the handshake inside the tunnel.
const HANDSHAKE: Duration = Duration::from_secs(4);

/// Follows all peers. Clones share it.
#[derive(Clone)]
pub struct Peers {
    /// The own cluster.
    pub cluster: ClusterId,
    /// Identity.
    pub authority: Authority,
    /// Whom to follow, and where it goes.
    pub roster: Roster,
    /// The way there.
    pub relay: Arc<dyn Relay>,
    /// For the conflicts that peers are told of.
    pub view: watch::Receiver<Option<Arc<View>>>,
    /// Owns the tasks.
    pub tasks: Tasks,
}

impl Peers {
    /// Follows whoever is a peer, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut changed = self.roster.changed();
        let mut running: BTreeMap<ClusterId, CancellationToken> = BTreeMap::new();
        loop {
            changed.borrow_and_update();
            let wanted = self.roster.ids();
            running.retain(|id, token| {
                let keep = wanted.contains(id);
                if !keep {
                    token.cancel();
                }
                keep
            });
            for id in wanted {
                running.entry(id.clone()).or_insert_with(|| {
                    let token = stop.child_token();
                    let (peers, ended) = (self.clone(), token.clone());
                    self.tasks.spawn("peer-feed", async move {
                        ended.run_until_cancelled(peers.follow(id)).await;
                    });
                    token
                });
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = changed.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn follow(self, id: ClusterId) {
        let mut config = Config::new(self.cluster.as_str(), Kind::Catalog);
        config.limits = Limits::of_peer();
        let resume = self.roster.resume(&id);
        let (peers, peer) = (self.clone(), id.clone());
        let connect = move || {
            let (peers, peer) = (peers.clone(), peer.clone());
            async move { peers.connect(&peer).await }
        };
        let (handle, events, link) = feed::follow(config, connect, resume.as_ref());
        self.roster.linked(&id, handle.status());
        tokio::join!(link, self.take(&id, handle, events));
    }

    async fn connect(&self, peer: &ClusterId) -> Result<tokio_rustls::client::TlsStream<Io>, String> {
        let entry = self.roster.get(peer).ok_or("the peer was removed")?;
        let io = self.relay.peer(peer).await.map_err(|e| e.to_string())?;
        let config = self.authority.tls().client_to_controller(&entry.record.trust_domain, &[ALPN_H2]);
        let handshake = TlsConnector::from(Arc::new(config)).connect(tls::server_name(), io);
        match timeout(HANDSHAKE, handshake).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => {
                Err(verify::reason(&error).map_or_else(|| error.to_string(), ToString::to_string))
            }
            Err(_) => Err(format!("{} the peer's controller does not answer", control::PEER_UNREACHABLE)),
        }
    }

    async fn take(&self, id: &ClusterId, handle: Handle, mut events: mpsc::Receiver<FollowEvent>) {
        let mut view = self.view.clone();
        let mut last_error = None;
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.event(id, &handle, event, &mut last_error).await,
                    None => return,
                },
                Ok(()) = view.changed() => {
                    let conflicts = view.borrow_and_update().as_ref().map(|view| conflicts(view, id));
                    handle.conflicts(conflicts.unwrap_or_default());
                }
            }
        }
    }

    async fn event(&self, id: &ClusterId, handle: &Handle, event: FollowEvent, last: &mut Option<LinkError>) {
        match event {
            FollowEvent::Connected { software, .. } => {
                *last = None;
                info!(peer = %id, software, "following peer");
            }
            FollowEvent::Applied(change) => {
                let refused = self.roster.apply(id, &change).await;
                for refusal in refused.iter().take(5) {
                    warn!(code = %control::ROW_REFUSED, peer = %id, key = %refusal.key, reason = %refusal.reason,
                        "row of a peer refused");
                }
                debug!(peer = %id, version = %change.position, rows = change.changed.len(), "catalog applied");
                handle.applied(&change, refused);
            }
            FollowEvent::Heartbeat { .. } => {}
            FollowEvent::Question(question) => {
                handle.reply(question.id, Err("peers are not asked".to_owned()));
            }
            FollowEvent::Lost { error, .. } => {
                // One line until it is back; the causes of further tries differ only in who was asked.
                if last.is_some() {
                    debug!(peer = %id, %error, "still lost");
                } else {
                    let code = error.code().unwrap_or(control::PEER_UNREACHABLE);
                    warn!(code = %code, peer = %id, %error, "the feed from a peer is lost; its last catalog stays");
                }
                *last = Some(error);
            }
        }
    }
}

/// The conflicts of services that this peer exports.
fn conflicts(view: &View, peer: &ClusterId) -> Vec<ServiceConflict> {
    let imports = view.mesh.imports.values().filter(|import| import.clusters.contains_key(peer));
    let all = imports.flat_map(|import| {
        import.conflicts.iter().map(|conflict| (import.service.clone(), conflict.clone()))
    });
    all.collect()
}
