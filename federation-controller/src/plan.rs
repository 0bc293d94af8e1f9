//! The standard objects this cluster would hold: ServiceImport and ServiceExport with conditions. Pure.
//!
//! Called by `control` for `hansa get`. In folder mode nothing is written; the Kubernetes source will
//! write exactly these. Condition names and reasons are those of multicluster.x-k8s.io v0.5.0.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use hansa_api::kinds::mcs::{
    ClusterStatus, MCS_VERSIONS, ServiceExport, ServiceExportSpec, ServiceExportStatus, ServiceImport,
    ServiceImportPort, ServiceImportSpec, ServiceImportStatus,
};
use hansa_core::Millis;
use hansa_core::catalog::{Affinity, Export, ServiceType};
use hansa_core::merge::Conflict;
use hansa_core::mesh::Import;
use hansa_core::name::{ClusterId, ServiceName};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};

use crate::fuse::View;
use crate::status::readiness;

/// When a condition last changed its status. Kept by the caller between calls.
#[derive(Debug, Default)]
pub struct Transitions(BTreeMap<(ServiceName, &'static str, &'static str), (String, Millis)>);

struct Stamp<'a> {
    transitions: &'a mut Transitions,
    object: &'static str,
    now: Millis,
}

impl Stamp<'_> {
    fn condition(
        &mut self,
        name: &ServiceName,
        kind: &'static str,
        status: &str,
        (reason, message): (&str, String),
    ) -> Condition {
        let key = (name.clone(), self.object, kind);
        let known = self.transitions.0.entry(key).or_insert_with(|| (status.to_owned(), self.now));
        if known.0 != status {
            *known = (status.to_owned(), self.now);
        }
        Condition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            last_transition_time: time(known.1),
            observed_generation: None,
        }
    }
}

fn time(at: Millis) -> Time {
    let at = i64::try_from(at / 1000).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    Time(at.unwrap_or_default())
}

fn flag(yes: bool) -> &'static str {
    if yes { "True" } else { "False" }
}

fn meta(name: &ServiceName, created: Option<Millis>) -> ObjectMeta {
    ObjectMeta {
        namespace: Some(name.namespace.to_string()),
        name: Some(name.name.to_string()),
        creation_timestamp: created.map(time),
        ..ObjectMeta::default()
    }
}

/// Reasons joined with commas as the API asks, and the details for people.
pub fn conflict_text(conflicts: &[Conflict]) -> (String, String) {
    let reasons: BTreeSet<String> = conflicts.iter().map(|c| c.reason.to_string()).collect();
    let details = conflicts
        .iter()
        .map(|c| format!("{}: {} of {} gives way to {}", c.reason, c.detail, c.cluster, c.winner));
    (reasons.into_iter().collect::<Vec<_>>().join(","), details.collect::<Vec<_>>().join("; "))
}

/// All imports.
pub fn imports(view: &View, transitions: &mut Transitions, now: Millis) -> Vec<ServiceImport> {
    let mut stamp = Stamp { transitions, object: "ServiceImport", now };
    view.mesh.imports.values().map(|import| service_import(view, import, &mut stamp)).collect()
}

fn service_import(view: &View, import: &Import, stamp: &mut Stamp<'_>) -> ServiceImport {
    let name = &import.service;
    let (ready, reason, message) = readiness(view, import);
    let ips = first_of_each_family(view, name);
    let families = ips.iter().map(|ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" }.to_owned());
    let ports = import.ports.iter().map(|port| ServiceImportPort {
        name: port.name.as_ref().map(ToString::to_string),
        protocol: port.protocol.to_string(),
        app_protocol: port.app_protocol.clone(),
        port: port.port,
    });
    let clusters = import.clusters.keys().map(|id| ClusterStatus { cluster: id.to_string() });
    let mut metadata = meta(name, None);
    metadata.labels = (!import.labels.is_empty()).then(|| import.labels.clone());
    metadata.annotations = (!import.annotations.is_empty()).then(|| import.annotations.clone());
    ServiceImport {
        api_version: MCS_VERSIONS[0].to_owned(),
        kind: "ServiceImport".to_owned(),
        metadata,
        spec: ServiceImportSpec {
            ports: ports.collect(),
            ip_families: families.collect(),
            ips: ips.iter().map(ToString::to_string).collect(),
            kind: match import.kind {
                ServiceType::ClusterSetIP => "ClusterSetIP",
                ServiceType::Headless => "Headless",
            }
            .to_owned(),
            session_affinity: Some(
                match import.affinity {
                    Affinity::None => "None",
                    Affinity::ClientIp { .. } => "ClientIP",
                }
                .to_owned(),
            ),
            internal_traffic_policy: Some(format!("{:?}", import.traffic.internal)),
            traffic_distribution: import.traffic.distribution.clone(),
        },
        status: ServiceImportStatus {
            clusters: clusters.collect(),
            conditions: vec![stamp.condition(name, "Ready", flag(ready), (reason, message))],
        },
    }
}

/// One address per family, IPv4 first: an import has at most two. The others are in `hansa services`.
fn first_of_each_family(view: &View, name: &ServiceName) -> Vec<IpAddr> {
    let published = view.zone.services.get(name).map(|service| service.ips.as_slice()).unwrap_or_default();
    let first = |v4: bool| published.iter().find(|ip| ip.is_ipv4() == v4).copied();
    first(true).into_iter().chain(first(false)).collect()
}

/// What other members say of our exports: conflicts by service.
pub type Elsewhere = BTreeMap<ServiceName, BTreeMap<ClusterId, Vec<Conflict>>>;

/// All own exports, valid or not.
pub fn exports(
    view: &View,
    elsewhere: &Elsewhere,
    transitions: &mut Transitions,
    now: Millis,
) -> Vec<ServiceExport> {
    let mut stamp = Stamp { transitions, object: "ServiceExport", now };
    let valid = view.own.exports.iter().map(|(name, (export, _))| (name, Ok(export)));
    let invalid = view.own.invalid.iter().map(|(name, why)| (name, Err(why)));
    let mut all: Vec<_> = valid.chain(invalid).collect();
    all.sort_by_key(|(name, _)| *name);
    let objects = all.into_iter().map(|(name, state)| match state {
        Ok(export) => valid_export(view, export, elsewhere, &mut stamp),
        Err((reason, message)) => object(
            meta(name, None),
            ServiceExportSpec::default(),
            vec![
                stamp.condition(name, "Valid", "False", (reason, message.clone())),
                stamp.condition(name, "Ready", "False", ("Failed", "the export is not valid".to_owned())),
            ],
        ),
    });
    objects.collect()
}

fn valid_export(view: &View, export: &Export, elsewhere: &Elsewhere, stamp: &mut Stamp<'_>) -> ServiceExport {
    let name = &export.service;
    let mut conflicts: Vec<Conflict> =
        view.mesh.imports.get(name).map(|import| import.conflicts.clone()).unwrap_or_default();
    conflicts.extend(elsewhere.get(name).into_iter().flat_map(|by| by.values()).flatten().cloned());
    conflicts.sort();
    conflicts.dedup();
    let conflict = if conflicts.is_empty() {
        ("NoConflicts".to_owned(), "no other export differs".to_owned())
    } else {
        conflict_text(&conflicts)
    };
    let valid = ("Valid", "the Service can be exported".to_owned());
    let ready = ("Exported", "it is in the catalog that peers follow".to_owned());
    let conflict_status = flag(!conflicts.is_empty());
    let spec = ServiceExportSpec {
        exported_labels: export.labels.clone(),
        exported_annotations: export.annotations.clone(),
    };
    let conditions = vec![
        stamp.condition(name, "Valid", "True", valid),
        stamp.condition(name, "Ready", "True", ready),
        stamp.condition(name, "Conflict", conflict_status, (&conflict.0, conflict.1.clone())),
    ];
    object(meta(name, Some(export.created)), spec, conditions)
}

fn object(metadata: ObjectMeta, spec: ServiceExportSpec, conditions: Vec<Condition>) -> ServiceExport {
    ServiceExport {
        api_version: MCS_VERSIONS[0].to_owned(),
        kind: "ServiceExport".to_owned(),
        metadata,
        spec,
        status: Some(ServiceExportStatus { conditions }),
    }
}
