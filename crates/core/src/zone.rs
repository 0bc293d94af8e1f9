//! What DNS answers: the zone, and [`answer`].
//!
//! Called by the DNS server for every question, with one snapshot. Records follow the multicluster
//! DNS specification 1.0.0 (KEP-1645). Never answers for `cluster.local`, and never puts a record at
//! `<clusterid>.<service>.<namespace>.svc.<zone>`, which is reserved.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::catalog::{Protocol, ServiceType};
use crate::name::{CLUSTERSET_ZONE, ClusterId, Label, Namespace, PortName, ServiceName};

/// Longest name, as text without the closing dot (RFC 1035 2.3.4).
const MAX_NAME: usize = 253;

/// Seconds for which addresses and SRV records may be kept.
pub const TTL: u32 = 5;
/// Seconds for which the version record may be kept (example value of the specification).
pub const VERSION_TTL: u32 = 28_800;
/// The version of the specification that is answered.
pub const DNS_VERSION: &str = "1.0.0";

/// A named port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZonePort {
    /// Its name; ports without one have no SRV record of their own.
    pub name: Option<PortName>,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The number to connect to.
    pub port: u16,
}

/// One host of a headless service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneHost {
    /// Its host name.
    pub hostname: Label,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Whether it is ready; only ready hosts are answered.
    pub ready: bool,
    /// Addresses that lead to it from here.
    pub ips: Vec<IpAddr>,
}

/// One service of the zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneService {
    /// Its name.
    pub service: ServiceName,
    /// ClusterSetIP or Headless.
    pub kind: ServiceType,
    /// Its ports.
    pub ports: Vec<ZonePort>,
    /// Addresses of a ClusterSetIP service, of ready gateways only.
    pub ips: Vec<IpAddr>,
    /// Hosts of a headless service.
    pub hosts: Vec<ZoneHost>,
}

/// What DNS servers need of the mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Zone {
    /// Services; a row is shared between versions that did not change it.
    pub services: BTreeMap<ServiceName, Arc<ZoneService>>,
    /// How many services each namespace has: it exists in DNS while it has one.
    pub namespaces: BTreeMap<Namespace, usize>,
}

impl Zone {
    /// Sets or replaces a service.
    pub fn insert(&mut self, service: ZoneService) {
        let namespace = service.service.namespace.clone();
        if self.services.insert(service.service.clone(), Arc::new(service)).is_none() {
            *self.namespaces.entry(namespace).or_insert(0) += 1;
        }
    }

    /// Removes a service.
    pub fn remove(&mut self, name: &ServiceName) {
        if self.services.remove(name).is_none() {
            return;
        }
        if let Some(count) = self.namespaces.get_mut(&name.namespace) {
            *count -= 1;
            if *count == 0 {
                self.namespaces.remove(&name.namespace);
            }
        }
    }
}

/// The question types that have answers here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Qtype {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Services.
    Srv,
    /// Text.
    Txt,
    /// Start of authority.
    Soa,
    /// Name servers.
    Ns,
    /// Everything there is.
    Any,
    /// Any other type: never has an answer.
    Other,
}

/// Data of a record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Rdata {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// Port and target host; priority and weight are 0.
    Srv {
        /// The port.
        port: u16,
        /// The target name, without closing dot.
        target: String,
    },
    /// One text string.
    Txt(String),
    /// The zone's start of authority.
    Soa,
    /// The zone's name server.
    Ns,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Owner name, without closing dot. `None`: the name asked for.
    pub name: Option<String>,
    /// Seconds to keep it.
    pub ttl: u32,
    /// The data.
    pub data: Rdata,
}

/// What to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The name is not under the zone.
    NotOurs,
    /// The name does not exist.
    NxDomain,
    /// The name exists, without records of that type.
    NoData,
    /// Records, and addresses of their targets.
    Records {
        /// Answer section.
        answers: Vec<Record>,
        /// Additional section.
        additionals: Vec<Record>,
    },
}

fn records(answers: Vec<Record>) -> Answer {
    if answers.is_empty() { Answer::NoData } else { Answer::Records { answers, additionals: Vec::new() } }
}

fn own(ttl: u32, data: Rdata) -> Record {
    Record { name: None, ttl, data }
}

/// Answers one question. `name` is in lower case without the closing dot.
pub fn answer(zone: &Zone, name: &str, qtype: Qtype) -> Answer {
    let Some(rest) = name.strip_suffix(CLUSTERSET_ZONE) else { return Answer::NotOurs };
    if rest.is_empty() {
        return apex(qtype);
    }
    let Some(rest) = rest.strip_suffix('.') else { return Answer::NotOurs };
    if rest == "dns-version" {
        let text = own(VERSION_TTL, Rdata::Txt(DNS_VERSION.to_owned()));
        return records(if matches!(qtype, Qtype::Txt | Qtype::Any) { vec![text] } else { vec![] });
    }
    let rest = if rest == "svc" { "" } else { rest.strip_suffix(".svc").unwrap_or("\0") };
    if rest.is_empty() {
        return Answer::NoData;
    }
    let labels: Vec<&str> = rest.split('.').collect();
    let (above, namespace) = labels.split_at(labels.len() - 1);
    let Ok(namespace) = namespace[0].parse::<Namespace>() else { return Answer::NxDomain };
    let Some((service, above)) = above.split_last() else {
        return if zone.namespaces.contains_key(&namespace) { Answer::NoData } else { Answer::NxDomain };
    };
    let Ok(service) = service.parse::<Label>() else { return Answer::NxDomain };
    let Some(service) = zone.services.get(&ServiceName { namespace, name: service }) else {
        return Answer::NxDomain;
    };
    if service.kind == ServiceType::Headless && ready_hosts(service).next().is_none() {
        return Answer::NxDomain;
    }
    match above {
        [] => bare(service, qtype),
        [proto] if proto.starts_with('_') => exists(service.ports.iter().any(|p| named(p, None, proto))),
        [port, proto] if port.starts_with('_') => srv_name(service, port, proto, qtype),
        _ => host_name(service, above, qtype),
    }
}

fn exists(yes: bool) -> Answer {
    if yes { Answer::NoData } else { Answer::NxDomain }
}

fn apex(qtype: Qtype) -> Answer {
    records(match qtype {
        Qtype::Soa => vec![own(TTL, Rdata::Soa)],
        Qtype::Ns => vec![own(TTL, Rdata::Ns)],
        Qtype::Any => vec![own(TTL, Rdata::Soa), own(TTL, Rdata::Ns)],
        _ => vec![],
    })
}

fn ready_hosts(service: &ZoneService) -> impl Iterator<Item = &ZoneHost> {
    service.hosts.iter().filter(|h| h.ready && !h.ips.is_empty())
}

fn addresses<'a>(ips: impl IntoIterator<Item = &'a IpAddr>, qtype: Qtype) -> Vec<Rdata> {
    let rows = ips.into_iter().filter_map(|ip| match (ip, qtype) {
        (IpAddr::V4(ip), Qtype::A | Qtype::Any) => Some(Rdata::A(*ip)),
        (IpAddr::V6(ip), Qtype::Aaaa | Qtype::Any) => Some(Rdata::Aaaa(*ip)),
        _ => None,
    });
    rows.collect()
}

fn bare(service: &ZoneService, qtype: Qtype) -> Answer {
    let hosts = || ready_hosts(service).flat_map(|h| &h.ips);
    let mut answers: Vec<Record> = match service.kind {
        ServiceType::ClusterSetIP => addresses(&service.ips, qtype),
        ServiceType::Headless => addresses(hosts(), qtype),
    }
    .into_iter()
    .map(|data| own(TTL, data))
    .collect();
    if !matches!(qtype, Qtype::Srv | Qtype::Any) {
        return records(answers);
    }
    let (found, additionals) = srv(service, |port| port.name.is_some());
    answers.extend(found);
    if answers.is_empty() { Answer::NoData } else { Answer::Records { answers, additionals } }
}

fn named(port: &ZonePort, name: Option<&str>, proto: &str) -> bool {
    let same_proto = match port.protocol {
        Protocol::Tcp => proto == "_tcp",
        Protocol::Udp => proto == "_udp",
    };
    let port_name = port.name.as_ref().map(PortName::as_str);
    same_proto && port_name.is_some() && (name.is_none() || name == port_name)
}

fn srv_name(service: &ZoneService, port: &str, proto: &str, qtype: Qtype) -> Answer {
    let wanted = port.strip_prefix('_');
    if !service.ports.iter().any(|p| named(p, wanted, proto)) {
        return Answer::NxDomain;
    }
    if !matches!(qtype, Qtype::Srv | Qtype::Any) {
        return Answer::NoData;
    }
    let (answers, additionals) = srv(service, |p| named(p, wanted, proto));
    if answers.is_empty() { Answer::NoData } else { Answer::Records { answers, additionals } }
}

fn host_fqdn(service: &ZoneService, host: &ZoneHost) -> String {
    format!("{}.{}.{}", host.hostname, host.cluster, service.service.fqdn())
}

/// SRV records for the ports that match, one per (port, target), with the targets' addresses.
fn srv(service: &ZoneService, matches: impl Fn(&ZonePort) -> bool) -> (Vec<Record>, Vec<Record>) {
    let numbers: BTreeSet<u16> = service.ports.iter().filter(|p| matches(p)).map(|p| p.port).collect();
    let targets: Vec<(String, &[IpAddr])> = match service.kind {
        ServiceType::ClusterSetIP => vec![(service.service.fqdn(), &service.ips)],
        ServiceType::Headless => {
            let named = ready_hosts(service).map(|h| (host_fqdn(service, h), h.ips.as_slice()));
            // Its parts are valid, but DNS cannot carry the whole.
            named.filter(|(target, _)| target.len() <= MAX_NAME).collect()
        }
    };
    let mut answers = Vec::new();
    let mut additionals = Vec::new();
    for (target, ips) in targets {
        for port in &numbers {
            answers.push(own(TTL, Rdata::Srv { port: *port, target: target.clone() }));
        }
        let extra = addresses(ips, Qtype::Any).into_iter();
        additionals.extend(extra.map(|data| Record { name: Some(target.clone()), ttl: TTL, data }));
    }
    (answers, additionals)
}

/// `host.clusterid`, where a cluster id spans one label or two.
fn host_name(service: &ZoneService, above: &[&str], qtype: Qtype) -> Answer {
    if service.kind != ServiceType::Headless {
        return Answer::NxDomain;
    }
    let text = above.join(".");
    let mut hosts = ready_hosts(service);
    if let Some((host, cluster)) = text.split_once('.')
        && let Some(found) =
            ready_hosts(service).find(|h| h.hostname.as_str() == host && h.cluster.as_str() == cluster)
    {
        return records(addresses(&found.ips, qtype).into_iter().map(|data| own(TTL, data)).collect());
    }
    // The reserved name has no record, but names below it exist: NODATA, not NXDOMAIN (RFC 8020).
    let suffix = format!(".{text}");
    exists(hosts.any(|h| h.cluster.as_str() == text || format!(".{}", h.cluster).ends_with(&suffix)))
}
