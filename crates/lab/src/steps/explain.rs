//! `explain`: the answer of `hansa explain` against what then happens.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::Context;
use crate::probe;
use crate::report::Verdict;

/// Requests made to see who answers.
const REQUESTS: usize = 20;

pub(super) async fn judge(context: &mut Context<'_>) -> Result<Verdict> {
    let lab = context.lab;
    let mut verdict = Verdict::default();
    for member in lab.members() {
        let said = member.json(&["explain", "checkout.shop"]).await?;
        let file = lab.folder("load")?.join(format!("explain-{}.json", member.id));
        std::fs::write(&file, serde_json::to_vec_pretty(&said)?)?;
        verdict.show(file);
        let shares = positive(&said);
        let gateways = said["gateways"].as_array().map_or(0, Vec::len);
        verdict.check(
            gateways == member.gateways().len(),
            format!("{}: {gateways} gateways answered", member.id),
        );
        let (dns, port) = (lab.plan.dns(member.id), lab.plan.http_port());
        let answered = member
            .inside(move || async move {
                let mut seen: Vec<String> = Vec::new();
                for _ in 0..REQUESTS {
                    let answer = probe::http(dns, "checkout.shop.svc.clusterset.local", port, "").await?;
                    if !seen.contains(&answer.member) {
                        seen.push(answer.member);
                    }
                }
                Ok(seen)
            })
            .await
            .context("asking checkout.shop")?;
        verdict.check(
            !answered.is_empty() && answered.iter().all(|m| shares.contains(m)),
            format!("{}: explain says {shares:?}, answered by {answered:?}", member.id),
        );
    }
    Ok(verdict)
}

/// The clusters that get a share, according to any gateway.
fn positive(said: &Value) -> Vec<String> {
    let mut clusters: Vec<String> = Vec::new();
    let empty = Vec::new();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    for gateway in said["gateways"].as_array().unwrap_or(&empty) {
        for tier in list(&gateway["tiers"]) {
            for candidate in list(&tier["candidates"]) {
                let share = candidate["share"].as_f64().unwrap_or_default();
                if let (true, Some(cluster)) = (share > 0.0, candidate["cluster"].as_str())
                    && !clusters.iter().any(|c| c == cluster)
                {
                    clusters.push(cluster.to_owned());
                }
            }
        }
    }
    clusters
}
