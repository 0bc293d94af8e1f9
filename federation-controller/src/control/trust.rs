//! Trust questions of the control socket: bundles, rotation, enrolment tokens, this cluster as a peer.
//!
//! Part of `control`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hansa_api::kinds::peer::{AcceptSpec, ClusterPeer, ClusterPeerSpec, HANSA_VERSION};
use hansa_api::view::{self, Error};
use hansa_core::code::{cli, config, trust};
use hansa_core::name::NodeId;
use hansa_core::spiffe::{Role, SpiffeId, TrustDomain};
use hansa_identity::bundle::Bundle;
use hansa_identity::cert::Fingerprint;
use hansa_identity::deny::DenyEntry;
use hansa_identity::rotate::{Consent, RotateError, RotateRefusal};
use hansa_identity::token::EnrollToken;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tracing::info;

use super::State;
use crate::authority::DenyError;
use crate::join::{expires, life};
use crate::nodes::{Forgotten, Kind, Node};
use crate::roster::Following;
use crate::secrets::Purpose;

/// A follower that was not heard for so long has acknowledged nothing.
const HEARD: Duration = Duration::from_secs(60);
/// Most of those who are behind that a refusal names.
const MOST_NAMED: usize = 10;

/// What `trust deny` and `trust allow` are about.
enum Denial {
    Entry(DenyEntry),
    /// An own server, by its id and perhaps its role.
    Server(Option<Kind>, NodeId),
}

fn denial(what: &str) -> Result<Denial, String> {
    if what.contains(':') {
        return what
            .parse()
            .map(Denial::Entry)
            .map_err(|e: hansa_identity::deny::DenyEntryError| e.to_string());
    }
    let (kind, id) = match what.split_once('/') {
        Some(("gateway", id)) => (Some(Kind::Gateway), id),
        Some(("dns", id)) => (Some(Kind::Dns), id),
        Some(_) => return Err("a server is gateway/ID or dns/ID".to_owned()),
        None => (None, what),
    };
    Ok(Denial::Server(kind, id.parse().map_err(|e| format!("{e}"))?))
}

fn reached(applied: Option<u64>, wanted: Option<u64>) -> bool {
    applied.zip(wanted).is_some_and(|(applied, wanted)| applied >= wanted)
}

/// Why an own server has not the bundle in force that came with the version `wanted`, in its row
/// `self`, as words behind its name. `None`: it has it.
fn lacks(node: &Node, wanted: Option<u64>) -> Option<&'static str> {
    let refuses = node.refusals.iter().any(|refusal| refusal.key == "self");
    if reached(node.applied, wanted) && !refuses {
        return None;
    }
    Some(match (node.session, refuses) {
        (None, _) => " (not connected)",
        (_, true) => " (refuses it)",
        (_, false) => "",
    })
}

/// The same of a peer, which gets the bundle in the row `cluster`.
fn missed(peer: &Following, wanted: Option<u64>) -> Option<&'static str> {
    let lately = peer.heard.is_some_and(|at| at.elapsed() < HEARD);
    let refuses = peer.refusals.iter().any(|refusal| refusal.key == "cluster");
    if lately && reached(peer.applied, wanted) && !refuses {
        return None;
    }
    Some(match (lately, refuses) {
        (false, _) => " (not heard from)",
        (_, true) => " (refuses it)",
        (_, false) => "",
    })
}

/// Why a step of a rotation was refused, with those who are behind if that is why.
fn unrotated(error: &RotateError, behind: &[String]) -> String {
    let waits = RotateRefusal::waits_for_others;
    if behind.is_empty() || !matches!(error, RotateError::Refused(refusal) if waits(refusal)) {
        return error.to_string();
    }
    let named = behind.get(..MOST_NAMED).unwrap_or(behind).join(", ");
    let more = match behind.len().saturating_sub(MOST_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "{error}; behind: {named}{more}; for those gone for good: `hansa forget` a server, `hansa peer \
         remove` a peer"
    )
}

fn undenied(what: &str, error: &DenyError) -> Error {
    let code = match error {
        DenyError::Full => trust::DENY_LIST_FULL,
        DenyError::OwnController => cli::USAGE,
    };
    Error::new(code, what, error.to_string())
}

fn role(kind: Kind, id: &NodeId) -> Role {
    match kind {
        Kind::Gateway => Role::Gateway(id.clone()),
        Kind::Dns => Role::Dns(id.clone()),
    }
}

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
        denied: Vec::new(),
        told: Vec::new(),
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
        let denied = self.authority.denied().iter().map(ToString::to_string).collect();
        view::Trust { denied, ..shown(&bundle, "own", Some(rotation.active), phase) }
    }

    /// What a person names, as entries of the deny list.
    fn entries(&self, what: &str) -> Result<Vec<DenyEntry>, Error> {
        let usage = |cause: String| Error::new(cli::USAGE, what, cause);
        let own =
            |kind, id: &NodeId| DenyEntry::Holder(SpiffeId::of(self.authority.domain(), &role(kind, id)));
        let entries = match denial(what).map_err(usage)? {
            Denial::Entry(entry) => vec![entry],
            Denial::Server(Some(kind), id) => vec![own(kind, &id)],
            Denial::Server(None, id) => {
                let kinds = [Kind::Gateway, Kind::Dns].into_iter();
                kinds
                    .filter(|kind| self.nodes.all(*kind).contains_key(&id))
                    .map(|kind| own(kind, &id))
                    .collect()
            }
        };
        if entries.is_empty() {
            let cause = "no own server has this id; say gateway/ID or dns/ID, or give a SPIFFE id";
            return Err(Error::new(cli::NOT_FOUND, what, cause));
        }
        Ok(entries)
    }

    /// `POST /v1/trust/deny`.
    pub(super) async fn deny(&self, request: view::DenyRequest) -> Result<view::Trust, Error> {
        let entries = self.entries(&request.what)?;
        let denied = self.authority.deny(&entries).await;
        if !denied.map_err(|error| undenied(&request.what, &error))? {
            let cause = "it is denied now, but that could not be written to disk: after a restart it counts \
                         again, unless the disk can be written before";
            return Err(Error::new(config::STATE_UNWRITABLE, request.what, cause));
        }
        Ok(self.own_trust())
    }

    /// `POST /v1/trust/allow`.
    pub(super) async fn allow(&self, request: view::DenyRequest) -> Result<view::Trust, Error> {
        let entries = self.entries(&request.what)?;
        // Asked again, it is on the list no more, but may still be so on disk.
        let written = match self.authority.allow(&entries).await {
            None if self.authority.written() => {
                return Err(Error::new(cli::NOT_FOUND, request.what, "it is not on the deny list"));
            }
            written => written == Some(true),
        };
        if !written {
            let cause = "it is allowed now, but that could not be written to disk: after a restart it may be \
                         denied again, unless the disk can be written before";
            return Err(Error::new(config::STATE_UNWRITABLE, request.what, cause));
        }
        Ok(self.own_trust())
    }

    /// `DELETE /v1/nodes/ROLE/ID`.
    pub(super) async fn forget(&self, path: &str) -> Result<(), Error> {
        let missing = || Error::new(cli::NOT_FOUND, path, "no such server; see `hansa status`");
        let Ok(Denial::Server(Some(kind), id)) = denial(path) else { return Err(missing()) };
        match self.nodes.forget(kind, &id) {
            Forgotten::Gone(batch) => {
                info!(target: "audit", event = "server_forgotten", role = kind.text(), %id);
                self.store.commit(batch).await;
                Ok(())
            }
            Forgotten::Unknown => Err(missing()),
            Forgotten::Connected => {
                let cause = "it is connected; stop it first, or `hansa trust deny` it";
                Err(Error::new(cli::STILL_CONNECTED, path, cause))
            }
        }
    }

    /// `GET /v1/trust`: the own domain first.
    pub(super) fn trusted(&self) -> Vec<view::Trust> {
        let peers = self.roster.all().into_iter();
        let denied = self.authority.denied();
        let peers = peers.map(|(id, entry)| {
            let domain = &entry.bundle.trust_domain;
            let of_it = denied.iter().filter(|entry| entry.trust_domain() == Some(domain));
            let denied = of_it.map(ToString::to_string).collect();
            let told = entry.told.iter().map(ToString::to_string).collect();
            view::Trust { denied, told, ..shown(&entry.bundle, id.as_str(), None, "none") }
        });
        std::iter::once(self.own_trust()).chain(peers).collect()
    }

    /// Who has not the own bundle in force, of all peers and own servers, connected or not. A server
    /// that is denied is told nothing and so not waited for.
    fn behind(&self) -> Vec<String> {
        let published = self.view.borrow().clone().filter(|view| {
            // Otherwise the newest bundle is not even published yet.
            *view.routes.bundle == *self.authority.bundle().borrow().to_json()
        });
        let Some(view) = published else {
            return vec!["this controller, which is about to publish it".into()];
        };
        let (at, denied) = (&view.bundle_at, self.authority.denied());
        let refused = |domain: &TrustDomain, role: &Role| {
            denied.contains(&DenyEntry::Holder(SpiffeId::of(domain, role)))
        };
        let own = self.authority.domain();
        let mut behind = Vec::new();
        for (kind, wanted) in [(Kind::Gateway, Some(at.routes)), (Kind::Dns, at.zone)] {
            for (id, node) in self.nodes.all(kind) {
                if !refused(own, &role(kind, &id)) {
                    behind.extend(lacks(&node, wanted).map(|why| format!("{}/{id}{why}", kind.text())));
                }
            }
        }
        for (id, entry) in self.roster.all() {
            if !refused(&entry.bundle.trust_domain, &Role::Controller) {
                let why = missed(&entry.following, at.catalogs.get(&id).copied());
                behind.extend(why.map(|why| format!("peer {id}{why}")));
            }
        }
        behind
    }

    /// `POST /v1/trust/rotate`.
    pub(super) fn rotate(&self, request: &view::RotateRequest) -> Result<view::Trust, Error> {
        if !matches!(request.phase.as_str(), "publish" | "activate" | "retire") {
            return Err(Error::new(cli::USAGE, "phase", "use publish, activate or retire"));
        }
        let behind = self.behind();
        let consent = Consent { acknowledged: behind.is_empty(), force: request.force };
        let rotated = self.authority.rotate(&request.phase, consent);
        let refused = |e| Error::new(trust::ROTATION_REFUSED, "own roots", unrotated(&e, &behind));
        rotated.map_err(refused)?;
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
