//! Objects to [`Own`]: which export goes with which Service and slices. Plain values in and out.
//!
//! Called by every source after each change. Knows nothing of files or API servers: an object comes
//! with a label that says where it stands.

use std::collections::{BTreeMap, BTreeSet};

use hansa_api::convert::{self, Invalid, Object, Refused, SLICE_SERVICE, Settings};
use hansa_api::kinds::mcs::ServiceExport;
use hansa_core::Millis;
use hansa_core::code::manifest;
use hansa_core::locality::Locality;
use hansa_core::name::{ClusterId, ServiceName};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::source::{Own, PeerSpec, Problem};

/// The property that names the cluster (about.k8s.io).
const CLUSTER_PROPERTY: &str = "cluster.clusterset.k8s.io";

/// Most characters of a DNS name (RFC 1035 2.3.4, without the root's dot).
const MAX_NAME: usize = 253;

/// What does not stand in the objects.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The own cluster.
    pub cluster: ClusterId,
    /// Where it is.
    pub locality: Locality,
}

#[derive(Default)]
struct Sorted<'a> {
    services: BTreeMap<ServiceName, &'a Service>,
    slices: BTreeMap<ServiceName, Vec<&'a EndpointSlice>>,
    exports: BTreeMap<ServiceName, (&'a str, &'a ServiceExport)>,
    own: Own,
    seen: BTreeSet<(&'static str, String)>,
}

fn key(meta: &ObjectMeta) -> String {
    // The default namespace is what `kubectl apply` would use.
    let namespace = meta.namespace.as_deref().unwrap_or("default");
    format!("{namespace}/{}", meta.name.as_deref().unwrap_or_default())
}

/// The service a slice belongs to.
fn service_of(slice: &EndpointSlice) -> Result<ServiceName, String> {
    let namespace = slice.metadata.namespace.as_deref().unwrap_or("default");
    let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SLICE_SERVICE));
    let service = service.ok_or_else(|| format!("the label {SLICE_SERVICE} is missing"))?;
    ServiceName::new(namespace, service).map_err(|error| error.to_string())
}

/// Whether an object can be used, as far as it alone decides that. A source keeps the last good
/// version of one that cannot.
///
/// # Errors
/// Why not.
pub fn sound(object: &Object) -> Result<(), Refused> {
    match object {
        Object::ClusterPeer(peer) => convert::peer(peer).map(drop),
        Object::EndpointSlice(slice) => service_of(slice).map(drop).map_err(|message| Refused {
            code: manifest::OBJECT_INVALID,
            object: object.id(),
            message,
        }),
        _ => Ok(()),
    }
}

impl<'a> Sorted<'a> {
    fn problem(&mut self, label: &str, object: impl std::fmt::Display, code: u16, message: impl ToString) {
        let object = format!("{label}: {object}");
        self.own.problems.push(Problem { object, code, message: message.to_string() });
    }

    /// False, with a problem noted, if the object stood elsewhere before.
    fn first(&mut self, label: &str, kind: &'static str, key: &str) -> bool {
        let new = self.seen.insert((kind, key.to_owned()));
        if !new {
            let message = "also defined in an earlier file; the earlier one counts";
            self.problem(label, format!("{kind} {key}"), manifest::OBJECT_DUPLICATE.number, message);
        }
        new
    }

    fn name(&mut self, label: &str, kind: &'static str, meta: &ObjectMeta) -> Option<ServiceName> {
        let key = key(meta);
        if !self.first(label, kind, &key) {
            return None;
        }
        let parsed = key.parse();
        parsed
            .map_err(|e| self.problem(label, format!("{kind} {key}"), manifest::OBJECT_INVALID.number, e))
            .ok()
    }

    fn add(&mut self, label: &'a str, object: &'a Object, facts: &Facts) {
        match object {
            Object::Service(service) => {
                if let Some(name) = self.name(label, "Service", &service.metadata) {
                    self.services.insert(name, service);
                }
            }
            Object::ServiceExport(export) => {
                if let Some(name) = self.name(label, "ServiceExport", &export.metadata) {
                    self.exports.insert(name, (label, export));
                }
            }
            Object::EndpointSlice(slice) => self.slice(label, slice),
            Object::ClusterProperty(property) => {
                let name = property.metadata.name.clone().unwrap_or_default();
                if name == CLUSTER_PROPERTY && property.spec.value != facts.cluster.as_str() {
                    let message =
                        format!("says {}, the configuration says {}", property.spec.value, facts.cluster);
                    self.problem(
                        label,
                        format!("ClusterProperty {name}"),
                        manifest::OBJECT_INVALID.number,
                        message,
                    );
                } else if self.first(label, "ClusterProperty", &name) {
                    self.own.properties.insert(name, property.spec.value.clone());
                }
            }
            Object::ClusterPeer(peer) => self.peer(label, peer, facts),
        }
    }

    fn slice(&mut self, label: &'a str, slice: &'a EndpointSlice) {
        let key = key(&slice.metadata);
        if !self.first(label, "EndpointSlice", &key) {
            return;
        }
        match service_of(slice) {
            Ok(name) => self.slices.entry(name).or_default().push(slice),
            Err(message) => {
                self.problem(label, format!("EndpointSlice {key}"), manifest::OBJECT_INVALID.number, message);
            }
        }
    }

    fn peer(&mut self, label: &'a str, peer: &'a hansa_api::kinds::peer::ClusterPeer, facts: &Facts) {
        let name = peer.metadata.name.clone().unwrap_or_default();
        if !self.first(label, "ClusterPeer", &name) {
            return;
        }
        match convert::peer(peer) {
            Ok(found) if found.id == facts.cluster => {
                let message = "a cluster is not its own peer";
                self.problem(label, format!("ClusterPeer {name}"), manifest::OBJECT_INVALID.number, message);
            }
            Ok(found) => {
                let spec = PeerSpec {
                    trust_domain: found.trust_domain,
                    gateways: found.gateways,
                    bundle: found.bundle,
                    accept: found.accept,
                    transport: found.transport,
                };
                self.own.peers.insert(found.id, spec);
            }
            Err(refused) => self.problem(label, &refused.object, refused.code.number, &refused.message),
        }
    }
}

/// Builds [`Own`]. Objects come in the order in which the first of two equals counts; `created` gives
/// the time an export without a timestamp was first seen.
pub fn own<'a>(
    objects: impl IntoIterator<Item = (&'a str, &'a Object)>,
    facts: &Facts,
    created: impl Fn(&ServiceName) -> Millis,
) -> Own {
    let mut sorted = Sorted::default();
    for (label, object) in objects {
        sorted.add(label, object, facts);
    }
    let exports = std::mem::take(&mut sorted.exports);
    for (name, (label, export)) in exports {
        let service = sorted.services.get(&name).copied();
        let slices = sorted.slices.get(&name).cloned().unwrap_or_default();
        let settings = Settings { locality: facts.locality.clone(), created: created(&name) };
        match convert::export(&name, export, service, &slices, &settings) {
            Ok((value, local, left_out)) => {
                for message in left_out {
                    sorted.problem(
                        label,
                        format!("Service {name}"),
                        manifest::OBJECT_INVALID.number,
                        message,
                    );
                }
                for host in &value.hosts {
                    let length = [host.hostname.as_str(), facts.cluster.as_str(), &name.fqdn()]
                        .map(str::len)
                        .iter()
                        .sum::<usize>()
                        + 2;
                    if length > MAX_NAME {
                        let message = format!(
                            "host {} has no name of its own: with cluster and service it has {length} characters, \
                             at most {MAX_NAME} are a name",
                            host.hostname
                        );
                        let code = manifest::OBJECT_INVALID.number;
                        sorted.problem(label, format!("Service {name}"), code, message);
                    }
                }
                sorted.own.exports.insert(name, (value, local));
            }
            Err(Invalid { reason, message }) => {
                sorted.problem(
                    label,
                    format!("ServiceExport {name}"),
                    manifest::OBJECT_INVALID.number,
                    &message,
                );
                sorted.own.invalid.insert(name, (reason, message));
            }
        }
    }
    sorted.own
}
