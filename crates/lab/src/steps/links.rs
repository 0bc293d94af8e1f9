//! `member-cut`, `udp-block`, `udp-return`: packets vanish between members, and pass again.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::kills::once;
use super::{Context, SECOND};
use crate::clock;
use crate::judge::Records;
use crate::lab::Fault;
use crate::loadrun::{LoadRun, LoadSpec, good_new};
use crate::report::Verdict;
use crate::spec::MemberId;

/// How long a member stays cut off.
const CUT: Duration = Duration::from_secs(10);

pub(super) async fn member_cut(context: &mut Context<'_>) -> Result<Verdict> {
    let mut verdict = Verdict::default();
    two_copies(context, &mut verdict).await?;
    only_copy(context, &mut verdict).await?;
    Ok(verdict)
}

/// aws-eu is cut off; rack-1 goes on with gcp-eu.
async fn two_copies(context: &mut Context<'_>, verdict: &mut Verdict) -> Result<()> {
    let lab = context.lab;
    let fault = Fault::Member(MemberId::AwsEu);
    let mut run = context.checkout(MemberId::Rack1, "member-cut").await?;
    verdict.show(run.file());
    let at = lab.break_(&fault).await?;
    unreachable(context, MemberId::Rack1, MemberId::AwsEu, (at, verdict)).await?;
    let rest = CUT.saturating_sub(Duration::from_nanos(clock::now().saturating_sub(at)));
    tokio::time::sleep(rest).await;
    let healed = lab.heal(&fault).await?;
    let back = run
        .first(healed, Duration::from_secs(25), |o| good_new(o) && o.member.as_deref() == Some("aws-eu"))
        .await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let records = run.stop().await?;
    let late = records.new_between(at + 2 * SECOND, healed);
    let last = records.last_new_failure(at).map_or(0.0, |t| clock::seconds(at, t));
    verdict.check(
        late.clean(),
        format!("rack-1 without aws-eu: new from 2 s on {}; last failure at {last:.2} s", late.text()),
    );
    ended_in_time(verdict, &records, at, healed);
    once(verdict, &records, (at + 2 * SECOND, healed));
    let after = records.new_between(healed, u64::MAX);
    let seen = match &back {
        Some(o) => {
            format!("traffic again after {:.2} s, {}", clock::seconds(healed, o.intended_ns), after.text())
        }
        None => format!("no traffic again within 25 s, {}", after.text()),
    };
    context.came_back("member aws-eu", back.is_some() && after.clean(), seen);
    Ok(())
}

/// rack-1, the only holder of `cart.shop`, is cut off; gcp-eu asks for it.
async fn only_copy(context: &mut Context<'_>, verdict: &mut Verdict) -> Result<()> {
    let lab = context.lab;
    let fault = Fault::Member(MemberId::Rack1);
    let spec = LoadSpec {
        from: MemberId::GcpEu,
        name: "cart.shop.svc.clusterset.local".into(),
        port: 6379,
        protocol: "redis",
        members: Vec::new(),
        tag: "member-cut-only".into(),
        rate: super::RATE,
    };
    let mut run = LoadRun::start(lab, &spec)?;
    run.steady(Duration::from_secs(25), 1000).await?;
    verdict.show(run.file());
    let at = lab.break_(&fault).await?;
    unreachable(context, MemberId::GcpEu, MemberId::Rack1, (at, verdict)).await?;
    let rest = CUT.saturating_sub(Duration::from_nanos(clock::now().saturating_sub(at)));
    tokio::time::sleep(rest).await;
    let healed = lab.heal(&fault).await?;
    let back = run.first(healed, Duration::from_secs(25), good_new).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let records = run.stop().await?;
    ended_in_time(verdict, &records, at, healed);
    let Some(back) = back else {
        context.came_back("member rack-1, the only path to cart.shop", false, "no good answer within 25 s");
        return Ok(());
    };
    let took = clock::seconds(healed, back.ended_ns);
    let after = records.new_between(back.ended_ns, u64::MAX);
    let last = records.last_new_failure(healed).map_or(0.0, |t| clock::seconds(healed, t));
    let seen =
        format!("first good answer after {took:.2} s, then {}, last begun at {last:.2} s", after.text());
    context.came_back("member rack-1, the only path to cart.shop", took < 1.0 && after.clean(), seen);
    Ok(())
}

/// Within 5 s of the cut, status says `unreachable` and how long ago it heard of the peer.
async fn unreachable(
    context: &Context<'_>,
    from: MemberId,
    peer: MemberId,
    (at, verdict): (u64, &mut Verdict),
) -> Result<()> {
    let member = context.lab.member(from);
    let end = Instant::now() + Duration::from_secs(12);
    loop {
        let status = member.status().await?;
        let seen = status.peer(peer).cloned();
        let took = clock::seconds(at, clock::now());
        match seen {
            Some(p) if p.reach == "unreachable" => {
                let age = p.reach_age_seconds;
                verdict.check(
                    took < 5.0 && age.is_some_and(|a| a > 0.0 && a < took + 3.0),
                    format!("status in {from}: {peer} unreachable after {took:.2} s, age {age:?}"),
                );
                return Ok(());
            }
            other if Instant::now() >= end => {
                let reach = other.map_or_else(|| "not listed".to_owned(), |p| p.reach);
                verdict
                    .check(false, format!("status in {from} still says {peer} is {reach} after {took:.1} s"));
                return Ok(());
            }
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Requests under way on a dead path end with an error within 5 s of the fault.
fn ended_in_time(verdict: &mut Verdict, records: &Records, at: u64, until: u64) {
    let before = |o: &&crate::load::Outcome| {
        !o.ok && o.conn != 0 && o.intended_ns < at + SECOND / 10 && o.ended_ns > at
    };
    let latest = records
        .outcomes
        .iter()
        .filter(before)
        .filter(|o| o.intended_ns < until)
        .map(|o| clock::seconds(at, o.ended_ns))
        .fold(0.0, f64::max);
    verdict.check(latest < 5.0, format!("the last connection on the dead path ended after {latest:.2} s"));
}

pub(super) async fn udp_block(context: &mut Context<'_>) -> Result<Verdict> {
    let lab = context.lab;
    let mut verdict = Verdict::default();
    let run = context.checkout(MemberId::Rack1, "udp-block").await?;
    verdict.show(run.file());
    // A fault before may have moved streams to TCP; they are back before this one is judged.
    let returned = over(context, "quic", Duration::from_secs(35)).await?;
    verdict.check(returned, if returned { "before: on QUIC" } else { "before: not on QUIC after 35 s" });
    let at = lab.break_(&Fault::Udp).await?;
    let passed = lab.counter("tunnel_udp").await?;
    tokio::time::sleep(Duration::from_secs(8)).await;
    let still = lab.counter("tunnel_udp").await?;
    verdict.check(passed == still, "no UDP passed");
    let after = transports(context, MemberId::Rack1).await?;
    verdict.check(after.iter().all(|t| t == "http2"), format!("then over {}", after.join(", ")));
    let until = clock::now();
    let records = run.stop().await?;
    let late = records.new_between(at + SECOND, until);
    let last = records.last_new_failure(at).map_or(0.0, |t| clock::seconds(at, t));
    verdict.check(late.clean(), format!("new from 1 s on {}; last failure at {last:.2} s", late.text()));
    ended_in_time(&mut verdict, &records, at, until);
    once(&mut verdict, &records, (at + SECOND, until));
    Ok(verdict)
}

pub(super) async fn udp_return(context: &mut Context<'_>) -> Result<Verdict> {
    let lab = context.lab;
    let mut verdict = Verdict::default();
    if !lab.state().broken.contains(&Fault::Udp.to_string()) {
        lab.break_(&Fault::Udp).await?;
    }
    over(context, "http2", Duration::from_secs(20)).await?;
    let run = context.checkout(MemberId::Rack1, "udp-return").await?;
    verdict.show(run.file());
    let healed = lab.heal(&Fault::Udp).await?;
    let back = over(context, "quic", Duration::from_secs(40)).await?;
    let returned = back.then(|| clock::seconds(healed, clock::now()));
    tokio::time::sleep(Duration::from_secs(3)).await;
    let records = run.stop().await?;
    let (new, kept) = (records.new_between(healed, u64::MAX), records.kept_between(healed, u64::MAX));
    verdict.check(
        returned.is_some_and(|t| t < 30.0),
        returned.map_or_else(|| "not on QUIC after 40 s".into(), |t| format!("on QUIC again after {t:.1} s")),
    );
    verdict.check(new.clean() && kept.clean(), format!("new {}, kept {}", new.text(), kept.text()));
    context.came_back("UDP between members", new.clean() && kept.clean(), new.text());
    Ok(verdict)
}

/// Waits until new streams to every peer of rack-1 go over this transport; whether they did.
async fn over(context: &Context<'_>, transport: &str, limit: Duration) -> Result<bool> {
    let end = Instant::now() + limit;
    loop {
        if transports(context, MemberId::Rack1).await?.iter().all(|t| t == transport) {
            return Ok(true);
        }
        if Instant::now() >= end {
            return Ok(false);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// What new streams to each peer go over, as status says.
async fn transports(context: &Context<'_>, from: MemberId) -> Result<Vec<String>> {
    let status = context.lab.member(from).status().await.context("status")?;
    Ok(status
        .peers
        .iter()
        .map(|p| p.transport.as_str().map_or_else(|| p.transport.to_string(), str::to_owned))
        .collect())
}
