//! The steps of the demo: what each promises, and who judges it.
//! `judge_all` runs them in order; after each, whatever it broke is whole again before the next begins.

mod drain;
mod explain;
mod kills;
mod links;
mod names;
mod start;
mod traffic;
mod udp;

use std::time::Duration;

use anyhow::Result;

use crate::lab::{Fault, Lab};
use crate::loadrun::{LoadRun, LoadSpec};
use crate::report::{Report, StepReport, Verdict};
use crate::spec::MemberId;

/// Requests per second of every load.
pub const RATE: u32 = 500;
/// Nanoseconds in a second.
pub(crate) const SECOND: u64 = 1_000_000_000;

/// A step's fixed part.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Its id, part of the report's contract.
    pub id: &'static str,
    /// What is promised.
    pub promise: &'static str,
    /// The limit.
    pub limit: &'static str,
}

/// All steps, in the order in which they are judged.
pub const STEPS: &[Step] = &[
    Step {
        id: "up",
        promise: "three members, each with a controller, two gateways and DNS, are ready",
        limit: "10 s",
    },
    Step {
        id: "join",
        promise: "all pairs join by invitation; first cross-member request answered, counted from the start of up",
        limit: "10 s",
    },
    Step {
        id: "names",
        promise: "a new export answers by name and serves in both other members; 1,000 at once; a removed one is NXDOMAIN",
        limit: "1 s; 5 s; 1 s",
    },
    Step {
        id: "http",
        promise: "500 requests/s by name from every member: none fails, the nearest copy answers",
        limit: "0 failed",
    },
    Step {
        id: "tcp",
        promise: "Redis with its stock client by name from every member, values of 1 MiB unchanged",
        limit: "0 failed",
    },
    Step {
        id: "udp",
        promise: "1,000 datagrams at 200/s of 1, 512, 1,200 bytes and the tunnel's maximum, 50 clients, echoed unchanged to the right port; larger ones dropped and counted; over HTTP/2 up to 65,507 bytes",
        limit: "all",
    },
    Step {
        id: "headless",
        promise: "each named pod of a headless service answers by its own name in every member",
        limit: "all",
    },
    Step { id: "explain", promise: "explain names the member that then answers", limit: "all members" },
    Step {
        id: "endpoint-kill",
        promise: "a sample server is killed while another member has the service: no connection begun after it fails",
        limit: "0 failed",
    },
    Step {
        id: "gateway-kill",
        promise: "a gateway is killed, a local one, then a peer's: kept connections through it fail once, new ones are good",
        limit: "1 s",
    },
    Step {
        id: "gateway-drain",
        promise: "a gateway drains with a deadline of 30 s: connections shorter than that do not fail",
        limit: "0 failed",
    },
    Step {
        id: "controller-kill",
        promise: "a controller is gone for 20 s: nothing fails, names answer, an export made meanwhile is known after its return",
        limit: "0 failed; 2 s",
    },
    Step {
        id: "member-cut",
        promise: "a member is cut off silently: new connections are good where another copy is; status says unreachable and its age",
        limit: "2 s; 5 s",
    },
    Step {
        id: "udp-block",
        promise: "UDP is blocked: new connections are good over TCP, streams on the dead path end",
        limit: "1 s; 5 s",
    },
    Step {
        id: "udp-return",
        promise: "UDP passes again: new streams go over QUIC, nothing fails",
        limit: "30 s; 0 failed",
    },
    Step {
        id: "heal",
        promise: "what was killed or cut came back under the load without a failure; an only path answers at once",
        limit: "0 failed; 1 s",
    },
];

/// How one thing came back.
#[derive(Debug, Clone)]
pub struct Healed {
    /// What.
    pub what: String,
    /// Whether as promised.
    pub ok: bool,
    /// What was seen.
    pub seen: String,
}

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
        let spec = LoadSpec {
            from,
            name: "checkout.shop.svc.clusterset.local".into(),
            port: self.lab.plan.http_port(),
            protocol: "http",
            members: vec![MemberId::AwsEu, MemberId::GcpEu],
            tag: tag.into(),
            rate: RATE,
        };
        let mut run = LoadRun::start(self.lab, &spec)?;
        run.steady(Duration::from_secs(25), 1000).await?;
        Ok(run)
    }

    /// Notes how something came back.
    pub fn came_back(&mut self, what: impl Into<String>, ok: bool, seen: impl Into<String>) {
        self.healed.push(Healed { what: what.into(), ok, seen: seen.into() });
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
            let seen = if step.id == "up" { why.to_owned() } else { "not judged: the lab is not up".into() };
            report_of(step, &seen, false, Vec::new())
        })
        .collect();
    Report { mode: mode.into(), seed, ok: false, partial: !only.is_empty(), steps }
}

/// Judges the steps asked for, or all; `up` and `join` always.
pub async fn judge_all(lab: &Lab, only: &[String]) -> Report {
    let mut context = Context { lab, healed: Vec::new(), joined: false };
    let mut steps: Vec<StepReport> = Vec::new();
    for step in wanted(only) {
        lab.say(&format!("step {}: {}", step.id, step.promise));
        let report = if context.joined || matches!(step.id, "up" | "join") {
            match run(step.id, &mut context).await {
                Ok(verdict) => report_of(step, &verdict.text(), verdict.kept(), verdict.evidence),
                Err(e) => report_of(step, &format!("{e:#}"), false, Vec::new()),
            }
        } else {
            report_of(step, "not judged: the members are not joined", false, Vec::new())
        };
        lab.say(&format!("     {}: {}", if report.ok { "kept" } else { "BROKEN" }, report.seen));
        steps.push(report);
        if context.joined && !lab.spec.has(crate::spec::Sabotage::NoHeal) {
            context.settle().await;
        }
    }
    let ok = steps.iter().all(|s| s.ok);
    Report { mode: lab.mode().as_str().into(), seed: lab.spec.seed, ok, partial: !only.is_empty(), steps }
}

fn wanted(only: &[String]) -> impl Iterator<Item = &'static Step> {
    STEPS
        .iter()
        .filter(move |s| only.is_empty() || matches!(s.id, "up" | "join") || only.iter().any(|o| o == s.id))
}

fn report_of(step: &Step, seen: &str, ok: bool, evidence: Vec<std::path::PathBuf>) -> StepReport {
    StepReport {
        id: step.id.into(),
        promise: step.promise.into(),
        limit: step.limit.into(),
        seen: seen.into(),
        ok,
        evidence,
    }
}

async fn run(id: &str, context: &mut Context<'_>) -> Result<Verdict> {
    match id {
        "up" => start::up(context).await,
        "join" => start::join(context).await,
        "names" => names::judge(context).await,
        "http" => traffic::http(context).await,
        "tcp" => traffic::tcp(context).await,
        "udp" => udp::judge(context).await,
        "headless" => traffic::headless(context).await,
        "explain" => explain::judge(context).await,
        "endpoint-kill" => kills::endpoint(context).await,
        "gateway-kill" => kills::gateway(context).await,
        "gateway-drain" => drain::judge(context).await,
        "controller-kill" => kills::controller(context).await,
        "member-cut" => links::member_cut(context).await,
        "udp-block" => links::udp_block(context).await,
        "udp-return" => links::udp_return(context).await,
        _ => Ok(heal(context)),
    }
}

/// Sums up how everything came back.
fn heal(context: &Context<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    for healed in &context.healed {
        verdict.check(healed.ok, format!("{}: {}", healed.what, healed.seen));
    }
    verdict
}
