//! `endpoint-kill`, `gateway-kill`, `controller-kill`: a process dies by SIGKILL under load and comes back.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Context, SECOND};
use crate::config::{Port, Sample};
use crate::judge::Records;
use crate::lab::Fault;
use crate::loadrun::good_new;
use crate::report::Verdict;
use crate::spec::{Host, MemberId};
use crate::{clock, probe};

/// How long the load goes on after the fault, before the healing.
const AFTER: Duration = Duration::from_secs(6);
/// How long the load goes on after the healing: hold-down, ramp and some seconds.
const BACK: Duration = Duration::from_secs(10);

pub(super) async fn endpoint(context: &mut Context<'_>) -> Result<Verdict> {
    let lab = context.lab;
    let mut verdict = Verdict::default();
    let fault = Fault::Process(MemberId::AwsEu, "checkout-1".into());
    let mut run = context.checkout(MemberId::AwsEu, "endpoint-kill").await?;
    verdict.show(run.file());
    let at = lab.break_(&fault).await?;
    tokio::time::sleep(AFTER).await;
    let healed = lab.heal(&fault).await?;
    let back = run.first(healed, BACK * 2, |o| good_new(o) && o.member.as_deref() == Some("aws-eu")).await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let records = run.stop().await?;
    let new = records.new_between(at, healed);
    verdict.check(new.clean(), format!("after the kill: {}", new.text()));
    verdict.check(new.only(&["gcp-eu"]), format!("answered by {:?}", new.members));
    once(&mut verdict, &records, (at + SECOND, healed));
    let after = records.new_between(healed, u64::MAX);
    let seen = match &back {
        Some(o) => {
            format!("traffic again after {:.2} s, {}", clock::seconds(healed, o.intended_ns), after.text())
        }
        None => format!("no traffic again within {} s, {}", (BACK * 2).as_secs(), after.text()),
    };
    context.came_back("endpoint aws-eu/checkout-1", back.is_some() && after.clean(), seen);
    Ok(verdict)
}

pub(super) async fn gateway(context: &mut Context<'_>) -> Result<Verdict> {
    let mut verdict = Verdict::default();
    // rack-1 has no copy of its own: every request of its client crosses both gateways.
    for (what, id) in [("local", MemberId::Rack1), ("peer's", MemberId::AwsEu)] {
        let tag = format!("gateway-kill-{}", if id == MemberId::Rack1 { "local" } else { "peer" });
        let lab = context.lab;
        let fault = Fault::Process(id, "gateway-1".into());
        let run = context.checkout(MemberId::Rack1, &tag).await?;
        verdict.show(run.file());
        let at = lab.break_(&fault).await?;
        tokio::time::sleep(AFTER).await;
        let broken_until = clock::now();
        let ready = lab.heal(&fault).await?;
        tokio::time::sleep(BACK).await;
        let records = run.stop().await?;
        let late = records.new_between(at + SECOND, broken_until);
        let early = records.new_between(at, at + SECOND);
        let last = records.last_new_failure(at).map_or(0.0, |t| clock::seconds(at, t));
        verdict.check(
            late.clean(),
            format!(
                "{what} ({id}): new from 1 s on {}; before {}; last failure at {last:.2} s",
                late.text(),
                early.text()
            ),
        );
        once(&mut verdict, &records, (at + SECOND, broken_until));
        let after = records.new_between(broken_until, u64::MAX);
        let seen = format!("ready after {:.2} s, {}", clock::seconds(broken_until, ready), after.text());
        context.came_back(format!("gateway {id}/gateway-1"), after.clean(), seen);
    }
    Ok(verdict)
}

/// A kept connection fails once at most and is replaced at once: among requests meant to start within `late`
/// none fails. Nothing is delivered twice.
pub(super) fn once(verdict: &mut Verdict, records: &Records, late: (u64, u64)) {
    let most = records.most_failures_of_a_connection();
    let repeated = records.repeated();
    let kept = records.kept_between(late.0, late.1);
    verdict.check(
        most <= 1 && kept.clean(),
        format!("kept connections failed {most} time(s) at most, later {}", kept.text()),
    );
    verdict.check(repeated == 0, format!("{repeated} requests served twice"));
}

pub(super) async fn controller(context: &mut Context<'_>) -> Result<Verdict> {
    let lab = context.lab;
    let mut verdict = Verdict::default();
    let fault = Fault::Process(MemberId::AwsEu, "controller".into());
    let run = context.checkout(MemberId::Rack1, "controller-kill").await?;
    let local = context.checkout(MemberId::AwsEu, "controller-kill").await?;
    verdict.show(run.file());
    verdict.show(local.file());
    let at = lab.break_(&fault).await?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let sample = meanwhile(context);
    lab.member(MemberId::AwsEu).publish(&sample.name, &sample.yaml())?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let healed = lab.heal(&fault).await?;
    let known = serves(context, &sample).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    for (id, run) in [(MemberId::Rack1, run), (MemberId::AwsEu, local)] {
        let records = run.stop().await?;
        let (new, kept) = (records.new_between(at, healed), records.kept_between(at, healed));
        verdict.check(
            new.clean() && kept.clean(),
            format!(
                "{id}, {:.0} s without aws-eu's controller: new {}, kept {}",
                clock::seconds(at, healed),
                new.text(),
                kept.text()
            ),
        );
        let after = records.new_between(healed, u64::MAX);
        context.came_back(format!("controller aws-eu, seen from {id}"), after.clean(), after.text());
    }
    let took = known.map(|at| clock::seconds(healed, at));
    let seen = took.map_or_else(|| "not within 30 s".into(), |t| format!("{t:.2} s"));
    verdict.check(
        took.is_some_and(|t| t < 2.0),
        format!("an export made meanwhile serves in rack-1 {seen} after the return"),
    );
    lab.member(MemberId::AwsEu).withdraw(&sample.name)?;
    Ok(verdict)
}

fn meanwhile(context: &Context<'_>) -> Sample {
    let plan = &context.lab.plan;
    Sample {
        name: "meanwhile".into(),
        namespace: "shop".into(),
        port: Port { name: "http", port: plan.http_port(), target: 8080, protocol: "TCP" },
        pods: vec![("checkout-1".into(), plan.inside(MemberId::AwsEu, Host::App(1)))],
        headless: false,
    }
}

/// When the service first served in rack-1.
async fn serves(context: &Context<'_>, sample: &Sample) -> Result<Option<u64>> {
    let (name, port) = (sample.fqdn(), context.lab.plan.http_port());
    let dns = context.lab.plan.dns(MemberId::Rack1);
    context
        .lab
        .member(MemberId::Rack1)
        .inside(move || async move {
            let end = Instant::now() + Duration::from_secs(30);
            loop {
                match probe::http(dns, &name, port, "").await {
                    Ok(_) => return Ok(Some(clock::now())),
                    Err(_) if Instant::now() >= end => return Ok(None),

                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        })
        .await
}
