//! Objects as they stand in YAML to core values, or a typed reason.
//!
//! Called by the controller's sources. [`read`] turns one file's text into objects; the functions
//! below it turn objects into core values. Never keeps anything between calls.

use hansa_core::code::{Code, manifest};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::kinds::mcs::{ClusterProperty, MCS_VERSIONS, ServiceExport};
use crate::kinds::peer::{ClusterPeer, HANSA_VERSION};

mod peer;
mod service;

pub use peer::{PeerFacts, peer};
pub use service::{EXPORT_TO, Invalid, SLICE_SERVICE, Settings, export, system_hostname};

/// Largest manifest file taken, in bytes.
pub const MAX_FILE: u64 = 4 << 20;

/// One object of a file. In serialised form it can be kept and read again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Object {
    /// core/v1 Service.
    Service(Box<Service>),
    /// discovery.k8s.io/v1 EndpointSlice.
    EndpointSlice(Box<EndpointSlice>),
    /// multicluster.x-k8s.io ServiceExport.
    ServiceExport(Box<ServiceExport>),
    /// about.k8s.io ClusterProperty.
    ClusterProperty(Box<ClusterProperty>),
    /// hansa.dev ClusterPeer.
    ClusterPeer(Box<ClusterPeer>),
}

impl Object {
    /// Kind, namespace and name, as refusals name it: `Service shop/web`, `ClusterPeer b`. Without a
    /// namespace it is in `default`, as for `kubectl apply`.
    pub fn id(&self) -> String {
        let (kind, meta, namespaced) = match self {
            Self::Service(object) => ("Service", &object.metadata, true),
            Self::EndpointSlice(object) => ("EndpointSlice", &object.metadata, true),
            Self::ServiceExport(object) => ("ServiceExport", &object.metadata, true),
            Self::ClusterProperty(object) => ("ClusterProperty", &object.metadata, false),
            Self::ClusterPeer(object) => ("ClusterPeer", &object.metadata, false),
        };
        let name = meta.name.as_deref().unwrap_or_default();
        if !namespaced {
            return format!("{kind} {name}");
        }
        format!("{kind} {}/{name}", meta.namespace.as_deref().unwrap_or("default"))
    }
}

/// An object that cannot be used, or a file that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {object}: {message}")]
pub struct Refused {
    /// The message code.
    pub code: Code,
    /// `Kind namespace/name`, or empty for the file as a whole.
    pub object: String,
    /// What is wrong.
    pub message: String,
}

impl Refused {
    pub(crate) fn new(code: Code, object: impl Into<String>, message: impl ToString) -> Self {
        Self { code, object: object.into(), message: message.to_string() }
    }
}

fn budget() -> serde_saphyr::Options {
    serde_saphyr::options! {
        strict_booleans: true,
        budget: serde_saphyr::budget! {
            max_events: 2_000_000,
            max_aliases: 1_000,
            max_anchors: 1_000,
            max_depth: 64,
            max_documents: 20_000,
            max_nodes: 600_000,
        },
    }
}

/// Reads one file. An error means that nothing of the file can be used; objects that cannot be used
/// are in the second list, and the others in the first.
pub fn read(text: &str) -> Result<(Vec<Object>, Vec<Refused>), Refused> {
    if text.len() as u64 > MAX_FILE {
        let message = format!("{} bytes; at most {MAX_FILE} are read", text.len());
        return Err(Refused::new(manifest::YAML_TOO_LARGE, "", message));
    }
    if text.trim().is_empty() {
        let message = "the file is empty; delete it to remove its objects";
        return Err(Refused::new(manifest::YAML_INVALID, "", message));
    }
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, budget())
        .map_err(|e| Refused::new(manifest::YAML_INVALID, "", first_line(&e.to_string())))?;
    let mut objects = Vec::new();
    let mut refused = Vec::new();
    for document in documents {
        for value in flatten(document) {
            match object(value) {
                Ok(Some(object)) => objects.push(object),
                Ok(None) => {}
                Err(reason) => refused.push(reason),
            }
        }
    }
    Ok((objects, refused))
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(300).collect()
}

fn flatten(document: Value) -> Vec<Value> {
    let is_list = document.get("kind").and_then(Value::as_str).is_some_and(|k| k.ends_with("List"));
    match document {
        Value::Null => Vec::new(),
        Value::Object(mut map) if is_list => match map.remove("items") {
            Some(Value::Array(items)) => items,
            // Refused as an object: a typo here must not look like the removal of all of them.
            _ => vec![Value::Object(map)],
        },
        other => vec![other],
    }
}

fn typed<T: DeserializeOwned>(name: &str, value: Value) -> Result<Box<T>, Refused> {
    let parsed = serde_json::from_value(value);
    parsed.map(Box::new).map_err(|e| Refused::new(manifest::OBJECT_INVALID, name, first_line(&e.to_string())))
}

fn object(value: Value) -> Result<Option<Object>, Refused> {
    let field = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let meta = |name: &str| {
        let found = value.get("metadata").and_then(|m| m.get(name)).and_then(Value::as_str);
        found.unwrap_or_default().to_owned()
    };
    let (version, kind) = (field("apiVersion"), field("kind"));
    if version.is_empty() || kind.is_empty() {
        let message = "a document has no apiVersion or no kind";
        return Err(Refused::new(manifest::OBJECT_INVALID, "", message));
    }
    let namespace = meta("namespace");
    let slash = if namespace.is_empty() { "" } else { "/" };
    let name = format!("{kind} {namespace}{slash}{}", meta("name"));
    if meta("name").is_empty() {
        return Err(Refused::new(manifest::OBJECT_INVALID, name, "metadata.name is missing"));
    }
    let group = version.split('/').next().unwrap_or_default();
    Ok(Some(match (version.as_str(), kind.as_str()) {
        ("v1", "Service") => Object::Service(typed(&name, value)?),
        ("discovery.k8s.io/v1", "EndpointSlice") => Object::EndpointSlice(typed(&name, value)?),
        (v, "ServiceExport") if MCS_VERSIONS.contains(&v) => Object::ServiceExport(typed(&name, value)?),
        (_, "ClusterProperty") if group == "about.k8s.io" => Object::ClusterProperty(typed(&name, value)?),
        (HANSA_VERSION, "ClusterPeer") => Object::ClusterPeer(typed(&name, value)?),
        (_, "ServiceImport") if group == "multicluster.x-k8s.io" => {
            let message = "only the controller writes ServiceImports";
            return Err(Refused::new(manifest::OBJECT_INVALID, name, message));
        }
        // A peer whose group is mistyped must not look like one that was removed.
        _ if matches!(group, "hansa.dev" | "multicluster.x-k8s.io") || kind == "ClusterPeer" => {
            let message = format!("{version} {kind} is not supported yet");
            return Err(Refused::new(manifest::KIND_UNSUPPORTED, name, message));
        }
        _ => return Ok(None),
    }))
}
