//! `hansa trust …`: whom this cluster believes, until when, and how its own root is replaced.

use clap::{Subcommand, ValueEnum};
use hansa_api::{control, view};
use hansa_core::code::cli;

use crate::args::Context;
use crate::exit::{Exit, Failure};
use crate::table::{Cell, Table, Tone, clean};

const ROTATE: &str = "\
Three steps, so that nobody is ever without a root they know:
  hansa trust rotate publish     the new root goes into the bundle that peers follow
  hansa trust rotate activate    once all have it: leaves are signed by the new root
  hansa trust rotate retire      the old root leaves the bundle";

const DENY: &str = "\
Gateways and controller of this cluster refuse what is on the list. Peers are told of what is ours on it:
they refuse it too and cut its tunnels, one that is away when it is back. What we deny of a peer's servers
counts in this cluster alone. A denied server can neither renew nor enrol under its id until it is allowed
again.

Examples:
  hansa trust deny gateway-2
  hansa trust deny spiffe://gcp-eu.hansa.internal/hansa/gateway/gateway-1";

/// The verbs on trust.
#[derive(Debug, Subcommand)]
pub(crate) enum TrustVerb {
    /// List trust domains with their roots
    List,
    /// Show one trust domain with its bundle
    Show {
        /// `own`, a peer's cluster id, or a trust domain
        #[arg(default_value = "own")]
        owner: String,
    },
    /// Refuse a server's certificates from now on; its live connections are cut within a second
    #[command(after_help = DENY)]
    Deny {
        /// An own server (gateway-1, dns/dns-1), a SPIFFE id, sha256:HEX or serial:TRUST-DOMAIN:HEX
        #[arg(value_name = "WHAT")]
        what: String,
    },
    /// Take an entry of the deny list back
    Allow {
        /// As it was denied, or as `hansa trust show` lists it
        #[arg(value_name = "WHAT")]
        what: String,
    },
    /// Take one step of replacing the own root
    #[command(after_help = ROTATE)]
    Rotate {
        /// The step
        #[arg(value_enum)]
        phase: Phase,
        /// Do not wait until all peers have acknowledged the new bundle
        #[arg(long)]
        force: bool,
    },
}

/// The steps of a rotation.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Phase {
    /// Put a new root into the bundle.
    Publish,
    /// Sign with the new root.
    Activate,
    /// Take the old root out.
    Retire,
}

pub(crate) async fn run(verb: TrustVerb, context: &Context) -> Result<Exit, Failure> {
    let (client, output) = (&context.client, &context.output);
    match verb {
        TrustVerb::List => {
            let all: Vec<view::Trust> = client.get(control::TRUST, &[]).await?;
            output.value(&all, || list(&all, output.color))?;
        }
        TrustVerb::Show { owner } => {
            let all: Vec<view::Trust> = client.get(control::TRUST, &[]).await?;
            let found = all.into_iter().find(|t| t.owner == owner || t.trust_domain == owner);
            let unknown = || {
                Failure::new(
                    Exit::Findings,
                    cli::NOT_FOUND,
                    format!("trust domain of {owner}"),
                    "not known here",
                )
            };
            let trust = found.ok_or_else(unknown)?;
            output.value(&trust, || show(&trust, output.color))?;
        }
        TrustVerb::Deny { what } => {
            let trust: view::Trust = client.post(control::DENY, &view::DenyRequest { what }).await?;
            output.value(&trust, || denied(&trust, output.color))?;
        }
        TrustVerb::Allow { what } => {
            let trust: view::Trust = client.post(control::ALLOW, &view::DenyRequest { what }).await?;
            output.value(&trust, || denied(&trust, output.color))?;
        }
        TrustVerb::Rotate { phase, force } => {
            let phase = match phase {
                Phase::Publish => "publish",
                Phase::Activate => "activate",
                Phase::Retire => "retire",
            };
            let request = view::RotateRequest { phase: phase.to_owned(), force };
            let trust: view::Trust = client.post(control::ROTATE, &request).await?;
            output.value(&trust, || show(&trust, output.color))?;
        }
    }
    Ok(Exit::Ok)
}

fn denied(trust: &view::Trust, color: bool) -> String {
    if trust.denied.is_empty() && trust.told.is_empty() {
        return "nothing is denied\n".to_owned();
    }
    let mut table = Table::new(&["DENIED", "BY"]);
    for entry in &trust.denied {
        table.row([entry.into(), "us".into()]);
    }
    for entry in &trust.told {
        table.row([entry.into(), (&trust.owner).into()]);
    }
    table.render(color)
}

fn list(all: &[view::Trust], color: bool) -> String {
    let mut table = Table::new(&[
        "OWNER",
        "TRUST DOMAIN",
        "SEQUENCE",
        "ROOTS",
        "LAST ROOT EXPIRES",
        "ROTATION",
        "DENIED",
    ]);
    for trust in all {
        let last = trust.roots.iter().map(|r| r.not_after.as_str()).max().unwrap_or_default();
        let rotation = if trust.rotation == "none" { Tone::Plain } else { Tone::Warn };
        table.row([
            (&trust.owner).into(),
            (&trust.trust_domain).into(),
            trust.sequence.to_string().into(),
            trust.roots.len().to_string().into(),
            last.into(),
            Cell::new(trust.rotation.as_str(), rotation),
            count(trust).into(),
        ]);
    }
    table.render(color)
}

/// How many entries are in force here, and how many of them by word of their owner.
fn count(trust: &view::Trust) -> String {
    match (trust.denied.len(), trust.told.len()) {
        (ours, 0) => ours.to_string(),
        (0, told) => format!("{told} by its own word"),
        (ours, told) => format!("{ours}, {told} by its own word"),
    }
}

fn show(trust: &view::Trust, color: bool) -> String {
    let mut text = list(std::slice::from_ref(trust), color);
    let mut roots = Table::new(&["ROOT (SHA-256)", "FROM", "UNTIL", "SIGNS"]);
    for root in &trust.roots {
        let signs = Cell::new(if root.active { "yes" } else { "" }, Tone::Good);
        roots.row([(&root.fingerprint).into(), (&root.not_before).into(), (&root.not_after).into(), signs]);
    }
    text.push('\n');
    text.push_str(&roots.render(color));
    if !trust.denied.is_empty() || !trust.told.is_empty() {
        text.push('\n');
        text.push_str(&denied(trust, color));
    }
    let bundle = serde_json::to_string(&trust.bundle).unwrap_or_default();
    text.push_str(&format!(
        "\nbundle (refreshed every {} s): {}\n",
        trust.refresh_hint_seconds,
        clean(&bundle)
    ));
    text
}
