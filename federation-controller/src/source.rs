//! Where a cluster's own objects come from. One source today: a watched folder of YAML; the API
//! server will be the second. Everything behind [`Own`] is one code path.

use std::collections::{BTreeMap, BTreeSet};

use hansa_core::catalog::{Export, LocalService};
use hansa_core::mesh::Transport;
use hansa_core::name::{ClusterId, ServiceName};
use hansa_core::policy::Accept;
use hansa_core::spiffe::TrustDomain;

pub mod folder;

/// A peer by declaration (`ClusterPeer`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSpec {
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// `host:port` of its gateways.
    pub gateways: Vec<String>,
    /// Its SPIFFE bundle (JWKS) as JSON text: bootstrap only.
    pub bundle: String,
    /// What it may bring.
    pub accept: Accept,
    /// Which lane is preferred.
    pub transport: Transport,
}

/// Something wrong with an object or a file: it is left out, everything else goes on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file and, where known, the object: `shop.yaml: ServiceExport shop/checkout`.
    pub object: String,
    /// The number of the message code.
    pub code: u16,
    /// What is wrong.
    pub message: String,
}

/// Declared peers of which the source cannot say now whether they still are: they are not dropped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hidden {
    /// Any peer may be among what cannot be read.
    pub all: bool,
    /// These stand in an object that is refused, with no earlier version known.
    pub peers: BTreeSet<ClusterId>,
}

impl Hidden {
    /// Whether this peer may be declared although nothing of it is read.
    pub fn hides(&self, peer: &ClusterId) -> bool {
        self.all || self.peers.contains(peer)
    }
}

/// All of a cluster's own objects, converted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Own {
    /// Valid exports with the local side of their services.
    pub exports: BTreeMap<ServiceName, (Export, LocalService)>,
    /// ServiceExports that are not valid, with the reason for their `Valid` condition.
    pub invalid: BTreeMap<ServiceName, (&'static str, String)>,
    /// Declared peers.
    pub peers: BTreeMap<ClusterId, PeerSpec>,
    /// Peers that may be declared as well.
    pub hidden: Hidden,
    /// `ClusterProperty` values.
    pub properties: BTreeMap<String, String>,
    /// What was refused.
    pub problems: Vec<Problem>,
}
