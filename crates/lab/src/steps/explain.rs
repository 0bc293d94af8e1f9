//! `explain`: the answer of `hansa explain` against what then happens.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow, ensure};
use serde_json::Value;

use super::{CHECKOUT, Context};
use crate::lab::Lab;
use crate::promise::calm::Explain;
use crate::report::Verdict;
use crate::spec::MemberId;
use crate::{ledger, probe};

/// Requests made to see who answers.
const REQUESTS: usize = 20;

pub(super) async fn observe(context: &mut Context<'_>, verdict: &mut Verdict) -> Result<()> {
    let lab = context.lab;
    let mut all = Vec::new();
    for member in lab.members() {
        let said = member.json(&["explain", "checkout.shop"]).await?;
        let file = lab.folder("evidence")?.join(format!("explain-{}.json", member.id));
        std::fs::write(&file, serde_json::to_vec_pretty(&said)?)?;
        verdict.show(file);
        let (dns, port) = (lab.plan.dns(member.id), lab.plan.http_port());
        let answered = member
            .inside(move || async move {
                let mut seen = BTreeMap::<String, Vec<String>>::new();
                for _ in 0..REQUESTS {
                    let id = probe::fresh_id("explain");
                    let answer = probe::http(dns, CHECKOUT, port, &id).await?;
                    seen.entry(answer.member).or_default().push(id);
                }
                Ok(seen)
            })
            .await
            .and_then(|seen| served(lab, seen));
        all.push(Explain {
            from: member.id.to_string(),
            gateways: member.gateways().len(),
            explained: said["gateways"].as_array().map_or(0, Vec::len),
            shares: positive(&said),
            answered: answered.map_err(|e| format!("{e:#}")),
        });
    }
    context.observed("explain", &all, verdict)?;
    all.iter().for_each(|seen| seen.judge(verdict));
    Ok(())
}

/// The members that answered, each of whose answers is in its server's log.
fn served(lab: &Lab, seen: BTreeMap<String, Vec<String>>) -> Result<Vec<String>> {
    for (member, ids) in &seen {
        let id = MemberId::parse(member).map_err(|e| anyhow!(e))?;
        let unserved = ledger::unserved(lab, id, "checkout-1", ids)?;
        ensure!(unserved == 0, "{unserved} answers of {member} are not exactly once in its log");
    }
    Ok(seen.into_keys().collect())
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
