//! Parts that several row types share: ports, counts, hosts, gateways, addresses.
//!
//! Called by the row modules beside it. Checks every limit of a part.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use hansa_core::catalog::{Affinity, EndpointCount, GatewayInfo, Host, Port, Protocol, ServiceType};
use hansa_core::name::{NodeId, ServiceName};

use super::{Reason, bounded, optional, parse};
use crate::wire::common::v1 as pb;
use crate::wire::routes::v1::Vips;

pub(super) const MAX_PORTS: usize = 512;
const MAX_PLACES: usize = 1_024;
pub(super) const MAX_HOSTS: usize = 10_000;
const MAX_ADDRESSES: usize = 64;
const MAX_TEXTS: usize = 256;
const MAX_TEXT: usize = 64 * 1024;
/// Longest bundle taken, in bytes.
const MAX_BUNDLE: usize = 48 * 1024;

pub(super) fn protocol_to(protocol: Protocol) -> i32 {
    let wire = match protocol {
        Protocol::Tcp => pb::Protocol::Tcp,
        Protocol::Udp => pb::Protocol::Udp,
    };
    wire.into()
}

pub(super) fn protocol(wire: i32) -> Result<Protocol, Reason> {
    match pb::Protocol::try_from(wire) {
        Ok(pb::Protocol::Tcp) => Ok(Protocol::Tcp),
        Ok(pb::Protocol::Udp) => Ok(Protocol::Udp),
        _ => Err(Reason::new(format!("protocol {wire} is not known"))),
    }
}

pub(super) fn kind_to(kind: ServiceType) -> i32 {
    let wire = match kind {
        ServiceType::ClusterSetIP => pb::ServiceType::ClusterSetIp,
        ServiceType::Headless => pb::ServiceType::Headless,
    };
    wire.into()
}

pub(super) fn kind(wire: i32) -> Result<ServiceType, Reason> {
    match pb::ServiceType::try_from(wire) {
        Ok(pb::ServiceType::ClusterSetIp) => Ok(ServiceType::ClusterSetIP),
        Ok(pb::ServiceType::Headless) => Ok(ServiceType::Headless),
        _ => Err(Reason::new(format!("service type {wire} is not known"))),
    }
}

pub(super) fn number(port: u32) -> Result<u16, Reason> {
    match u16::try_from(port) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(Reason::new(format!("port {port} is not a number from 1 to 65535"))),
    }
}

pub(super) fn service(namespace: &str, name: &str) -> Result<ServiceName, Reason> {
    ServiceName::new(namespace, name).map_err(Reason::new)
}

pub(super) fn affinity_to(affinity: Affinity) -> Option<u32> {
    match affinity {
        Affinity::None => None,
        Affinity::ClientIp { timeout_seconds } => Some(timeout_seconds),
    }
}

pub(super) fn affinity(wire: Option<u32>) -> Affinity {
    wire.map_or(Affinity::None, |timeout_seconds| Affinity::ClientIp { timeout_seconds })
}

pub(super) fn ports_to(ports: &[Port]) -> Vec<pb::Port> {
    let wire = ports.iter().map(|port| pb::Port {
        name: port.name.as_ref().map(ToString::to_string).unwrap_or_default(),
        protocol: protocol_to(port.protocol),
        app_protocol: port.app_protocol.clone().unwrap_or_default(),
        port: port.port.into(),
    });
    wire.collect()
}

pub(super) fn ports(wire: Vec<pb::Port>) -> Result<Vec<Port>, Reason> {
    bounded("ports", &wire, MAX_PORTS)?;
    let ports = wire.into_iter().map(|port| {
        if port.app_protocol.len() > 253 {
            return Err(Reason::new("appProtocol is longer than 253 characters"));
        }
        Ok(Port {
            name: optional(&port.name)?,
            protocol: protocol(port.protocol)?,
            app_protocol: (!port.app_protocol.is_empty()).then_some(port.app_protocol),
            port: number(port.port)?,
        })
    });
    ports.collect()
}

pub(super) fn port_refs_to<'a>(ports: impl IntoIterator<Item = &'a (Protocol, u16)>) -> Vec<pb::PortRef> {
    ports
        .into_iter()
        .map(|(p, port)| pb::PortRef { protocol: protocol_to(*p), port: (*port).into() })
        .collect()
}

pub(super) fn port_refs(wire: &[pb::PortRef]) -> Result<BTreeSet<(Protocol, u16)>, Reason> {
    bounded("ports", wire, MAX_PORTS)?;
    wire.iter().map(|port| Ok((protocol(port.protocol)?, number(port.port)?))).collect()
}

pub(super) fn counts_to(counts: &[EndpointCount]) -> Vec<pb::EndpointCount> {
    let wire = counts.iter().map(|count| pb::EndpointCount {
        locality: count.locality.to_string(),
        ready: count.ready,
        total: count.total,
    });
    wire.collect()
}

pub(super) fn counts(wire: &[pb::EndpointCount]) -> Result<Vec<EndpointCount>, Reason> {
    bounded("places", wire, MAX_PLACES)?;
    // The sums over all places are u32 everywhere: a liar must not overflow them.
    let most = u32::MAX / MAX_PLACES as u32;
    let mut counts = Vec::with_capacity(wire.len());
    for count in wire {
        if count.total > most || count.ready > count.total {
            return Err(Reason::new(format!(
                "{} ready of {} endpoints is no count",
                count.ready, count.total
            )));
        }
        let locality = parse(&count.locality)?;
        counts.push(EndpointCount { locality, ready: count.ready, total: count.total });
    }
    counts.sort();
    Ok(counts)
}

pub(super) fn hosts_to(hosts: &[Host]) -> Vec<pb::Host> {
    hosts.iter().map(|h| pb::Host { hostname: h.hostname.to_string(), ready: h.ready }).collect()
}

pub(super) fn hosts(wire: &[pb::Host]) -> Result<Vec<Host>, Reason> {
    bounded("hosts", wire, MAX_HOSTS)?;
    let hosts = wire.iter().map(|h| Ok(Host { hostname: parse(&h.hostname)?, ready: h.ready }));
    let mut hosts: Vec<Host> = hosts.collect::<Result<_, Reason>>()?;
    hosts.sort();
    Ok(hosts)
}

pub(super) fn texts(wire: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Reason> {
    let long: usize = wire.iter().map(|(key, value)| key.len() + value.len()).sum();
    if wire.len() > MAX_TEXTS || long > MAX_TEXT {
        return Err(Reason::new(format!("{} texts of {long} bytes are too many", wire.len())));
    }
    Ok(wire)
}

pub(super) fn bundle(wire: String) -> Result<std::sync::Arc<str>, Reason> {
    if wire.len() > MAX_BUNDLE {
        return Err(Reason::new(format!("the trust bundle has {} bytes, at most {MAX_BUNDLE}", wire.len())));
    }
    Ok(wire.into())
}

/// A gateway in wire form.
pub fn gateway_to(gateway: &GatewayInfo) -> pb::Gateway {
    pb::Gateway {
        id: gateway.id.to_string(),
        locality: gateway.locality.to_string(),
        addresses: gateway.addresses.clone(),
        draining: gateway.draining,
    }
}

/// A gateway from its wire form; every address is `host:port`.
pub fn gateway(wire: pb::Gateway) -> Result<GatewayInfo, Reason> {
    dial_addresses(&wire.addresses)?;
    Ok(GatewayInfo {
        id: parse(&wire.id)?,
        locality: parse(&wire.locality)?,
        addresses: wire.addresses,
        draining: wire.draining,
    })
}

pub(super) fn dial_addresses(addresses: &[String]) -> Result<(), Reason> {
    bounded("addresses", addresses, MAX_ADDRESSES)?;
    for address in addresses {
        let good = address.rsplit_once(':').is_some_and(|(host, port)| {
            let text = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]%".contains(&b);
            (1..=255).contains(&host.len())
                && host.bytes().all(text)
                && port.parse::<u16>().is_ok_and(|p| p > 0)
        });
        if !good {
            return Err(Reason::new(format!("address \"{address}\" is not host:port")));
        }
    }
    Ok(())
}

pub(super) fn ips_to(ips: &[IpAddr]) -> Vec<String> {
    ips.iter().map(ToString::to_string).collect()
}

pub(super) fn ips(wire: &[String]) -> Result<Vec<IpAddr>, Reason> {
    bounded("addresses", wire, MAX_HOSTS)?;
    wire.iter().map(|ip| parse(ip)).collect()
}

pub(super) fn vips_to(vips: &BTreeMap<NodeId, Vec<IpAddr>>) -> Vec<Vips> {
    vips.iter().map(|(id, ips)| Vips { gateway: id.to_string(), addresses: ips_to(ips) }).collect()
}

pub(super) fn vips(wire: &[Vips]) -> Result<BTreeMap<NodeId, Vec<IpAddr>>, Reason> {
    bounded("gateways", wire, MAX_PLACES)?;
    wire.iter().map(|v| Ok((parse(&v.gateway)?, ips(&v.addresses)?))).collect()
}
