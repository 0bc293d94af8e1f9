//! `gateway-drain`: SIGTERM to a local gateway, then to a peer's, under load of connections that are shorter
//! than the deadline, and with some that are longer.

use std::time::Duration;

use anyhow::Result;

use super::hold::Holding;
use super::{Context, kills};
use crate::access::{Ends, Mark};
use crate::clock;
use crate::config::Tuning;
use crate::lab::Fault;
use crate::promise::drain::Drain;
use crate::report::Verdict;
use crate::spec::{LabSpec, MemberId};

/// The configured deadline, and some seconds for the end of the process.
const GONE: Duration = Duration::from_secs(45);

pub(super) async fn observe(context: &mut Context<'_>, verdict: &mut Verdict) -> Result<()> {
    // A peer's gateway is one of four ways, drawn for each: of so many connections some go through it.
    for (what, id, each) in [("local", MemberId::Rack1, 2), ("peer", MemberId::AwsEu, 40)] {
        one(context, verdict, (what, id, each)).await?;
    }
    Ok(())
}

async fn one(
    context: &mut Context<'_>,
    verdict: &mut Verdict,
    (what, id, each): (&str, MemberId, usize),
) -> Result<()> {
    let lab = context.lab;
    let victim = kills::victim(lab, &format!("gateway-drain {what}"), id)?;
    let run = context.checkout(MemberId::Rack1, &format!("gateway-drain-{what}")).await?;
    verdict.show(run.file());
    let holding = Holding::start(&lab.member(MemberId::Rack1), each).await?;
    let proc = lab.proc(id, victim)?;
    let log = Mark::now(lab.member(id).home().join(victim).join("log.jsonl"));
    verdict.show(log.file());
    let (at, confirmed) = lab.drain(id, victim).await?;
    let ended = proc.gone(GONE).await.is_ok().then(clock::now);
    tokio::time::sleep(Duration::from_secs(4)).await;
    let held = holding.stop().await?;
    let coded = Ends::of(&log.since("checkout.")?).coded("drain_deadline");
    let until = clock::now();
    if ended.is_none() {
        proc.kill().await?;
    }
    let mut back = kills::gateway_back(context, &Fault::Process(id, victim.into()), run).await?;
    back.what = format!("drained {}", back.what);
    let Some(records) = back.loads.first().cloned() else { return Ok(()) };
    context.observed(&format!("gateway-drain-{what}"), &held, verdict)?;
    // What the promise says, whatever the lab was told to configure.
    let promised = Tuning::of(&LabSpec::new(&lab.spec.dir, &lab.spec.hansa, lab.mode()));
    let seen = Drain {
        who: format!("{what} ({id}/{victim})"),
        deadline: promised.drain.into(),
        at,
        confirmed,
        ended,
        until,
        records,
        held,
        coded,
    };
    seen.judge(verdict);
    context.came_back(&back);
    Ok(())
}
