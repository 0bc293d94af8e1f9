//! Service + EndpointSlices + ServiceExport to one export and its local side.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use hansa_core::Millis;
use hansa_core::catalog::{
    Affinity, EndpointCount, Export, Host, InternalTraffic, LocalEndpoint, LocalService, Port, Protocol,
    ServiceType, TargetPort, Traffic, is_distribution,
};
use hansa_core::locality::Locality;
use hansa_core::name::{ClusterId, Label, PortName, ServiceName};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::kinds::mcs::ServiceExport;

/// Which peers may see an export; comma-separated cluster ids.
pub const EXPORT_TO: &str = "hansa.dev/export-to";
/// The label that names the Service of an EndpointSlice.
pub const SLICE_SERVICE: &str = "kubernetes.io/service-name";

/// What does not stand in the objects.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the own cluster is; endpoints add their zone.
    pub locality: Locality,
    /// Creation time of exports that do not say theirs.
    pub created: Millis,
}

/// Why an export is not valid: reason and message of its `Valid` condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// `NoService`, `InvalidServiceType`, or ours: `InvalidPorts`, `InvalidAnnotation`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

fn invalid(reason: &'static str, message: impl Into<String>) -> Invalid {
    Invalid { reason, message: message.into() }
}

/// Converts one export. The third value lists what was left out, in words.
pub fn export(
    name: &ServiceName,
    export: &ServiceExport,
    service: Option<&Service>,
    slices: &[&EndpointSlice],
    settings: &Settings,
) -> Result<(Export, LocalService, Vec<String>), Invalid> {
    let spec = service.and_then(|s| s.spec.as_ref());
    let Some(spec) = spec else {
        return Err(invalid("NoService", format!("there is no Service {name}")));
    };
    if spec.type_.as_deref() == Some("ExternalName") {
        return Err(invalid("InvalidServiceType", "a Service of type ExternalName cannot be exported"));
    }
    let mut left_out = Vec::new();
    let kind = kind(spec);
    let ports = ports(spec, &mut left_out)?;
    let endpoints = endpoints(spec, slices, settings, &mut left_out);
    let local = LocalService { export_to: export_to(export)?, endpoints };
    let created = export.metadata.creation_timestamp.as_ref();
    let value = Export {
        service: name.clone(),
        created: created.map_or(settings.created, |t| t.0.as_millisecond().max(0) as u64),
        kind,
        ports,
        affinity: affinity(spec),
        traffic: traffic(spec, &mut left_out),
        labels: export.spec.exported_labels.clone(),
        annotations: export.spec.exported_annotations.clone(),
        endpoints: counts(&local.endpoints),
        hosts: if kind == ServiceType::Headless { hosts(&local.endpoints) } else { Vec::new() },
    };
    Ok((value, local, left_out))
}

fn kind(spec: &ServiceSpec) -> ServiceType {
    match spec.cluster_ip.as_deref() {
        Some("None") => ServiceType::Headless,
        _ => ServiceType::ClusterSetIP,
    }
}

fn affinity(spec: &ServiceSpec) -> Affinity {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return Affinity::None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
    // 10,800 s is the default of the Service API.
    let seconds = config.and_then(|c| c.timeout_seconds).unwrap_or(10_800);
    Affinity::ClientIp { timeout_seconds: u32::try_from(seconds).unwrap_or(10_800) }
}

fn traffic(spec: &ServiceSpec, left_out: &mut Vec<String>) -> Traffic {
    let internal = match spec.internal_traffic_policy.as_deref() {
        Some("Local") => InternalTraffic::Local,
        _ => InternalTraffic::Cluster,
    };
    let word = spec.traffic_distribution.clone().filter(|word| !word.is_empty());
    let distribution = word.filter(|word| {
        let known = is_distribution(word);
        if !known {
            left_out.push("trafficDistribution is no word of the API".to_owned());
        }
        known
    });
    Traffic { internal, distribution }
}

fn export_to(export: &ServiceExport) -> Result<Option<BTreeSet<ClusterId>>, Invalid> {
    let Some(text) = export.metadata.annotations.as_ref().and_then(|a| a.get(EXPORT_TO)) else {
        return Ok(None);
    };
    let ids = text.split(',').map(str::trim).filter(|t| !t.is_empty()).map(str::parse);
    let ids: Result<BTreeSet<ClusterId>, _> = ids.collect();
    ids.map(Some).map_err(|e| invalid("InvalidAnnotation", format!("{EXPORT_TO}: {e}")))
}

fn protocol(text: Option<&str>) -> Result<Protocol, String> {
    text.unwrap_or("TCP").parse()
}

fn ports(spec: &ServiceSpec, left_out: &mut Vec<String>) -> Result<Vec<Port>, Invalid> {
    let mut ports: Vec<Port> = Vec::new();
    for port in spec.ports.iter().flatten() {
        let protocol = match protocol(port.protocol.as_deref()) {
            Ok(protocol) => protocol,
            Err(reason) => {
                left_out.push(format!("port {}: {reason}", port.port));
                continue;
            }
        };
        let number = u16::try_from(port.port).ok().filter(|p| *p > 0);
        let number = number.ok_or_else(|| invalid("InvalidPorts", format!("{} is not a port", port.port)))?;
        let name: Option<PortName> = match port.name.as_deref().filter(|n| !n.is_empty()) {
            Some(text) => Some(text.parse().map_err(|e| invalid("InvalidPorts", format!("{e}")))?),
            None => None,
        };
        let taken = ports.iter().any(|p| p.name == name || (p.protocol, p.port) == (protocol, number));
        if taken {
            return Err(invalid(
                "InvalidPorts",
                format!("port {number}/{protocol} or its name stands twice"),
            ));
        }
        ports.push(Port { name, protocol, app_protocol: port.app_protocol.clone(), port: number });
    }
    Ok(ports)
}

fn endpoints(
    spec: &ServiceSpec,
    slices: &[&EndpointSlice],
    settings: &Settings,
    left_out: &mut Vec<String>,
) -> Vec<LocalEndpoint> {
    let mut found: BTreeMap<IpAddr, LocalEndpoint> = BTreeMap::new();
    for slice in slices {
        if slice.address_type == "FQDN" {
            let name = slice.metadata.name.as_deref().unwrap_or_default();
            left_out.push(format!("EndpointSlice {name}: addressType FQDN is not supported"));
            continue;
        }
        let targets = targets(spec, slice);
        for endpoint in &slice.endpoints {
            match one(endpoint, &targets, settings) {
                // One address in two slices has the ports of both.
                Ok(new) => {
                    let known = found.entry(new.address).or_insert_with(|| new.clone());
                    known.ready |= new.ready;
                    known.ports.extend(new.ports);
                    known.ports.sort();
                    known.ports.dedup();
                }
                Err(reason) => left_out.push(reason),
            }
        }
    }
    found.into_values().collect()
}

fn targets(spec: &ServiceSpec, slice: &EndpointSlice) -> Vec<TargetPort> {
    let named = |text: &Option<String>| text.clone().unwrap_or_default();
    let mut targets = Vec::new();
    for port in spec.ports.iter().flatten() {
        let Ok(protocol) = protocol(port.protocol.as_deref()) else { continue };
        let Ok(service) = u16::try_from(port.port) else { continue };
        let matching = slice.ports.iter().flatten().find(|p| {
            named(&p.name) == named(&port.name)
                && p.protocol.as_deref().unwrap_or("TCP") == port.protocol.as_deref().unwrap_or("TCP")
        });
        let number = match matching.map(|p| p.port) {
            Some(Some(number)) => u16::try_from(number).ok(),
            // A slice port without a number means all ports: the Service's target port.
            Some(None) => by_service(port),
            None => None,
        };
        targets.extend(number.filter(|n| *n > 0).map(|target| TargetPort { protocol, service, target }));
    }
    targets
}

fn by_service(port: &ServicePort) -> Option<u16> {
    match port.target_port.as_ref() {
        Some(IntOrString::Int(number)) => u16::try_from(*number).ok(),
        Some(IntOrString::String(_)) => None,
        None => u16::try_from(port.port).ok(),
    }
}

fn one(endpoint: &Endpoint, targets: &[TargetPort], settings: &Settings) -> Result<LocalEndpoint, String> {
    let text = endpoint.addresses.first().ok_or("an endpoint has no address")?;
    let address: IpAddr = text.parse().map_err(|_| format!("endpoint \"{text}\" is not an IP address"))?;
    let unusable = address.is_unspecified() || address.is_multicast();
    if unusable {
        return Err(format!("endpoint {address} cannot be dialled"));
    }
    let hostname: Option<Label> = match endpoint.hostname.as_deref().filter(|h| !h.is_empty()) {
        Some(text) => Some(text.parse().map_err(|e| format!("endpoint {address}: {e}"))?),
        None => None,
    };
    let locality = match endpoint.zone.as_deref().filter(|z| !z.is_empty()) {
        Some(zone) => settings.locality.with_zone(zone).map_err(|e| format!("endpoint {address}: {e}"))?,
        None => settings.locality.clone(),
    };
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true) && !conditions.terminating.unwrap_or(false);
    Ok(LocalEndpoint { address, hostname, ready, locality, ports: targets.to_vec() })
}

/// Counts by place. Dual-stack endpoints stand once per family: the family with more counts.
fn counts(endpoints: &[LocalEndpoint]) -> Vec<EndpointCount> {
    let mut by_place: BTreeMap<&Locality, [(u32, u32); 2]> = BTreeMap::new();
    for endpoint in endpoints {
        let family = usize::from(endpoint.address.is_ipv6());
        let slot = &mut by_place.entry(&endpoint.locality).or_default()[family];
        slot.0 += u32::from(endpoint.ready);
        slot.1 += 1;
    }
    let rows = by_place.into_iter().map(|(locality, [v4, v6])| {
        let (ready, total) = v4.max(v6);
        EndpointCount { locality: locality.clone(), ready, total }
    });
    rows.collect()
}

/// The name of a host that has none: its address with dashes.
pub fn system_hostname(address: IpAddr) -> Label {
    let text = match address {
        IpAddr::V4(ip) => ip.to_string().replace('.', "-"),
        // Written in full, so that it neither begins nor ends with a dash.
        IpAddr::V6(ip) => ip.segments().map(|s| format!("{s:x}")).to_vec().join("-"),
    };
    text.parse().expect("digits and dashes between them are a label")
}

fn hosts(endpoints: &[LocalEndpoint]) -> Vec<Host> {
    let mut hosts: BTreeMap<Label, bool> = BTreeMap::new();
    for endpoint in endpoints {
        let name = endpoint.hostname.clone().unwrap_or_else(|| system_hostname(endpoint.address));
        *hosts.entry(name).or_insert(false) |= endpoint.ready;
    }
    hosts.into_iter().map(|(hostname, ready)| Host { hostname, ready }).collect()
}
