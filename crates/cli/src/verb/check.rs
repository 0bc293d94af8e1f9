//! `hansa check [NAME[:port]]`: every path walked for real, and the first broken hop of each.
//!
//! The gateways walk from the tunnel on; the first three hops (name, address, gateway) are walked
//! here, as a client on this host would. Nothing is compared with any configuration.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use clap::Args;
use hansa_api::{control, view};
use hansa_core::code::cli;
use hansa_core::name::ClusterId;

use super::dns;
use crate::args::Context;
use crate::exit::{Exit, Failure};
use crate::table::{Cell, Table, Tone, clean};
use crate::target::Wanted;

mod walk;

use walk::Walker;

const AFTER: &str = "\
A path is one own gateway, one gateway of a peer, one endpoint. Its hops, in order: name (DNS),
address (of that gateway), gateway (TCP), tunnel, peer-gateway, endpoint. Failover is off, so that a
broken path shows although clients still get answers. Exits with 1 if any hop is broken.

Examples:
  hansa check                          every import
  hansa check checkout.shop:80
  hansa check --peer gcp-eu -o json | jq '.paths[].hops[] | select(.ok == false)'";

/// Arguments of `hansa check`.
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(crate) struct CheckArgs {
    /// checkout.shop, shop/checkout or the full DNS name [default: every import]
    #[arg(value_name = "NAME[:port]")]
    name: Option<Wanted>,
    /// Only paths to this cluster
    #[arg(long, value_name = "CLUSTER")]
    peer: Option<ClusterId>,
    /// The DNS server to ask [default: those of this cluster, by its controller]
    #[arg(long, value_name = "ADDRESS:PORT")]
    server: Option<SocketAddr>,
}

pub(crate) async fn run(args: &CheckArgs, context: &Context) -> Result<Exit, Failure> {
    let mut check = ask(args, context).await?;
    if check.paths.is_empty()
        && let Some(wanted) = &args.name
    {
        let cause = "no path to walk: nothing serves it, or it has UDP ports alone";
        let object = format!("service {}", wanted.service);
        return Err(Failure::new(Exit::Findings, cli::NOT_FOUND, object, cause));
    }
    let servers = match args.server {
        Some(server) => vec![server],
        None => dns::servers(context).await?,
    };
    let services: Vec<view::Service> = context.client.get(control::SERVICES, &[]).await?;
    let ports = services.iter().map(|s| (s.name.clone(), s.ports.clone())).collect::<BTreeMap<_, _>>();
    let mut walker = Walker::new(servers, ports, context.client.timeout);
    for path in &mut check.paths {
        walker.walk(path).await;
    }
    context.output.value(&check, || render(&check, context.output.color))?;
    let broken = broken(&check);
    if broken == 0 {
        return Ok(Exit::Ok);
    }
    let object = format!("{broken} of {} paths", check.paths.len());
    let cause = "a hop is broken; the first one that is not ok says why";
    Err(Failure::new(Exit::Findings, cli::CHECK_FAILED, object, cause))
}

async fn ask(args: &CheckArgs, context: &Context) -> Result<view::Check, Failure> {
    let service = args.name.as_ref().map(|n| n.service.to_string());
    let port = args.name.as_ref().and_then(|n| n.port).map(|p| p.to_string());
    let mut query = Vec::new();
    query.extend(service.as_deref().map(|s| ("service", s)));
    query.extend(port.as_deref().map(|p| ("port", p)));
    query.extend(args.peer.as_ref().map(|p| ("peer", p.as_str())));
    context.client.get(control::CHECK, &query).await
}

/// Paths with a hop that is not ok.
fn broken(check: &view::Check) -> usize {
    check.paths.iter().filter(|path| path.hops.iter().any(|hop| hop.ok != Some(true))).count()
}

fn render(check: &view::Check, color: bool) -> String {
    if check.paths.is_empty() {
        return "no imports, so no paths\n".to_owned();
    }
    let mut table = Table::new(&["SERVICE", "GATEWAY", "PEER", "PEER GATEWAY", "RESULT", "SECONDS"]);
    for path in &check.paths {
        let first = path.hops.iter().find(|hop| hop.ok != Some(true));
        let result = match first {
            None => Cell::new("ok", Tone::Good),
            Some(hop) => {
                let code = hop.code.as_deref().unwrap_or("not walked");
                Cell::new(format!("{}: {code} {}", hop.id, hop.detail), Tone::Bad)
            }
        };
        let seconds: f64 = path.hops.iter().filter_map(|hop| hop.seconds).sum();
        table.row([
            (&path.service).into(),
            (&path.gateway).into(),
            (&path.peer).into(),
            path.peer_gateway.as_deref().unwrap_or_default().into(),
            result,
            format!("{seconds:.3}").into(),
        ]);
    }
    let (paths, broken) = (check.paths.len(), broken(check));
    let sum = format!("{} of {paths} paths are well", paths - broken);
    format!("{}\n{}\n", table.render(color), Tone::of(broken == 0).paint(&clean(&sum), color))
}
