//! The hops a client takes itself: the name, this gateway's address, a connection to it, and one
//! HEAD where the port speaks HTTP. Used by `check` alone; each question is asked once per run.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hansa_api::view::{CheckPath, Hop};
use hansa_core::code::{Code, cli};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, RecordType};

use super::super::dns::rcode;
use crate::dial;
use crate::target::Wanted;

/// The order of hops; the first three are walked here.
const HOPS: [&str; 6] = ["name", "address", "gateway", "tunnel", "peer-gateway", "endpoint"];

/// One hop here may take no longer, whatever `--timeout` says: a client gives up as well.
const HOP_LIMIT: Duration = Duration::from_secs(3);

/// What a hop gave, and how long it took.
#[derive(Debug, Clone)]
struct Walked<T> {
    outcome: Result<T, (Code, String)>,
    seconds: f64,
}

/// Walks paths and remembers answers that several paths share.
#[derive(Debug)]
pub(super) struct Walker {
    servers: Vec<SocketAddr>,
    ports: BTreeMap<String, Vec<String>>,
    limit: Duration,
    names: HashMap<String, Walked<Vec<IpAddr>>>,
    connections: HashMap<SocketAddr, Walked<String>>,
}

/// How a port is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Http,
    Tcp,
    Udp,
}

impl Walker {
    pub(super) fn new(
        servers: Vec<SocketAddr>,
        ports: BTreeMap<String, Vec<String>>,
        timeout: Duration,
    ) -> Self {
        let limit = timeout.min(HOP_LIMIT);
        Self { servers, ports, limit, names: HashMap::new(), connections: HashMap::new() }
    }

    /// Fills in the hops of one path that the gateway left open.
    pub(super) async fn walk(&mut self, path: &mut CheckPath) {
        complete(path);
        let Ok(wanted) = path.service.parse::<Wanted>() else { return };
        let vip: Option<IpAddr> = path.hops[1].detail.parse().ok();
        let fqdn = wanted.service.fqdn();
        let name = self.name(&fqdn).await;
        let found = name.outcome.as_ref().ok().cloned().unwrap_or_default();
        set(&mut path.hops[0], &name, |list| {
            list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        });
        let address = match vip {
            Some(vip) if found.contains(&vip) => Ok(vip),
            Some(vip) => Err((cli::DNS_OTHER_ADDRESS, format!("{vip} is not among the answers"))),
            None => found.first().copied().ok_or((cli::DNS_NO_NAME, String::new())),
        };
        set(&mut path.hops[1], &Walked { outcome: address.clone(), seconds: 0.0 }, ToString::to_string);
        if let (Ok(ip), Some(port)) = (address, wanted.port) {
            let speaks = self.speaks(&wanted.service.to_string(), port);
            let gateway = self.gateway(SocketAddr::new(ip, port), speaks, &fqdn).await;
            self.finish(path, &gateway);
        }
        blank_after_break(path);
    }

    /// A broken HEAD is a fault of the endpoint, if nothing before it is broken.
    fn finish(&self, path: &mut CheckPath, gateway: &Walked<String>) {
        match &gateway.outcome {
            Err((code, cause)) if *code == cli::HTTP_SILENT => {
                let walked = Walked { outcome: Ok(()), seconds: gateway.seconds };
                set(&mut path.hops[2], &walked, |()| "connected".to_owned());
                let endpoint = &mut path.hops[5];
                if endpoint.ok == Some(true) {
                    endpoint.ok = Some(false);
                    endpoint.code = Some(code.to_string());
                    endpoint.detail.clone_from(cause);
                }
            }
            _ => set(&mut path.hops[2], gateway, Clone::clone),
        }
    }

    /// The addresses of a name, from the first server that answers.
    async fn name(&mut self, fqdn: &str) -> Walked<Vec<IpAddr>> {
        if let Some(known) = self.names.get(fqdn) {
            return known.clone();
        }
        let began = Instant::now();
        let mut outcome = Err((cli::DNS_SILENT, "no DNS server of this cluster is connected".to_owned()));
        for server in &self.servers {
            outcome = addresses(*server, fqdn, self.limit).await;
            if !matches!(&outcome, Err((code, _)) if *code == cli::DNS_SILENT) {
                break;
            }
        }
        let walked = Walked { outcome, seconds: began.elapsed().as_secs_f64() };
        self.names.insert(fqdn.to_owned(), walked.clone());
        walked
    }

    /// A connection to a gateway's virtual address, and what HTTP says there.
    async fn gateway(&mut self, to: SocketAddr, speaks: Speaks, fqdn: &str) -> Walked<String> {
        if let Some(known) = self.connections.get(&to) {
            return known.clone();
        }
        let began = Instant::now();
        let limit = self.limit;
        let outcome = match speaks {
            // A datagram that nobody answers says nothing; the gateway's own hops are the proof.
            Speaks::Udp => Ok("UDP: bound, by the gateway's word".to_owned()),
            Speaks::Tcp | Speaks::Http => match dial::connect(to, limit).await {
                Err(e) => Err((cli::VIP_SILENT, format!("{to}: {e}"))),
                Ok(_) if speaks == Speaks::Tcp => Ok("connected".to_owned()),
                Ok(stream) => {
                    let head = dial::head(stream, fqdn, limit).await;
                    head.map_err(|e| (cli::HTTP_SILENT, format!("HEAD by {to}: {e}")))
                }
            },
        };
        let walked = Walked { outcome, seconds: began.elapsed().as_secs_f64() };
        self.connections.insert(to, walked.clone());
        walked
    }

    fn speaks(&self, service: &str, port: u16) -> Speaks {
        let ports = self.ports.get(service).map(Vec::as_slice).unwrap_or_default();
        let shown = |protocol| format!("{port}/{protocol}");
        let with = |wanted: String| ports.iter().find(|p| p.split(' ').any(|word| word == wanted));
        match (with(shown("TCP")), with(shown("UDP"))) {
            (Some(tcp), _) if tcp.starts_with("http") && !tcp.starts_with("https") => Speaks::Http,
            (None, Some(_)) => Speaks::Udp,
            _ => Speaks::Tcp,
        }
    }
}

/// Both address families; a name without any is broken for clients.
async fn addresses(server: SocketAddr, fqdn: &str, limit: Duration) -> Result<Vec<IpAddr>, (Code, String)> {
    let mut found = Vec::new();
    for kind in [RecordType::A, RecordType::AAAA] {
        let answer = dial::dns(server, fqdn, kind, limit).await;
        let answer = answer.map_err(|e| (cli::DNS_SILENT, format!("{server}: {e}")))?;
        let (message, why) = (&answer.message, answer.why());
        let code = message.metadata.response_code;
        if code != ResponseCode::NoError {
            let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
            return Err((cli::DNS_NO_NAME, format!("{server}: {}{why}", rcode(code))));
        }
        found.extend(message.answers.iter().filter_map(|record| match &record.data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            RData::AAAA(a) => Some(IpAddr::V6(a.0)),
            _ => None,
        }));
    }
    if found.is_empty() { Err((cli::DNS_NO_NAME, format!("{server}: no address"))) } else { Ok(found) }
}

/// Brings the hops of an answer into their order. A path within the own cluster has no tunnel.
fn complete(path: &mut CheckPath) {
    let mut given = std::mem::take(&mut path.hops);
    let inside = path.peer_gateway.is_none() && !given.iter().any(|hop| hop.id == "tunnel");
    for id in HOPS {
        let at = given.iter().position(|hop| hop.id == id);
        let skipped = inside && matches!(id, "tunnel" | "peer-gateway");
        let (ok, detail) = if skipped { (Some(true), "own cluster") } else { (None, "") };
        let open = || Hop { id: id.to_owned(), ok, code: None, seconds: None, detail: detail.to_owned() };
        path.hops.push(at.map_or_else(open, |at| given.swap_remove(at)));
    }
}

/// Writes down what a hop gave, unless the gateway has already said that it is broken.
fn set<T>(hop: &mut Hop, walked: &Walked<T>, show: impl FnOnce(&T) -> String) {
    if hop.ok == Some(false) {
        return;
    }
    hop.seconds = Some(walked.seconds);
    match &walked.outcome {
        Ok(value) => {
            hop.ok = Some(true);
            hop.detail = show(value);
        }
        Err((code, cause)) => {
            hop.ok = Some(false);
            hop.code = Some(code.to_string());
            hop.detail.clone_from(cause);
        }
    }
}

/// Behind the first broken hop nothing is known.
fn blank_after_break(path: &mut CheckPath) {
    let broken = path.hops.iter().position(|hop| hop.ok != Some(true));
    for hop in path.hops.iter_mut().skip(broken.map_or(usize::MAX, |n| n + 1)) {
        *hop = Hop { id: hop.id.clone(), ok: None, code: None, seconds: None, detail: String::new() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(id: &str, ok: Option<bool>) -> Hop {
        Hop { id: id.into(), ok, code: None, seconds: None, detail: String::new() }
    }

    #[test]
    fn hops_come_in_order_and_nothing_is_known_behind_a_break() {
        let mut path = CheckPath {
            service: "shop/checkout:80".into(),
            gateway: "g-1".into(),
            peer: "b".into(),
            peer_gateway: Some("g-2".into()),
            hops: vec![hop("endpoint", Some(true)), hop("tunnel", Some(false)), hop("name", Some(true))],
        };
        let mut inside =
            CheckPath { peer_gateway: None, hops: vec![hop("endpoint", Some(true))], ..path.clone() };
        complete(&mut inside);
        assert_eq!(inside.hops[3].ok, Some(true), "the own cluster needs no tunnel");
        complete(&mut path);
        let ids: Vec<&str> = path.hops.iter().map(|h| h.id.as_str()).collect();
        assert_eq!(ids, HOPS);
        path.hops[1].ok = Some(true);
        path.hops[2].ok = Some(true);
        blank_after_break(&mut path);
        let oks: Vec<Option<bool>> = path.hops.iter().map(|h| h.ok).collect();
        assert_eq!(oks, [Some(true), Some(true), Some(true), Some(false), None, None]);
    }

    #[test]
    fn a_port_is_tried_as_what_it_speaks() {
        let ports = vec!["http 80/TCP".to_owned(), "dns 53/UDP".to_owned(), "sql 5432/TCP".to_owned()];
        let walker = Walker::new(Vec::new(), [("a/b".to_owned(), ports)].into(), HOP_LIMIT);
        let speaks = [80, 53, 5432, 9].map(|port| walker.speaks("a/b", port));
        assert_eq!(speaks, [Speaks::Http, Speaks::Udp, Speaks::Tcp, Speaks::Tcp]);
    }
}
