//! ClusterPeer to core values.

use hansa_core::code::manifest;
use hansa_core::mesh::Transport;
use hansa_core::name::ClusterId;
use hansa_core::policy::Accept;
use hansa_core::spiffe::TrustDomain;

use super::Refused;
use crate::kinds::peer::{AcceptSpec, ClusterPeer};

/// A declared peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerFacts {
    /// Its cluster id.
    pub id: ClusterId,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// `host:port` of its gateways.
    pub gateways: Vec<String>,
    /// Its SPIFFE bundle as JSON text, unchecked.
    pub bundle: String,
    /// The lane preferred.
    pub transport: Transport,
    /// What it may bring.
    pub accept: Accept,
}

/// Converts one peer.
pub fn peer(object: &ClusterPeer) -> Result<PeerFacts, Refused> {
    let name = object.metadata.name.clone().unwrap_or_default();
    let refuse =
        |message: String| Refused::new(manifest::OBJECT_INVALID, format!("ClusterPeer {name}"), message);
    let id: ClusterId = name.parse().map_err(|e| refuse(format!("{e}")))?;
    let trust_domain = object.spec.trust_domain.parse().map_err(|e| refuse(format!("{e}")))?;
    let transport = match object.spec.transport.as_str() {
        "auto" => Transport::Auto,
        "quic" => Transport::Quic,
        "http2" => Transport::Http2,
        other => return Err(refuse(format!("transport \"{other}\": use auto, quic or http2"))),
    };
    for address in &object.spec.gateways {
        let port = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
        if port.is_none_or(|(host, port)| host.is_empty() || port == 0) {
            return Err(refuse(format!("gateway \"{address}\" is not host:port")));
        }
    }
    let accept = accept(&object.spec.accept).map_err(refuse)?;
    let (gateways, bundle) = (object.spec.gateways.clone(), object.spec.bundle.clone());
    Ok(PeerFacts { id, trust_domain, gateways, bundle, transport, accept })
}

fn accept(spec: &AcceptSpec) -> Result<Accept, String> {
    let mut accept = Accept::default();
    if let Some(list) = &spec.namespaces {
        let parsed: Result<_, _> = list.iter().map(|t| t.parse()).collect();
        accept.namespaces = Some(parsed.map_err(|e| format!("accept.namespaces: {e}"))?);
    }
    if let Some(list) = &spec.services {
        let parsed: Result<_, _> = list.iter().map(|t| t.parse()).collect();
        accept.services = Some(parsed.map_err(|e| format!("accept.services: {e}"))?);
    }
    if let Some(prefix) = &spec.locality_prefix {
        accept.locality_prefix = prefix.parse().map_err(|e| format!("accept.localityPrefix: {e}"))?;
    }
    accept.max_rows = spec.max_rows.unwrap_or(accept.max_rows);
    accept.max_weight = spec.max_weight.unwrap_or(accept.max_weight);
    Ok(accept)
}
