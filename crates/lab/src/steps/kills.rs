//! `endpoint-kill`, `gateway-kill`, `controller-kill`: a process dies by SIGKILL under load and comes back.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::Context;
use crate::access::{Ends, Mark};
use crate::config::{Port, Sample, Tuning};
use crate::judge::lines;
use crate::lab::{Fault, Lab, Undone};
use crate::loadrun::{LoadRun, good_new};
use crate::promise::SECOND;
use crate::promise::back::{Back, Reserve};
use crate::promise::kills::{ControllerKill, EndpointKill, GatewayKill};
use crate::report::Verdict;
use crate::serve::Served;
use crate::spec::{Host, LabSpec, MemberId};
use crate::{clock, ledger, probe};

/// How long the load goes on after the fault, before the healing.
const AFTER: Duration = Duration::from_secs(6);
/// How long something may take to carry traffic again: hold-down, ramp, a probe's rhythm, and some seconds.
const BACK: Duration = Duration::from_secs(15);
/// How long the load goes on from then.
const ON: Duration = Duration::from_secs(5);
/// How long a controller is away.
const AWAY: Duration = Duration::from_secs(10);

/// The gateway that a step breaks, left to chance.
pub(super) fn victim(lab: &Lab, purpose: &str, id: MemberId) -> Result<&'static str> {
    let gateways = lab.member(id).gateways();
    lab.spec.choose(purpose, &gateways).copied().with_context(|| format!("{id} has no gateway"))
}

/// The hold-down that is promised, whatever the lab was told to configure, and the requests that reached the
/// sample server of a member, by its own log.
pub(super) fn reserve(lab: &Lab, id: MemberId, pod: &str) -> Result<Reserve> {
    let promised = Tuning::of(&LabSpec::new(&lab.spec.dir, &lab.spec.hansa, lab.mode()));
    let served =
        lines::<Served>(&ledger::request_log(lab, id, pod))?.into_iter().map(|line| line.at).collect();
    Ok(Reserve { hold_down: u64::from(promised.hold_down) * SECOND, served })
}

pub(super) async fn endpoint(context: &mut Context<'_>, verdict: &mut Verdict) -> Result<()> {
    let lab = context.lab;
    let both = [(MemberId::AwsEu, MemberId::GcpEu), (MemberId::GcpEu, MemberId::AwsEu)];
    // Where one has no second copy, the one with the only copy is the one to judge.
    let both = if lab.spec.sabotage.is_empty() { &both[..] } else { &both[..1] };
    let (id, other) = lab.spec.choose("endpoint-kill", both).copied().context("no victim")?;
    let fault = Fault::Process(id, "checkout-1".into());
    let mut run = context.checkout(id, "endpoint-kill").await?;
    verdict.show(run.file());
    verdict.show(lab.member(id).home().join("checkout-1.requests.jsonl"));
    let at = lab.break_(&fault).await?;
    tokio::time::sleep(AFTER).await;
    let undone = lab.heal(&fault).await?;
    let own = |o: &crate::load::Outcome| good_new(o) && o.member.as_deref() == Some(id.as_str());
    let first = run.first(undone.removed, lab.patience(BACK), own).await?;
    tokio::time::sleep(ON).await;
    let records = run.stop().await?;
    context.came_back(&Back {
        what: format!("endpoint {id}/checkout-1"),
        removed: undone.removed,
        ready: undone.ready,
        first_good: first.map(|o| o.ended_ns),
        only_path: false,
        reserve: Some(reserve(lab, id, "checkout-1")?),
        loads: vec![records.clone()],
    });
    let (victim, other) = (id.to_string(), other.to_string());
    EndpointKill { victim, other, at, until: undone.removed, records }.judge(verdict);
    Ok(())
}

pub(super) async fn gateway(context: &mut Context<'_>, verdict: &mut Verdict) -> Result<()> {
    // rack-1 has no copy of its own: every request of its client crosses both gateways.
    for (what, id) in [("local", MemberId::Rack1), ("peer", MemberId::AwsEu)] {
        let lab = context.lab;
        let victim = victim(lab, &format!("gateway-kill {what}"), id)?;
        let fault = Fault::Process(id, victim.into());
        let run = context.checkout(MemberId::Rack1, &format!("gateway-kill-{what}")).await?;
        verdict.show(run.file());
        verdict.show(lab.member(id).home().join(victim).join("log.jsonl"));
        let at = lab.break_(&fault).await?;
        tokio::time::sleep(AFTER).await;
        let back = gateway_back(context, &fault, run).await?;
        if let Some(records) = back.loads.first().cloned() {
            let who = format!("{what} ({id}/{victim})");
            GatewayKill { who, at, until: back.removed, records }.judge(verdict);
        }
        context.came_back(&back);
    }
    Ok(())
}

/// Starts a gateway again under the load and waits until it carries traffic, as its access lines say.
pub(super) async fn gateway_back(context: &Context<'_>, fault: &Fault, run: LoadRun) -> Result<Back> {
    let lab = context.lab;
    let Fault::Process(id, name) = fault else { anyhow::bail!("{fault} is no gateway") };
    let log = Mark::now(lab.member(*id).home().join(name).join("log.jsonl"));
    let Undone { removed, ready } = lab.heal(fault).await?;
    let end = Instant::now() + lab.patience(BACK);
    let mut first_good = None;
    while first_good.is_none() && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let done = Ends::of(&log.since("checkout.")?).count("done") > 0;
        first_good = done.then(clock::now);
    }
    tokio::time::sleep(ON).await;
    let what = format!("gateway {id}/{name}");
    let loads = vec![run.stop().await?];
    Ok(Back { what, removed, ready, first_good, only_path: false, reserve: None, loads })
}

pub(super) async fn controller(context: &mut Context<'_>, verdict: &mut Verdict) -> Result<()> {
    let lab = context.lab;
    let ids = [MemberId::AwsEu, MemberId::GcpEu];
    let id = lab.spec.choose("controller-kill", &ids).copied().context("no victim")?;
    let fault = Fault::Process(id, "controller".into());
    let far = context.checkout(MemberId::Rack1, "controller-kill").await?;
    let local = context.checkout(id, "controller-kill").await?;
    verdict.show(far.file());
    verdict.show(local.file());
    let at = lab.break_(&fault).await?;
    tokio::time::sleep(AWAY).await;
    let sample = meanwhile(context, id);
    lab.member(id).publish(&sample.name, &sample.yaml())?;
    tokio::time::sleep(AWAY).await;
    // Watched from before the restart on: not a moment of it goes uncounted.
    let (undone, known) = futures::join!(lab.heal(&fault), serves(context, &sample, id));
    let (undone, known) = (undone?, known?);
    tokio::time::sleep(ON).await;
    let views = vec![(MemberId::Rack1.to_string(), far.stop().await?), (id.to_string(), local.stop().await?)];
    context.came_back(&Back {
        what: format!("controller {id}"),
        removed: undone.removed,
        ready: undone.ready,
        first_good: known,
        only_path: false,
        reserve: None,
        loads: views.iter().map(|(_, records)| records.clone()).collect(),
    });
    lab.member(id).withdraw(&sample.name)?;
    let Undone { removed: restarted, ready } = undone;
    ControllerKill { victim: id.to_string(), at, restarted, ready, known, views }.judge(verdict);
    Ok(())
}

fn meanwhile(context: &Context<'_>, id: MemberId) -> Sample {
    let plan = &context.lab.plan;
    Sample {
        name: "meanwhile".into(),
        namespace: "shop".into(),
        port: Port { name: "http", port: plan.http_port(), target: 8080, protocol: "TCP" },
        pods: vec![("checkout-1".into(), plan.inside(id, Host::App(1)))],
        headless: false,
    }
}

/// When the service first served in rack-1: the answer is of this member, and in its server's log.
async fn serves(context: &Context<'_>, sample: &Sample, id: MemberId) -> Result<Option<u64>> {
    let (name, port) = (sample.fqdn(), context.lab.plan.http_port());
    let dns = context.lab.plan.dns(MemberId::Rack1);
    let limit = context.lab.patience(BACK);
    let ask = move || async move {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            let request = probe::fresh_id("meanwhile");
            let answer = probe::http(dns, &name, port, &request).await;
            if answer.is_ok_and(|answer| answer.member == id.as_str()) {
                return Ok(Some((clock::now(), request)));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(None)
    };
    let Some((at, request)) = context.lab.member(MemberId::Rack1).inside(ask).await? else {
        return Ok(None);
    };
    let unserved = ledger::unserved(context.lab, id, "checkout-1", &[request])?;
    anyhow::ensure!(
        unserved == 0,
        "the first answer of {} is not exactly once in the log of {id}",
        sample.name
    );
    Ok(Some(at))
}
