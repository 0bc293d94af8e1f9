//! `hansa status`: one screen: servers, peers, problems.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use clap::Args;
use hansa_api::{control, view};
use hansa_core::reach::Reach;

use crate::args::Context;
use crate::exit::{Exit, Failure};
use crate::output::Format;
use crate::table::{Cell, Table, Tone, ago, clean, maybe_ago};

/// How often `--watch` asks: gateways report every second.
const WATCH: Duration = Duration::from_secs(1);

const AFTER: &str = "\
Judge a peer by REACH (packets of its gateways) and CATALOG (age of what is known of its services),
never by an open connection.

Examples:
  hansa status --watch
  hansa status -o json | jq '.peers[] | {id, reach, reachAgeSeconds}'";

/// Arguments of `hansa status`.
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(crate) struct StatusArgs {
    /// Ask again every second, until interrupted
    #[arg(long, short)]
    watch: bool,
}

pub(crate) async fn run(args: &StatusArgs, context: &Context) -> Result<Exit, Failure> {
    if args.watch {
        return watch(context).await;
    }
    let status: view::Status = context.client.get(control::STATUS, &[]).await?;
    context.output.value(&status, || render(&status, context.output.color))?;
    Ok(Exit::Ok)
}

/// Repeats until interrupted; a controller that is away is shown, and asked again.
async fn watch(context: &Context) -> Result<Exit, Failure> {
    let screen = context.output.format == Format::Table && std::io::stdout().is_terminal();
    let mut beat = tokio::time::interval(WATCH);
    loop {
        beat.tick().await;
        let asked = context.client.get::<view::Status>(control::STATUS, &[]).await;
        if screen {
            // Cursor home, clear the screen.
            context.output.text("\x1b[H\x1b[2J\n")?;
        }
        match asked {
            Ok(status) if context.output.format == Format::Json => {
                context.output.text(&serde_json::to_string(&status).unwrap_or_default())?;
            }
            Ok(status) => context.output.value(&status, || render(&status, context.output.color))?,
            Err(failure) => {
                // Nobody reads stderr: nothing to do about it.
                let _ = writeln!(std::io::stderr(), "{}", context.output.shown(&failure));
            }
        }
    }
}

fn render(status: &view::Status, color: bool) -> String {
    let controller = &status.controller;
    let mut text = String::new();
    // Writing into a String cannot fail.
    let _ = writeln!(
        text,
        "{}  {}  trust domain {}  controller {} up {}  {} exports, {} imports{}",
        clean(&status.cluster),
        clean(&controller.locality),
        clean(&controller.trust_domain),
        clean(&controller.version),
        ago(controller.uptime_seconds as f64),
        controller.exports,
        controller.imports,
        if controller.store_ok { "" } else { "  STATE CANNOT BE WRITTEN" },
    );
    for (name, nodes) in [("GATEWAY", &status.gateways), ("DNS", &status.dns)] {
        text.push('\n');
        if nodes.is_empty() {
            let _ = writeln!(text, "{name}: none connected; enrol one with `hansa enroll`");
            continue;
        }
        text.push_str(&servers(name, nodes, color));
    }
    text.push('\n');
    text.push_str(&peers(&status.peers, color));
    for problem in &status.problems {
        let code = Tone::Bad.paint(&clean(&problem.code), color);
        let rest = clean(&format!("{}: {}; next: {}", problem.object, problem.cause, problem.next));
        let _ = write!(text, "\n{code} {rest}");
    }
    text
}

fn servers(name: &'static str, nodes: &[view::NodeStatus], color: bool) -> String {
    let mut table = Table::new(&[name, "READY", "FEED", "AGE", "APPLIED", "BOUND", "REFUSED"]);
    for node in nodes {
        let ready = match (node.draining, node.ready) {
            (true, _) => Cell::new("draining", Tone::Warn),
            (false, ready) => Cell::new(if ready { "yes" } else { "no" }, Tone::of(ready)),
        };
        let version = |v: Option<u64>| v.map_or_else(String::new, |v| v.to_string());
        let refused = node.refused_rows.len();
        table.row([
            (&node.id).into(),
            ready,
            connected(node.connected),
            maybe_ago(node.age_seconds).into(),
            version(node.applied_version).into(),
            version(node.bound_version).into(),
            Cell::new(refused.to_string(), if refused == 0 { Tone::Plain } else { Tone::Warn }),
        ]);
    }
    table.render(color)
}

fn peers(peers: &[view::PeerStatus], color: bool) -> String {
    let mut table = Table::new(&[
        "PEER",
        "REACH",
        "AGE",
        "TRANSPORT",
        "CATALOG",
        "FEED",
        "RTT",
        "GATEWAYS",
        "TUNNELS",
        "STREAMS",
        "REFUSED",
    ]);
    for peer in peers {
        let [reach, age, transport, catalog] = peer_cells(peer);
        let up = peer.gateways.iter().filter(|g| g.tunnels > 0).count();
        let sum =
            |of: fn(&view::PeerGatewayStatus) -> u64| peer.gateways.iter().map(of).sum::<u64>().to_string();
        let refused = peer.refused_rows.len();
        table.row([
            (&peer.id).into(),
            reach,
            age,
            transport,
            catalog,
            connected(peer.connected),
            peer.rtt_ms.map_or_else(String::new, |ms| format!("{ms:.1}ms")).into(),
            format!("{up}/{}", peer.gateways.len()).into(),
            sum(|g| g.tunnels).into(),
            sum(|g| g.streams).into(),
            Cell::new(refused.to_string(), if refused == 0 { Tone::Plain } else { Tone::Warn }),
        ]);
    }
    if table.is_empty() {
        "no peers; invite one with `hansa peer invite`\n".to_owned()
    } else {
        table.render(color)
    }
}

fn connected(yes: bool) -> Cell {
    Cell::new(if yes { "open" } else { "closed" }, if yes { Tone::Plain } else { Tone::Warn })
}

/// Reach, its age, transport and the catalog's age, as `peer list` shows them too.
pub(super) fn peer_cells(peer: &view::PeerStatus) -> [Cell; 4] {
    let (reach, tone) = match peer.reach {
        Reach::Reachable => ("reachable", Tone::Good),
        Reach::Suspect => ("suspect", Tone::Warn),
        Reach::Unreachable => ("unreachable", Tone::Bad),
        Reach::Unknown => ("unknown", Tone::Warn),
    };
    let transport = if peer.transport == "http2" { Tone::Warn } else { Tone::Plain };
    let catalog = match (peer.applied_version, peer.digest_ok) {
        (None, _) => Cell::new("none", Tone::Warn),
        (Some(version), true) => format!("v{version} {}", maybe_ago(peer.applied_age_seconds)).into(),
        (Some(version), false) => Cell::new(format!("v{version} differs"), Tone::Bad),
    };
    let age = maybe_ago(peer.reach_age_seconds).into();
    [Cell::new(reach, tone), age, Cell::new(peer.transport.as_str(), transport), catalog]
}
