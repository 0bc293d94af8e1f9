//! `hansa explain NAME[:port]`: where a connection would go now, asked of every own gateway.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::Args;
use hansa_api::{control, view};

use crate::args::Context;
use crate::exit::{Exit, Failure};
use crate::table::{Cell, Table, Tone, clean, maybe_ago};
use crate::target::Wanted;

const AFTER: &str = "\
Every gateway answers with the function that routes its connections: what it says is what it does.
Tiers come nearest first; traffic spills to the next one as a tier loses health.

Examples:
  hansa explain checkout.shop
  hansa explain shop/checkout:80 -o json";

/// Arguments of `hansa explain`.
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(crate) struct ExplainArgs {
    /// checkout.shop, shop/checkout or the full DNS name, with :PORT if it has several
    #[arg(value_name = "NAME[:port]")]
    name: Wanted,
}

pub(crate) async fn run(args: &ExplainArgs, context: &Context) -> Result<Exit, Failure> {
    let service = args.name.service.to_string();
    let port = args.name.port.map(|p| p.to_string());
    let mut query = vec![("service", service.as_str())];
    query.extend(port.as_deref().map(|p| ("port", p)));
    let explain: view::Explain = context.client.get(control::EXPLAIN, &query).await?;
    context.output.value(&explain, || render(&explain, context.output.color))?;
    Ok(Exit::Ok)
}

fn render(explain: &view::Explain, color: bool) -> String {
    let mut text = format!("{} from {}\n", clean(&explain.service), clean(&explain.from));
    for gateway in &explain.gateways {
        let panic = if gateway.panic { "; nothing is healthy, so everything is tried" } else { "" };
        // Writing into a String cannot fail.
        let _ = writeln!(text, "\n{}: {}{panic}", clean(&gateway.id), clean(&whither(gateway)));
        text.push_str(&tiers(&gateway.tiers, color));
    }
    text
}

/// Where the most goes, or that several get the same.
fn whither(gateway: &view::GatewayExplain) -> String {
    // A cluster may stand in several tiers.
    let mut shares: BTreeMap<&str, f64> = BTreeMap::new();
    for candidate in gateway.tiers.iter().flat_map(|tier| &tier.candidates) {
        *shares.entry(&candidate.cluster).or_default() += candidate.share;
    }
    let most = shares.values().copied().fold(0.0, f64::max);
    // What is shown as the same percentage is the same to the reader.
    let same = |share: f64| most > 0.0 && percent(share) == percent(most);
    let first: Vec<&str> = shares.iter().filter(|(_, share)| same(**share)).map(|(id, _)| *id).collect();
    match first.as_slice() {
        [] => "goes nowhere".to_owned(),
        [one] => format!("most goes to {one}"),
        several => format!("most goes to {} alike", several.join(" and ")),
    }
}

fn tiers(tiers: &[view::TierExplain], color: bool) -> String {
    let mut table = Table::new(&["TIER", "CLUSTER", "SHARE", "HEALTHY", "REASON", "FOR"]);
    for tier in tiers {
        for candidate in &tier.candidates {
            let tone = if candidate.share > 0.0 { Tone::Good } else { Tone::Dim };
            table.row([
                format!("{} ({})", tier.name, percent(tier.share)).into(),
                Cell::new(candidate.cluster.as_str(), tone),
                percent(candidate.share).into(),
                format!("{:.1}/{}", candidate.healthy, candidate.endpoints).into(),
                (&candidate.reason).into(),
                maybe_ago(candidate.age_seconds).into(),
            ]);
        }
    }
    table.render(color)
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}
