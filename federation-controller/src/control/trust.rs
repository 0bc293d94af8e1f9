//! Trust questions of the control socket: bundles, rotation, enrolment tokens, this cluster as a peer.
//!
//! Part of `control`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hansa_api::kinds::peer::{AcceptSpec, ClusterPeer, ClusterPeerSpec, HANSA_VERSION};
use hansa_api::view::{self, Error};
use hansa_core::code::{cli, trust};
use hansa_core::name::NodeId;
use hansa_core::spiffe::{Role, SpiffeId};
use hansa_identity::bundle::Bundle;
use hansa_identity::cert::Fingerprint;
use hansa_identity::rotate::Consent;
use hansa_identity::token::EnrollToken;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tracing::info;

use super::State;
use crate::join::{expires, life};
use crate::nodes::Kind;
use crate::secrets::Purpose;

/// A follower that was not heard for so long has acknowledged nothing.
const HEARD: Duration = Duration::from_secs(60);

fn shown(bundle: &Bundle, owner: &str, active: Option<Fingerprint>, rotation: &str) -> view::Trust {
    let time = |at: SystemTime| {
        let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        expires(seconds)
    };
    let roots = bundle.roots.iter().map(|root| view::Root {
        fingerprint: root.fingerprint().to_string(),
        not_before: time(root.not_before()),
        not_after: time(root.not_after()),
        active: active == Some(root.fingerprint()),
    });
    view::Trust {
        trust_domain: bundle.trust_domain.to_string(),
        owner: owner.to_owned(),
        sequence: bundle.sequence,
        refresh_hint_seconds: bundle.refresh_hint.as_secs(),
        roots: roots.collect(),
        rotation: rotation.to_owned(),
        bundle: serde_json::from_str(&bundle.to_json()).unwrap_or_default(),
    }
}

impl State {
    fn own_trust(&self) -> view::Trust {
        let rotation = self.authority.rotation();
        let phase = match (&rotation.next, rotation.retired.is_empty()) {
            (Some(_), _) => "published",
            (None, false) => "active",
            (None, true) => "none",
        };
        let bundle = self.authority.bundle().borrow().clone();
        shown(&bundle, "own", Some(rotation.active), phase)
    }

    /// `GET /v1/trust`: the own domain first.
    pub(super) fn trusted(&self) -> Vec<view::Trust> {
        let peers = self.roster.all().into_iter();
        let peers = peers.map(|(id, entry)| shown(&entry.bundle, id.as_str(), None, "none"));
        std::iter::once(self.own_trust()).chain(peers).collect()
    }

    /// Whether every peer and every own server that is connected has the own bundle in force.
    fn acknowledged(&self) -> bool {
        let Some(view) = self.view.borrow().clone() else { return false };
        if *view.routes.bundle != *self.authority.bundle().borrow().to_json() {
            // The newest bundle is not even published yet.
            return false;
        }
        let (routes, catalogs) = &view.bundle_at;
        let gateways = self.nodes.all(Kind::Gateway);
        let servers = gateways.values().all(|node| node.applied.is_some_and(|v| v >= *routes));
        let peers = self.roster.all().into_iter().all(|(id, entry)| {
            let heard = entry.following.heard.is_some_and(|at| at.elapsed() < HEARD);
            let applied = entry.following.applied.zip(catalogs.get(&id).copied());
            heard && applied.is_some_and(|(applied, wanted)| applied >= wanted)
        });
        servers && peers
    }

    /// `POST /v1/trust/rotate`.
    pub(super) fn rotate(&self, request: &view::RotateRequest) -> Result<view::Trust, Error> {
        if !matches!(request.phase.as_str(), "publish" | "activate" | "retire") {
            return Err(Error::new(cli::USAGE, "phase", "use publish, activate or retire"));
        }
        let consent = Consent { acknowledged: self.acknowledged(), force: request.force };
        let rotated = self.authority.rotate(&request.phase, consent);
        rotated.map_err(|e| Error::new(trust::ROTATION_REFUSED, "own roots", e.to_string()))?;
        Ok(self.own_trust())
    }

    /// `POST /v1/enroll`.
    pub(super) async fn enroll(&self, request: view::EnrollRequest) -> Result<view::Token, Error> {
        let usage = |key: &str, cause: String| Error::new(cli::USAGE, key, cause);
        let node: NodeId = request.id.parse().map_err(|e| usage("id", format!("{e}")))?;
        let role = match request.role.as_str() {
            "gateway" => Role::Gateway(node),
            "dns" => Role::Dns(node),
            _ => return Err(usage("role", "use gateway or dns".to_owned())),
        };
        let id = SpiffeId::of(self.authority.domain(), &role);
        let purpose = Purpose::Enroll { id: id.clone() };
        let made = self.secrets.make(purpose, life(request.ttl_seconds), SystemTime::now()).await;
        let made = made.map_err(|e| Error::new(trust::TOKEN_INVALID, "token", e.to_string()))?;
        info!(target: "audit", event = "enrolment_token_made", %id, secret = %made.id);
        let expires = expires(made.expires);
        let token = EnrollToken {
            controllers: self.addresses.clone(),
            cluster: self.facts.cluster.clone(),
            root_sha256: self.authority.root(),
            id,
            secret_id: made.id,
            secret: made.secret,
            expires: made.expires,
        };
        Ok(view::Token { token: token.to_text(), expires })
    }

    /// `GET /v1/clusterpeer`: this cluster as others may declare it.
    pub(super) fn cluster_peer(&self) -> Result<ClusterPeer, Error> {
        let view = self.view()?;
        let gateways = view.catalog.gateways.values().flat_map(|gateway| gateway.addresses.clone());
        Ok(ClusterPeer {
            api_version: HANSA_VERSION.to_owned(),
            kind: "ClusterPeer".to_owned(),
            metadata: ObjectMeta { name: Some(self.facts.cluster.to_string()), ..ObjectMeta::default() },
            spec: ClusterPeerSpec {
                trust_domain: self.authority.domain().to_string(),
                gateways: gateways.collect(),
                bundle: self.authority.bundle().borrow().to_json(),
                transport: "auto".to_owned(),
                accept: AcceptSpec::default(),
            },
        })
    }
}
