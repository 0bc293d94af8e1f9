//! `member-cut`, `udp-block`, `udp-return`: packets vanish between members, and pass again.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{CART, Context, kills};
use crate::access::{Ends, Mark};
use crate::clock;
use crate::lab::Fault;
use crate::loadrun::{LoadRun, LoadSpec, good_new};
use crate::promise::back::Back;
use crate::promise::links::{Ended, OnlyCopy, TwoCopies, UdpBlock, UdpReturn, Unreachable};
use crate::report::Verdict;
use crate::spec::MemberId;

/// How long a member stays cut off.
const CUT: Duration = Duration::from_secs(10);
/// How long the load goes on without UDP.
const WATCHED: Duration = Duration::from_secs(8);
/// How long something may take to carry traffic again.
const BACK: Duration = Duration::from_secs(25);
/// How long the load goes on from then.
const ON: Duration = Duration::from_secs(5);

pub(super) async fn member_cut(context: &mut Context<'_>, verdict: &mut Verdict) -> Result<()> {
    two_copies(context, verdict).await?;
    only_copy(context, verdict).await
}

/// What is on a dead path is to end so soon after the fault.
const SOON: Duration = Duration::from_secs(5);

/// Sleeps until so long after a moment.
async fn until(at: u64, after: Duration) {
    tokio::time::sleep(after.saturating_sub(Duration::from_nanos(clock::now().saturating_sub(at)))).await;
}

/// How a member's gateways had ended connections five seconds after the fault.
async fn ends_soon(marks: &[Mark], name: &str, at: u64) -> Result<Ends> {
    until(at, SOON).await;
    ends(marks, name)
}

/// How a member's gateways ended connections since.
fn ends(marks: &[Mark], name: &str) -> Result<Ends> {
    let mut lines = Vec::new();
    for mark in marks {
        lines.extend(mark.since(name)?);
    }
    Ok(Ends::of(&lines))
}

/// aws-eu is cut off; rack-1 goes on with gcp-eu.
async fn two_copies(context: &mut Context<'_>, verdict: &mut Verdict) -> Result<()> {
    let lab = context.lab;
    let (from, lost) = (MemberId::Rack1, MemberId::AwsEu);
    let fault = Fault::Member(lost);
    let mut run = context.checkout(from, "member-cut").await?;
    let marks = context.marks(from);
    verdict.show(run.file());
    marks.iter().for_each(|mark| verdict.show(mark.file()));
    let at = lab.break_(&fault).await?;
    let seen = futures::join!(unreachable(context, from, lost, at), ends_soon(&marks, "checkout.", at));
    let (status, soon) = (seen.0?, seen.1?);
    context.observed("member-cut-status", &status, verdict)?;
    until(at, CUT).await;
    let ends = Ended { soon, all: ends(&marks, "checkout.")? };
    let undone = lab.heal(&fault).await?;
    let own = |o: &crate::load::Outcome| good_new(o) && o.member.as_deref() == Some(lost.as_str());
    let first = run.first(undone.removed, lab.patience(BACK), own).await?;
    tokio::time::sleep(ON).await;
    let records = run.stop().await?;
    context.came_back(&Back {
        what: format!("member {lost}"),
        removed: undone.removed,
        ready: undone.ready,
        first_good: first.map(|o| o.ended_ns),
        only_path: false,
        reserve: Some(kills::reserve(lab, lost, "checkout-1")?),
        loads: vec![records.clone()],
    });
    TwoCopies { status, at, until: undone.removed, records, ends }.judge(verdict);
    Ok(())
}

/// rack-1, the only holder of `cart.shop`, is cut off; gcp-eu asks for it.
async fn only_copy(context: &mut Context<'_>, verdict: &mut Verdict) -> Result<()> {
    let lab = context.lab;
    let (from, lost) = (MemberId::GcpEu, MemberId::Rack1);
    let fault = Fault::Member(lost);
    let spec = LoadSpec {
        from,
        name: CART.into(),
        port: 6379,
        protocol: "redis",
        members: Vec::new(),
        tag: "member-cut-only".into(),
        rate: super::RATE,
    };
    let mut run = LoadRun::start(lab, &spec)?;
    run.steady(Duration::from_secs(25), 1000).await?;
    let marks = context.marks(from);
    verdict.show(run.file());
    marks.iter().for_each(|mark| verdict.show(mark.file()));
    let at = lab.break_(&fault).await?;
    let seen = futures::join!(unreachable(context, from, lost, at), ends_soon(&marks, "cart.", at));
    let (status, soon) = (seen.0?, seen.1?);
    context.observed("member-cut-only-status", &status, verdict)?;
    until(at, CUT).await;
    let ends = Ended { soon, all: ends(&marks, "cart.")? };
    let undone = lab.heal(&fault).await?;
    let first = run.first(undone.removed, lab.patience(BACK), good_new).await?;
    tokio::time::sleep(ON).await;
    let records = run.stop().await?;
    context.came_back(&Back {
        what: format!("member {lost}, the only path to cart.shop"),
        removed: undone.removed,
        ready: undone.ready,
        first_good: first.map(|o| o.ended_ns),
        only_path: true,
        reserve: None,
        loads: vec![records.clone()],
    });
    OnlyCopy { status, at, until: undone.removed, records, ends }.judge(verdict);
    Ok(())
}

/// Waits until status says `unreachable`, and how long ago it heard of the peer.
async fn unreachable(context: &Context<'_>, from: MemberId, peer: MemberId, at: u64) -> Result<Unreachable> {
    let member = context.lab.member(from);
    let end = Instant::now() + Duration::from_secs(12);
    let mut seen = Unreachable {
        from: from.to_string(),
        peer: peer.to_string(),
        seconds: None,
        age: None,
        reach: "not listed".into(),
    };
    while Instant::now() < end {
        if let Some(found) = member.status().await?.peer(peer) {
            seen.reach = found.reach.clone();
            if found.reach == "unreachable" {
                seen.seconds = Some(clock::seconds(at, clock::now()));
                seen.age = found.reach_age_seconds;
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(seen)
}

pub(super) async fn udp_block(context: &mut Context<'_>, verdict: &mut Verdict) -> Result<()> {
    let lab = context.lab;
    let run = context.checkout(MemberId::Rack1, "udp-block").await?;
    let marks = context.marks(MemberId::Rack1);
    verdict.show(run.file());
    marks.iter().for_each(|mark| verdict.show(mark.file()));
    // A fault before may have moved streams to TCP; they are back before this one is judged.
    let on_quic = over(context, "quic", Duration::from_secs(35)).await?.is_some();
    let at = lab.break_(&Fault::Udp).await?;
    let before = lab.counter("tunnel_udp").await?;
    let soon = ends_soon(&marks, "checkout.", at).await?;
    until(at, WATCHED).await;
    let passed = lab.counter("tunnel_udp").await?.packets - before.packets;
    let over = transports(context, MemberId::Rack1).await?;
    let until = clock::now();
    let records = run.stop().await?;
    let ends = Ended { soon, all: ends(&marks, "checkout.")? };
    context.observed("udp-block", &(&over, &ends), verdict)?;
    UdpBlock { on_quic, passed, over, at, until, records, ends }.judge(verdict);
    Ok(())
}

pub(super) async fn udp_return(context: &mut Context<'_>, verdict: &mut Verdict) -> Result<()> {
    let lab = context.lab;
    if !lab.state().broken.contains(&Fault::Udp.to_string()) {
        lab.break_(&Fault::Udp).await?;
    }
    let on_http2 = over(context, "http2", Duration::from_secs(20)).await?.is_some();
    let dropped = lab.counter("blocked").await?.packets;
    let run = context.checkout(MemberId::Rack1, "udp-return").await?;
    verdict.show(run.file());
    let passed = lab.counter("tunnel_udp").await?.packets;
    let undone = lab.heal(&Fault::Udp).await?;
    let back = over(context, "quic", lab.patience(Duration::from_secs(35))).await?;
    let passed = lab.counter("tunnel_udp").await?.packets - passed;
    tokio::time::sleep(ON).await;
    let records = run.stop().await?;
    let seconds = back.map(|t| clock::seconds(undone.ready, t));
    context.came_back(&Back {
        what: "UDP between members".into(),
        removed: undone.removed,
        ready: undone.ready,
        first_good: back,
        only_path: false,
        reserve: None,
        loads: vec![records.clone()],
    });
    UdpReturn { on_http2, dropped, healed: undone.removed, seconds, passed, records }.judge(verdict);
    Ok(())
}

/// Waits until new streams to every peer of rack-1 go over this transport; when they did.
async fn over(context: &Context<'_>, transport: &str, limit: Duration) -> Result<Option<u64>> {
    let end = Instant::now() + limit;
    while Instant::now() < end {
        let list = transports(context, MemberId::Rack1).await?;
        if !list.is_empty() && list.iter().all(|t| t == transport) {
            return Ok(Some(clock::now()));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(None)
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
