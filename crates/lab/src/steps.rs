//! The steps of the demo: each breaks something, observes, and has the judge of its promise say what was kept.
//! `judge_all` runs them in order; after each, whatever it broke is whole again before the next begins.

mod drain;
mod explain;
mod hold;
mod kills;
mod links;
mod names;
mod start;
mod table;
mod traffic;
mod udp;

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::access::Mark;
use crate::lab::{Fault, Lab};
use crate::loadrun::{LoadRun, LoadSpec};
use crate::promise::back::{self, Back, Healed};
use crate::report::{Report, StepReport, Verdict};
use crate::spec::MemberId;

pub use table::{STEPS, Step};

/// Requests per second of every load.
pub const RATE: u32 = 500;
/// The service most steps ask for.
const CHECKOUT: &str = "checkout.shop.svc.clusterset.local";
/// The service that rack-1 alone has.
const CART: &str = "cart.shop.svc.clusterset.local";

/// Steps in which others are served by rack-1, which only dials out.
const RACK: [&str; 3] = ["join", "tcp", "member-cut"];

/// What the steps share.
#[derive(Debug)]
pub struct Context<'a> {
    /// The lab.
    pub lab: &'a Lab,
    /// What came back so far, for the step `heal`.
    pub healed: Vec<Healed>,
    /// Whether the members are joined; without that nothing else can be judged.
    pub joined: bool,
}

impl Context<'_> {
    /// Starts a load on `checkout.shop` and waits until it runs well.
    ///
    /// # Errors
    /// When it does not: then the fault before is not over, or nothing works.
    pub async fn checkout(&self, from: MemberId, tag: &str) -> Result<LoadRun> {
        let mut run = self.load(from, tag)?;
        run.steady(Duration::from_secs(25), 1000).await?;
        Ok(run)
    }

    /// Starts a load on `checkout.shop`.
    fn load(&self, from: MemberId, tag: &str) -> Result<LoadRun> {
        let spec = LoadSpec {
            from,
            name: CHECKOUT.into(),
            port: self.lab.plan.http_port(),
            protocol: "http",
            members: vec![MemberId::AwsEu, MemberId::GcpEu],
            tag: tag.into(),
            rate: RATE,
        };
        LoadRun::start(self.lab, &spec)
    }

    /// Has it judged how something came back.
    fn came_back(&mut self, back: &Back) {
        let healed = back.judge();
        self.lab.say(&format!("     came back: {}: {}", healed.what, healed.seen));
        self.healed.push(healed);
    }

    /// Writes down what a step observed, as evidence.
    fn observed(&self, step: &str, seen: &impl Serialize, verdict: &mut Verdict) -> Result<()> {
        let file = self.lab.folder("evidence")?.join(format!("{step}.json"));
        std::fs::write(&file, serde_json::to_vec_pretty(seen)?).context("evidence")?;
        verdict.show(file);
        Ok(())
    }

    /// Where the logs of a member's gateways stand.
    fn marks(&self, id: MemberId) -> Vec<Mark> {
        let home = self.lab.member(id).home();
        self.lab.member(id).gateways().iter().map(|g| Mark::now(home.join(g).join("log.jsonl"))).collect()
    }

    /// Makes whole what a step left broken, so that the next begins from a sound lab.
    async fn settle(&self) {
        let broken = self.lab.state().broken.clone();
        for name in broken {
            if let Ok(fault) = name.parse::<Fault>()
                && let Err(e) = self.lab.heal(&fault).await
            {
                self.lab.say(&format!("healing {name}: {e:#}"));
            }
        }
        for id in self.lab.spec.members.clone() {
            let names: Vec<String> = match self.lab.state().members.get(id.as_str()) {
                Some(m) => m.processes.keys().chain(m.samples.keys()).cloned().collect(),
                None => continue,
            };
            for name in names {
                let dead = self.lab.proc(id, &name).is_ok_and(|p| !p.alive());
                if dead && let Err(e) = self.lab.heal(&Fault::Process(id, name.clone())).await {
                    self.lab.say(&format!("starting {id}/{name} again: {e:#}"));
                }
            }
        }
    }
}

/// Whether this step id is known.
#[must_use]
pub fn known(id: &str) -> bool {
    STEPS.iter().any(|step| step.id == id)
}

/// The report of a lab that did not even come up.
#[must_use]
pub fn not_up(mode: &str, seed: u64, only: &[String], why: &str) -> Report {
    let steps = wanted(only)
        .map(|step| {
            let seen = if step.id == "up" { why } else { "not judged: the lab is not up" };
            let mut verdict = Verdict::default();
            verdict.check(false, seen);
            report_of(step, verdict)
        })
        .collect();
    Report { mode: mode.into(), seed, ok: false, partial: !only.is_empty(), lacking: None, steps }
}

/// Judges the steps asked for, or all; `up` and `join` always.
pub async fn judge_all(lab: &Lab, only: &[String]) -> Report {
    let mut context = Context { lab, healed: Vec::new(), joined: false };
    let mut steps: Vec<StepReport> = Vec::new();
    for step in wanted(only) {
        lab.say(&format!("step {}: {}", step.id, step.promise));
        let mut verdict = Verdict::default();
        if context.joined || matches!(step.id, "up" | "join") {
            if let Err(e) = run(step.id, &mut context, &mut verdict).await {
                verdict.check(false, format!("{e:#}"));
            }
            verdict.check_evidence();
            if let (true, Some(what)) = (RACK.contains(&step.id), &lab.state().lacking) {
                verdict.check(true, what);
            }
        } else {
            verdict.check(false, "not judged: the members are not joined");
        }
        let report = report_of(step, verdict);
        lab.say(&format!("     {}: {}", if report.ok { "kept" } else { "BROKEN" }, report.seen));
        steps.push(report);
        if context.joined && !lab.spec.has(crate::spec::Sabotage::NoHeal) {
            context.settle().await;
        }
    }
    let ok = steps.iter().all(|s| s.ok);
    let lacking = lab.state().lacking.clone();
    let (mode, seed) = (lab.mode().as_str().into(), lab.spec.seed);
    Report { mode, seed, ok, partial: !only.is_empty(), lacking, steps }
}

fn wanted(only: &[String]) -> impl Iterator<Item = &'static Step> {
    STEPS
        .iter()
        .filter(move |s| only.is_empty() || matches!(s.id, "up" | "join") || only.iter().any(|o| o == s.id))
}

fn report_of(step: &Step, verdict: Verdict) -> StepReport {
    StepReport {
        id: step.id.into(),
        promise: step.promise.into(),
        limit: step.limit.into(),
        seen: verdict.text(),
        ok: verdict.kept(),
        evidence: verdict.evidence,
    }
}

async fn run(id: &str, context: &mut Context<'_>, verdict: &mut Verdict) -> Result<()> {
    match id {
        "up" => start::up(context, verdict).await,
        "join" => start::join(context, verdict).await,
        "names" => names::observe(context, verdict).await,
        "http" => traffic::http(context, verdict).await,
        "tcp" => traffic::tcp(context, verdict).await,
        "udp" => udp::observe(context, verdict).await,
        "headless" => traffic::headless(context, verdict).await,
        "explain" => explain::observe(context, verdict).await,
        "endpoint-kill" => kills::endpoint(context, verdict).await,
        "gateway-kill" => kills::gateway(context, verdict).await,
        "gateway-drain" => drain::observe(context, verdict).await,
        "controller-kill" => kills::controller(context, verdict).await,
        "member-cut" => links::member_cut(context, verdict).await,
        "udp-block" => links::udp_block(context, verdict).await,
        "udp-return" => links::udp_return(context, verdict).await,
        _ => heal(context, verdict).await,
    }
}

/// Sums up how everything came back. Asked for alone, it breaks something first.
async fn heal(context: &mut Context<'_>, verdict: &mut Verdict) -> Result<()> {
    if context.healed.is_empty() {
        let mut apart = Verdict::default();
        kills::endpoint(context, &mut apart).await?;
        links::member_cut(context, &mut apart).await?;
        context.settle().await;
    }
    context.observed("heal", &context.healed, verdict)?;
    back::sum(&context.healed, verdict);
    Ok(())
}
