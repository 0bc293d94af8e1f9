//! `up` and `join`: from nothing to the first request across members.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::Context;
use crate::probe;
use crate::report::Verdict;
use crate::spec::MemberId;

/// From the start of `up`: everything ready, and the first cross-member request answered.
const LIMIT: f64 = 10.0;

pub(super) async fn up(context: &mut Context<'_>) -> Result<Verdict> {
    let lab = context.lab;
    let mut verdict = Verdict::default();
    let took = lab.begun.elapsed().as_secs_f64();
    let (mut servers, mut ready) = (0, 0);
    for member in lab.members() {
        for name in member.gateways().into_iter().chain(["controller", "dns"]) {
            servers += 1;
            ready += i32::from(member.page(name, "/readyz").await.is_ok_and(|(code, _)| code == 200));
        }
        verdict.show(member.home().join("controller/log.jsonl"));
    }
    verdict.check(servers == ready, format!("{ready} of {servers} servers ready"));
    verdict.check(took < LIMIT, format!("after {took:.2} s"));
    let wanted = 4 * lab.spec.members.len();
    verdict.check(usize::try_from(servers) == Ok(wanted), format!("{servers} of {wanted} servers started"));
    Ok(verdict)
}

pub(super) async fn join(context: &mut Context<'_>) -> Result<Verdict> {
    let lab = context.lab;
    let mut verdict = Verdict::default();
    lab.join().await?;
    let (dns, port) = (lab.plan.dns(MemberId::Rack1), lab.plan.http_port());
    let first = lab
        .member(MemberId::Rack1)
        .inside(move || async move {
            let end = Instant::now() + Duration::from_secs(30);
            loop {
                match probe::http(dns, "checkout.shop.svc.clusterset.local", port, "").await {
                    Ok(answer) => return Ok(answer.member),
                    Err(e) if Instant::now() >= end => {
                        return Err(e).context("no cross-member answer in 30 s");
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        })
        .await?;
    let took = lab.begun.elapsed().as_secs_f64();
    verdict.check(took < LIMIT, format!("first answer in rack-1, from {first}, after {took:.2} s"));
    lab.connected(Duration::from_secs(20)).await?;
    context.joined = true;
    let all = lab.begun.elapsed().as_secs_f64();
    verdict.check(true, format!("every member reaches every other after {all:.2} s"));
    Ok(verdict)
}
