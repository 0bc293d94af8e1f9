//! `up` and `join`: from nothing to the first request across members.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::{CHECKOUT, Context};
use crate::promise::start::{Join, Up};
use crate::report::Verdict;
use crate::spec::MemberId;
use crate::{ledger, probe};

pub(super) async fn up(context: &mut Context<'_>, verdict: &mut Verdict) -> Result<()> {
    let lab = context.lab;
    let seconds = lab.begun.elapsed().as_secs_f64();
    let mut seen = Up { servers: 0, wanted: 4 * lab.spec.members.len(), ready: 0, seconds };
    for member in lab.members() {
        for name in member.gateways().into_iter().chain(["controller", "dns"]) {
            seen.servers += 1;
            let page = member.page(name, "/readyz").await;
            seen.ready += usize::from(page.is_ok_and(|(code, _)| code == 200));
        }
        verdict.show(member.home().join("controller/log.jsonl"));
    }
    context.observed("up", &seen, verdict)?;
    seen.judge(verdict);
    Ok(())
}

pub(super) async fn join(context: &mut Context<'_>, verdict: &mut Verdict) -> Result<()> {
    let lab = context.lab;
    let from = MemberId::Rack1;
    let mut seen = Join { from: from.to_string(), answered: None, first: None, all: None };
    verdict.show(lab.member(from).home().join("controller/log.jsonl"));
    lab.join().await?;
    let (dns, port) = (lab.plan.dns(from), lab.plan.http_port());
    let first = lab
        .member(from)
        .inside(move || async move {
            let end = Instant::now() + Duration::from_secs(30);
            loop {
                let id = probe::fresh_id("join");
                match probe::http(dns, CHECKOUT, port, &id).await {
                    Ok(answer) => return Ok((answer.member, id)),
                    Err(e) if Instant::now() >= end => {
                        return Err(e).context("no cross-member answer in 30 s");
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        })
        .await?;
    let (answered, id) = first;
    let by = MemberId::parse(&answered).map_err(|e| anyhow!(e))?;
    let unserved = ledger::unserved(lab, by, "checkout-1", &[id])?;
    ensure!(unserved == 0, "the first answer is not exactly once in the log of {answered}");
    seen.answered = Some(answered);
    seen.first = Some(lab.begun.elapsed().as_secs_f64());
    lab.connected(Duration::from_secs(20)).await?;
    seen.all = Some(lab.begun.elapsed().as_secs_f64());
    context.joined = true;
    lab.misdirect()?;
    context.observed("join", &seen, verdict)?;
    seen.judge(verdict);
    Ok(())
}
