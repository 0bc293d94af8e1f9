//! Entry points for fuzzers and the replay test: manifests as people and pipelines write them. Each
//! takes any bytes, must not panic, and states the law of its parser. Never called in production.

use hansa_core::locality::Locality;
use hansa_core::name::ServiceName;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::convert::{self, Object, Settings};

/// A target: its name and what it does with the input.
pub type FuzzTarget = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[FuzzTarget] = &[("manifests", manifests_law)];

/// Reads a file; whatever of it is taken converts, or is refused with a reason.
fn manifests_law(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (objects, refused) = match convert::read(text) {
        Ok(read) => read,
        Err(refused) => (Vec::new(), vec![refused]),
    };
    for refused in refused {
        assert!(!refused.message.is_empty(), "refused without a reason");
    }
    let services: Vec<&Service> = objects.iter().filter_map(service).collect();
    let slices: Vec<&EndpointSlice> = objects.iter().filter_map(slice).collect();
    let settings = Settings { locality: Locality::default(), created: 0 };
    for object in &objects {
        match object {
            Object::ClusterPeer(peer) => drop(convert::peer(peer)),
            Object::ServiceExport(export) => {
                let namespace = export.metadata.namespace.as_deref().unwrap_or_default();
                let name = export.metadata.name.as_deref().unwrap_or_default();
                let Ok(name) = ServiceName::new(namespace, name) else { continue };
                for service in services.iter().copied().map(Some).chain([None]) {
                    if let Ok((export, local, _)) =
                        convert::export(&name, export, service, &slices, &settings)
                    {
                        assert!(export.ready() as usize <= local.endpoints.len());
                    }
                }
            }
            _ => {}
        }
    }
}

fn service(object: &Object) -> Option<&Service> {
    match object {
        Object::Service(service) => Some(service),
        _ => None,
    }
}

fn slice(object: &Object) -> Option<&EndpointSlice> {
    match object {
        Object::EndpointSlice(slice) => Some(slice),
        _ => None,
    }
}
