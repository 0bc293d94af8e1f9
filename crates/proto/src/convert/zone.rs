//! Zone rows: `self`, `service/<namespace>/<name>`.
//!
//! Encoded by the controller, decoded by its DNS servers.

use std::sync::Arc;

use hansa_core::name::{ClusterId, ServiceName};
use hansa_core::zone::{Zone, ZoneHost, ZonePort, ZoneService};

use super::{Apply, Reason, Rows, bounded, decode, encode, optional, parse, parts, same_key};
use crate::wire::zone::v1 as pb;

/// All rows of the zone of `cluster`, whose own trust bundle (JWKS) goes with it.
pub fn rows(cluster: &ClusterId, bundle: &str, zone: &Zone) -> Rows {
    let own = pb::SelfRow { cluster: cluster.to_string(), bundle: bundle.to_owned() };
    let mut rows = Rows::from([("self".to_owned(), encode(&own))]);
    for (name, service) in &zone.services {
        rows.insert(format!("service/{name}"), encode(&service_to(service)));
    }
    rows
}

fn service_to(service: &ZoneService) -> pb::ServiceRow {
    let ports = service.ports.iter().map(|port| pb::ZonePort {
        name: port.name.as_ref().map(ToString::to_string).unwrap_or_default(),
        protocol: parts::protocol_to(port.protocol),
        port: port.port.into(),
    });
    let hosts = service.hosts.iter().map(|host| pb::ZoneHost {
        hostname: host.hostname.to_string(),
        cluster: host.cluster.to_string(),
        ready: host.ready,
        ips: parts::ips_to(&host.ips),
    });
    pb::ServiceRow {
        namespace: service.service.namespace.to_string(),
        name: service.service.name.to_string(),
        kind: parts::kind_to(service.kind),
        ports: ports.collect(),
        ips: parts::ips_to(&service.ips),
        hosts: hosts.collect(),
    }
}

fn service(row: pb::ServiceRow) -> Result<ZoneService, Reason> {
    bounded("ports", &row.ports, parts::MAX_PORTS)?;
    bounded("hosts", &row.hosts, parts::MAX_HOSTS)?;
    let port = |port: &pb::ZonePort| {
        Ok(ZonePort {
            name: optional(&port.name)?,
            protocol: parts::protocol(port.protocol)?,
            port: parts::number(port.port)?,
        })
    };
    let host = |host: &pb::ZoneHost| {
        Ok(ZoneHost {
            hostname: parse(&host.hostname)?,
            cluster: parse(&host.cluster)?,
            ready: host.ready,
            ips: parts::ips(&host.ips)?,
        })
    };
    Ok(ZoneService {
        service: parts::service(&row.namespace, &row.name)?,
        kind: parts::kind(row.kind)?,
        ports: row.ports.iter().map(port).collect::<Result<_, Reason>>()?,
        ips: parts::ips(&row.ips)?,
        hosts: row.hosts.iter().map(host).collect::<Result<_, Reason>>()?,
    })
}

/// A zone as its rows come in.
#[derive(Debug, Clone, Default)]
pub struct ZoneRows {
    own: Option<(ClusterId, Arc<str>)>,
    zone: Zone,
}

impl ZoneRows {
    /// The zone, once the `self` row is there. Rows that did not change keep their `Arc`.
    pub fn zone(&self) -> Option<Arc<Zone>> {
        self.own.as_ref().map(|_| Arc::new(self.zone.clone()))
    }

    /// The cluster whose zone this is.
    pub fn cluster(&self) -> Option<&ClusterId> {
        self.own.as_ref().map(|own| &own.0)
    }

    /// The trust bundle (JWKS) of the own domain; may be empty.
    pub fn bundle(&self) -> Option<&Arc<str>> {
        self.own.as_ref().map(|own| &own.1)
    }
}

impl Apply for ZoneRows {
    fn set(&mut self, key: &str, body: &[u8]) -> Result<(), Reason> {
        match key.split_once('/') {
            None if key == "self" => {
                let row: pb::SelfRow = decode(body)?;
                self.own = Some((parse(&row.cluster)?, parts::bundle(row.bundle)?));
            }
            Some(("service", name)) => {
                let service = service(decode(body)?)?;
                same_key(name, &service.service.to_string())?;
                // A snapshot repeats what has not changed: its readers see no change either.
                if self.zone.services.get(&service.service).is_none_or(|old| **old != service) {
                    self.zone.insert(service);
                }
            }
            _ => return Err(Reason::new("the kind of row is not known")),
        }
        Ok(())
    }

    fn unset(&mut self, key: &str) {
        match key.split_once('/') {
            None if key == "self" => self.own = None,
            Some(("service", name)) => {
                if let Ok(name) = name.parse::<ServiceName>() {
                    self.zone.remove(&name);
                }
            }
            _ => {}
        }
    }

    fn keys(&self) -> Vec<String> {
        let own = self.own.iter().map(|_| "self".to_owned());
        own.chain(self.zone.services.keys().map(|name| format!("service/{name}"))).collect()
    }
}
