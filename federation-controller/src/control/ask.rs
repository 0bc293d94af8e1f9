//! Questions to the own gateways: `explain` and `check`, asked of all at once.
//!
//! Part of `control`. A gateway that does not answer in time is named in the log; for `check`, every import
//! is broken there.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use hansa_api::view::{Check, CheckPath, Error, Explain, GatewayExplain, Hop};
use hansa_core::code::{Code, cli, control};
use hansa_core::name::{NodeId, ServiceName};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::warn;

use super::State;
use crate::fuse::View;
use crate::nodes::Kind;

const EXPLAIN: Duration = Duration::from_secs(1);
/// A check walks every path live; each dial has its own deadline below this.
const CHECK: Duration = Duration::from_secs(8);

/// What gateways are asked about.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct About {
    service: Option<ServiceName>,
    port: Option<u16>,
    peer: Option<String>,
}

fn about(query: Option<&str>) -> Result<About, Error> {
    let mut about = About::default();
    let usage = |key: &str, cause: String| Error::new(cli::USAGE, key, cause);
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = value.replace("%2F", "/").replace("%2f", "/");
        match key {
            "service" => about.service = Some(value.parse().map_err(|e| usage(key, format!("{e}")))?),
            "port" => about.port = Some(value.parse().map_err(|e| usage(key, format!("{e}")))?),
            "peer" => about.peer = Some(value),
            _ => return Err(usage(key, "no such parameter".to_owned())),
        }
    }
    Ok(about)
}

/// What the own gateways said.
struct Answers<T> {
    read: BTreeMap<NodeId, T>,
    /// Those registered that said nothing, and why.
    silent: BTreeMap<NodeId, (Code, String)>,
}

impl State {
    async fn ask<T: DeserializeOwned>(
        &self,
        kind: &str,
        about: &About,
        limit: Duration,
    ) -> Result<Answers<T>, Error> {
        let question = Bytes::from(serde_json::to_vec(about).unwrap_or_default());
        let mut silent = BTreeMap::new();
        let mut asked = Vec::new();
        for (id, node) in self.nodes.all(Kind::Gateway) {
            let Some(follower) = node.follower else {
                silent.insert(id, (control::NO_GATEWAY, "it does not follow this controller".to_owned()));
                continue;
            };
            let question = question.clone();
            asked.push(async move { (id, follower.ask(kind, question, limit).await) });
        }
        if asked.is_empty() {
            return Err(Error::new(control::NO_GATEWAY, "gateways", "none follows this controller"));
        }
        let mut read = BTreeMap::new();
        let mut causes = Vec::new();
        for (id, answer) in futures::future::join_all(asked).await {
            let answer = answer.map_err(|e| e.to_string());
            match answer.and_then(|json| serde_json::from_slice(&json).map_err(|e| e.to_string())) {
                Ok(answer) => drop(read.insert(id, answer)),
                Err(cause) => {
                    warn!(gateway = %id, kind, cause, "a gateway did not answer");
                    causes.push(format!("{id}: {cause}"));
                    silent.insert(id, (cli::TIMED_OUT, cause));
                }
            }
        }
        if read.is_empty() {
            return Err(Error::new(cli::TIMED_OUT, "gateways", causes.join("; ")));
        }
        Ok(Answers { read, silent })
    }

    /// `GET /v1/explain`.
    pub(super) async fn explain(&self, query: Option<&str>) -> Result<Explain, Error> {
        let mut about = about(query)?;
        let name =
            about.service.clone().ok_or_else(|| Error::new(cli::USAGE, "service", "which service?"))?;
        let view = self.view()?;
        let import = view.mesh.imports.get(&name);
        let import = import
            .ok_or_else(|| Error::new(cli::NOT_FOUND, format!("service {name}"), "nobody exports it"))?;
        let port = about.port.or_else(|| import.ports.first().map(|port| port.port));
        if port.is_none_or(|port| import.ports.iter().all(|p| p.port != port)) {
            let cause = format!("it has no port {}", port.unwrap_or_default());
            return Err(Error::new(cli::NOT_FOUND, format!("service {name}"), cause));
        }
        about.port = port;
        let answers: Answers<GatewayExplain> = self.ask("explain", &about, EXPLAIN).await?;
        Ok(Explain {
            service: format!("{name}:{}", port.unwrap_or_default()),
            from: self.facts.locality.to_string(),
            gateways: answers.read.into_values().collect(),
        })
    }

    /// `GET /v1/check`.
    pub(super) async fn check(&self, query: Option<&str>) -> Result<Check, Error> {
        let about = about(query)?;
        let view = self.view()?;
        if let Some(name) = about.service.as_ref().filter(|name| !view.mesh.imports.contains_key(name)) {
            return Err(Error::new(cli::NOT_FOUND, format!("service {name}"), "nobody exports it"));
        }
        let answers: Answers<Check> = self.ask("check", &about, CHECK).await?;
        let mut paths: Vec<_> = answers.read.into_values().flat_map(|check| check.paths).collect();
        for path in &mut paths {
            let vip = address(&view, &path.service, &path.gateway, &path.peer);
            let own = [open("name", String::new()), open("address", vip), open("gateway", String::new())];
            path.hops.splice(0..0, own);
        }
        for (id, (code, cause)) in &answers.silent {
            paths.extend(broken(&view, &about, id, (*code, cause)));
        }
        paths.sort_by(|a, b| (&a.service, &a.gateway, &a.peer).cmp(&(&b.service, &b.gateway, &b.peer)));
        Ok(Check { paths })
    }
}

/// A hop that the command line walks.
fn open(id: &str, detail: String) -> Hop {
    Hop { id: id.to_owned(), ok: None, code: None, seconds: None, detail }
}

/// One path for every import asked about, broken at a gateway that walked none.
fn broken(view: &View, about: &About, gateway: &NodeId, (code, cause): (Code, &str)) -> Vec<CheckPath> {
    let asked = |name: &ServiceName| about.service.as_ref().is_none_or(|wanted| wanted == name);
    let imports = view.mesh.imports.iter().filter(|(name, _)| asked(name));
    let paths = imports.filter_map(|(name, import)| {
        let port = import.ports.iter().find(|p| about.port.is_none_or(|wanted| wanted == p.port))?;
        let clusters = import.clusters.keys().map(ToString::to_string);
        let peer = clusters.into_iter().find(|id| about.peer.as_ref().is_none_or(|wanted| wanted == id))?;
        let detail = format!("{gateway}: {cause}");
        let dead = Hop { ok: Some(false), code: Some(code.to_string()), ..open("gateway", detail) };
        Some(CheckPath {
            service: format!("{name}:{}", port.port),
            gateway: gateway.to_string(),
            peer,
            peer_gateway: None,
            // Any address of the name will do: those of this gateway may be out of DNS already.
            hops: vec![open("name", String::new()), open("address", String::new()), dead],
        })
    });
    paths.collect()
}

/// The virtual address by which this gateway serves that service; for a headless one, of its first
/// ready host in that cluster.
fn address(view: &View, service: &str, gateway: &str, cluster: &str) -> String {
    let find = || {
        let name: ServiceName = service.rsplit_once(':')?.0.parse().ok()?;
        let route = view.routes.services.get(&name)?;
        let gateway: NodeId = gateway.parse().ok()?;
        let hosts = route.hosts.iter().filter(|h| h.ready && h.cluster.as_str() == cluster);
        let mut all = std::iter::once(&route.vips).chain(hosts.map(|h| &h.vips));
        all.find_map(|vips| vips.get(&gateway)?.first().copied())
    };
    find().map(|ip| ip.to_string()).unwrap_or_default()
}
