//! Catalogs to one [`Mesh`], by the conflict rules of KEP-1645.
//!
//! Called by the controller whenever a catalog changes. The oldest export, by
//! (creationTimestamp, cluster id), decides what cannot be merged; ports are a union. The order of
//! the input never matters.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

use crate::catalog::{Affinity, Catalog, Export, Port, ServiceType, Traffic};
use crate::mesh::{Import, Mesh, Share};
use crate::name::{ClusterId, ServiceName};

/// Reason of the `Conflict` condition of a ServiceExport (multicluster.x-k8s.io v0.5.0).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ConflictReason {
    /// Ports with one name and different numbers, or one number and different names.
    PortConflict,
    /// ClusterSetIP here, Headless there.
    TypeConflict,
    /// Session affinity differs.
    SessionAffinityConflict,
    /// Its timeout differs.
    SessionAffinityConfigConflict,
    /// Exported labels differ.
    LabelsConflict,
    /// Exported annotations differ.
    AnnotationsConflict,
    /// `internalTrafficPolicy` differs.
    InternalTrafficPolicyConflict,
    /// `trafficDistribution` differs.
    TrafficDistributionConflict,
    /// Families of addresses reach different backends. Known from others and never found here: a
    /// gateway takes both families to every endpoint.
    IPFamilyConflict,
}

impl fmt::Display for ConflictReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// One conflict: which cluster's export lost against which.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Conflict {
    /// The rule broken.
    pub reason: ConflictReason,
    /// The cluster whose value is not used.
    pub cluster: ClusterId,
    /// The cluster whose value counts.
    pub winner: ClusterId,
    /// The field and both values, for people.
    pub detail: String,
}

/// Most characters of one value in the detail of a conflict. Details travel in every acknowledgement
/// between members, so what one cluster exports must not swell what two others say.
const MOST_SHOWN: usize = 120;

/// Text that is cut once it is long enough, without ever being made in full.
struct Cut {
    text: String,
    left: usize,
}

impl fmt::Write for Cut {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        for c in part.chars() {
            if self.left == 0 {
                self.text.push('…');
                return Err(fmt::Error);
            }
            self.left -= 1;
            self.text.push(c);
        }
        Ok(())
    }
}

/// The entries of `here` that `there` lacks or has with another value, cut.
fn differing(here: &BTreeMap<String, String>, there: &BTreeMap<String, String>) -> String {
    let entries = here.iter().filter(|(key, value)| there.get(*key) != Some(value));
    let mut cut = Cut { text: String::new(), left: MOST_SHOWN };
    // An error means that it is long enough.
    let _ = write!(cut, "{:?}", entries.collect::<BTreeMap<_, _>>());
    cut.text
}

/// Merges catalogs.
pub fn merge<'a>(catalogs: impl IntoIterator<Item = &'a Catalog>) -> Mesh {
    let mut by_service: BTreeMap<&ServiceName, Vec<(&ClusterId, &Export)>> = BTreeMap::new();
    for catalog in catalogs {
        for export in catalog.exports.values() {
            by_service.entry(&export.service).or_default().push((&catalog.cluster.id, export));
        }
    }
    let imports =
        by_service.into_iter().filter_map(|(name, exports)| Some((name.clone(), merge_service(exports)?)));
    Mesh { imports: imports.collect() }
}

/// Merges all exports of one service. `None` if there is none.
pub fn merge_service(mut exports: Vec<(&ClusterId, &Export)>) -> Option<Import> {
    exports.sort_by(|a, b| (a.1.created, a.0).cmp(&(b.1.created, b.0)));
    let (winner, oldest) = *exports.first()?;
    let mut import = Import {
        service: oldest.service.clone(),
        kind: oldest.kind,
        ports: Vec::new(),
        affinity: oldest.affinity,
        traffic: oldest.traffic.clone(),
        labels: oldest.labels.clone(),
        annotations: oldest.annotations.clone(),
        created: oldest.created,
        clusters: BTreeMap::new(),
        conflicts: Vec::new(),
    };
    let mut owners: Vec<&ClusterId> = Vec::new();
    for (cluster, export) in &exports {
        let mut served = BTreeSet::new();
        for port in &export.ports {
            match place(&import.ports, port) {
                Place::Same => {
                    served.insert((port.protocol, port.port));
                }
                Place::New => {
                    served.insert((port.protocol, port.port));
                    import.ports.push(port.clone());
                    owners.push(cluster);
                }
                Place::Clash(index) => import.conflicts.push(Conflict {
                    reason: ConflictReason::PortConflict,
                    cluster: (*cluster).clone(),
                    winner: owners[index].clone(),
                    detail: format!("port {} is taken by {}", show(port), show(&import.ports[index])),
                }),
            }
        }
        import.conflicts.extend(singles(oldest, winner, export, cluster));
        let hosts = if import.kind == ServiceType::Headless { export.hosts.clone() } else { Vec::new() };
        let share = Share { ports: served, endpoints: export.endpoints.clone(), hosts };
        import.clusters.insert((*cluster).clone(), share);
    }
    import.conflicts.sort();
    Some(import)
}

enum Place {
    Same,
    New,
    Clash(usize),
}

/// First by name, then by (protocol, port); a result has unique names and unique numbers.
fn place(ports: &[Port], port: &Port) -> Place {
    let number = |p: &Port| (p.protocol, p.port);
    if let Some(i) = ports.iter().position(|p| p.name == port.name) {
        return if number(&ports[i]) == number(port) { Place::Same } else { Place::Clash(i) };
    }
    match ports.iter().position(|p| number(p) == number(port)) {
        Some(i) => Place::Clash(i),
        None => Place::New,
    }
}

fn show(port: &Port) -> String {
    let name = port.name.as_ref().map_or("(unnamed)", |n| n.as_str());
    format!("{name} {}/{}", port.port, port.protocol)
}

fn singles(oldest: &Export, winner: &ClusterId, export: &Export, cluster: &ClusterId) -> Vec<Conflict> {
    let mut found = Vec::new();
    let mut differ = |reason, field: &str, here: String, there: String| {
        found.push(Conflict {
            reason,
            cluster: cluster.clone(),
            winner: winner.clone(),
            detail: format!("{field} is {here}, the oldest export has {there}"),
        });
    };
    if export.kind != oldest.kind {
        let text = |k: ServiceType| format!("{k:?}");
        differ(ConflictReason::TypeConflict, "type", text(export.kind), text(oldest.kind));
    }
    match (export.affinity, oldest.affinity) {
        (a, b) if a == b => {}
        (Affinity::ClientIp { timeout_seconds: a }, Affinity::ClientIp { timeout_seconds: b }) => {
            let reason = ConflictReason::SessionAffinityConfigConflict;
            differ(reason, "sessionAffinityConfig", format!("{a}s"), format!("{b}s"));
        }
        (a, b) => {
            let text = |x: Affinity| if x == Affinity::None { "None" } else { "ClientIP" }.to_owned();
            differ(ConflictReason::SessionAffinityConflict, "sessionAffinity", text(a), text(b));
        }
    }
    let (here, there) = (&export.traffic, &oldest.traffic);
    if here.internal != there.internal {
        let text = |x: &Traffic| format!("{:?}", x.internal);
        let reason = ConflictReason::InternalTrafficPolicyConflict;
        differ(reason, "internalTrafficPolicy", text(here), text(there));
    }
    if here.distribution != there.distribution {
        let text = |x: &Traffic| x.distribution.clone().unwrap_or_else(|| "not set".to_owned());
        let reason = ConflictReason::TrafficDistributionConflict;
        differ(reason, "trafficDistribution", text(here), text(there));
    }
    if export.labels != oldest.labels {
        let (here, there) = (&export.labels, &oldest.labels);
        let reason = ConflictReason::LabelsConflict;
        differ(reason, "exportedLabels", differing(here, there), differing(there, here));
    }
    if export.annotations != oldest.annotations {
        let (here, there) = (&export.annotations, &oldest.annotations);
        let reason = ConflictReason::AnnotationsConflict;
        differ(reason, "exportedAnnotations", differing(here, there), differing(there, here));
    }
    found
}
