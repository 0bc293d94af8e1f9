//! The `service/<namespace>/<name>` row of a route table.
//!
//! Called by the rows beside it only.

use std::collections::BTreeMap;

use hansa_core::catalog::{LocalEndpoint, LocalService, TargetPort};
use hansa_core::mesh::{Candidate, HostRoute, ServiceRoute};
use hansa_core::name::ClusterId;

use crate::convert::{Reason, bounded, optional, parse, parts};
use crate::wire::routes::v1 as pb;

const MAX_CLUSTERS: usize = 4_096;

pub(super) fn to(route: &ServiceRoute) -> pb::ServiceRow {
    pb::ServiceRow {
        namespace: route.service.namespace.to_string(),
        name: route.service.name.to_string(),
        kind: parts::kind_to(route.kind),
        ports: parts::ports_to(&route.ports),
        client_ip_seconds: parts::affinity_to(route.affinity),
        vips: parts::vips_to(&route.vips),
        clusters: route.clusters.iter().map(candidate_to).collect(),
        hosts: route.hosts.iter().map(host_to).collect(),
        local: route.local.as_ref().map(local_to),
    }
}

pub(super) fn from(row: pb::ServiceRow) -> Result<ServiceRoute, Reason> {
    bounded("clusters", &row.clusters, MAX_CLUSTERS)?;
    bounded("hosts", &row.hosts, parts::MAX_HOSTS)?;
    Ok(ServiceRoute {
        service: parts::service(&row.namespace, &row.name)?,
        kind: parts::kind(row.kind)?,
        ports: parts::ports(row.ports)?,
        affinity: parts::affinity(row.client_ip_seconds),
        vips: parts::vips(&row.vips)?,
        clusters: candidates(&row.clusters)?,
        hosts: row.hosts.iter().map(host).collect::<Result<_, Reason>>()?,
        local: row.local.map(local).transpose()?,
    })
}

fn candidate_to(candidate: &Candidate) -> pb::Candidate {
    pb::Candidate {
        cluster: candidate.cluster.to_string(),
        ports: parts::port_refs_to(&candidate.ports),
        endpoints: parts::counts_to(&candidate.endpoints),
    }
}

/// By cluster, each once; of two with one name the later counts.
fn candidates(wire: &[pb::Candidate]) -> Result<Vec<Candidate>, Reason> {
    let mut clusters = BTreeMap::new();
    for row in wire {
        let cluster: ClusterId = parse(&row.cluster)?;
        let candidate =
            Candidate::new(cluster.clone(), &parts::port_refs(&row.ports)?, parts::counts(&row.endpoints)?);
        clusters.insert(cluster, candidate);
    }
    Ok(clusters.into_values().collect())
}

fn host_to(host: &HostRoute) -> pb::HostRoute {
    pb::HostRoute {
        cluster: host.cluster.to_string(),
        hostname: host.hostname.to_string(),
        ready: host.ready,
        vips: parts::vips_to(&host.vips),
    }
}

fn host(wire: &pb::HostRoute) -> Result<HostRoute, Reason> {
    Ok(HostRoute {
        cluster: parse(&wire.cluster)?,
        hostname: parse(&wire.hostname)?,
        ready: wire.ready,
        vips: parts::vips(&wire.vips)?,
    })
}

fn local_to(local: &LocalService) -> pb::LocalService {
    let list = local.export_to.as_ref();
    pb::LocalService {
        export_to: list.map(|list| pb::ExportTo { clusters: list.iter().map(ToString::to_string).collect() }),
        endpoints: local.endpoints.iter().map(endpoint_to).collect(),
    }
}

fn local(wire: pb::LocalService) -> Result<LocalService, Reason> {
    bounded("endpoints", &wire.endpoints, parts::MAX_HOSTS)?;
    let list = |list: pb::ExportTo| list.clusters.iter().map(|id| parse(id)).collect::<Result<_, Reason>>();
    let mut endpoints: Vec<LocalEndpoint> =
        wire.endpoints.iter().map(endpoint).collect::<Result<_, Reason>>()?;
    endpoints.sort();
    Ok(LocalService { export_to: wire.export_to.map(list).transpose()?, endpoints })
}

fn endpoint_to(endpoint: &LocalEndpoint) -> pb::LocalEndpoint {
    let ports = endpoint.ports.iter().map(|port| pb::TargetPort {
        protocol: parts::protocol_to(port.protocol),
        service: port.service.into(),
        target: port.target.into(),
    });
    pb::LocalEndpoint {
        address: endpoint.address.to_string(),
        hostname: endpoint.hostname.as_ref().map(ToString::to_string).unwrap_or_default(),
        ready: endpoint.ready,
        locality: endpoint.locality.to_string(),
        ports: ports.collect(),
    }
}

fn endpoint(wire: &pb::LocalEndpoint) -> Result<LocalEndpoint, Reason> {
    bounded("ports", &wire.ports, parts::MAX_PORTS)?;
    let port = |port: &pb::TargetPort| {
        Ok(TargetPort {
            protocol: parts::protocol(port.protocol)?,
            service: parts::number(port.service)?,
            target: parts::number(port.target)?,
        })
    };
    Ok(LocalEndpoint {
        address: parse(&wire.address)?,
        hostname: optional(&wire.hostname)?,
        ready: wire.ready,
        locality: parse(&wire.locality)?,
        ports: wire.ports.iter().map(port).collect::<Result<_, Reason>>()?,
    })
}
