//! `http`, `tcp` and `headless`: what clients see while nothing is broken.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{CART, CHECKOUT, Context, RATE};
use crate::lab::{Lab, Member};
use crate::loadrun::LoadRun;
use crate::promise::calm::{Headless, Http, Tcp};
use crate::report::Verdict;
use crate::serve::Answer;
use crate::spec::{MemberId, Sabotage};
use crate::{ledger, probe};

pub(super) async fn http(context: &mut Context<'_>, verdict: &mut Verdict) -> Result<()> {
    let lab = context.lab;
    let url = format!("http://{CHECKOUT}/");
    let mut curls = Vec::new();
    for member in lab.members().filter(|m| m.lab.mode().has_namespaces()) {
        let asked = member.exec("curl", &["-sS", "--max-time", "5", &url]).await;
        curls.push((member.id, asked.unwrap_or_else(|e| format!("{e:#}"))));
    }
    let mut runs: Vec<(MemberId, LoadRun)> = Vec::new();
    for id in lab.spec.members.clone() {
        let run = if lab.spec.has(Sabotage::WrongPort) {
            // What is broken from the start never runs well; it is judged as it is.
            context.load(id, "http")?
        } else {
            context.checkout(id, "http").await?
        };
        runs.push((id, run));
    }
    let from = crate::clock::now();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let to = crate::clock::now();
    let mut all = Vec::new();
    for (id, run) in runs {
        verdict.show(run.file());
        let records = run.stop().await?;
        all.push(Http {
            from: id.to_string(),
            nearest: (id != MemberId::Rack1).then(|| id.to_string()),
            curl: curls.iter().find(|(member, _)| *member == id).map(|(_, body)| body.clone()),
            nanos: to - from,
            rate: RATE,
            new: records.new_between(from, to),
            kept: records.kept_between(from, to),
        });
    }
    context.observed("http", &all, verdict)?;
    all.iter().for_each(|seen| seen.judge(verdict));
    Ok(())
}

pub(super) async fn tcp(context: &mut Context<'_>, verdict: &mut Verdict) -> Result<()> {
    let lab = context.lab;
    let value: String = (0..1_048_576_u32).map(|n| char::from(b'a' + (n % 23) as u8)).collect();
    let mut all = Vec::new();
    for member in lab.members() {
        all.push(stock_client(lab, &member, &value).await);
    }
    context.observed("tcp", &all, verdict)?;
    all.iter().for_each(|seen| seen.judge(verdict));
    Ok(())
}

/// INCR, SET and GET with `redis-cli`.
async fn stock_client(lab: &Lab, member: &Member<'_>, value: &str) -> Tcp {
    let from = member.id.to_string();
    let text = |e: anyhow::Error| format!("{e:#}");
    let host = if lab.mode().has_namespaces() { Ok(CART.to_owned()) } else { loopback(lab, member.id).await };
    let host = match host {
        Ok(host) => host,
        Err(e) => {
            let e = text(e);
            return Tcp { from, incr: Err(e.clone()), set: Err(e.clone()), same: Err(e) };
        }
    };
    let key = format!("basket-{from}");
    let fresh = format!("visits-{from}-{:x}", crate::clock::now());
    let incr = member.exec("redis-cli", &["-h", &host, "INCR", &fresh]).await.map_err(text);
    let mut command = member.client("redis-cli");
    command.args(["-h", &host, "-x", "SET", &key]);
    let set = crate::sh::run(command, Some(value)).await.map_err(text);
    let got = member.exec("redis-cli", &["-h", &host, "GET", &key]).await;
    Tcp { from, incr, set, same: got.map(|back| back.trim_end() == value).map_err(text) }
}

/// Stock clients find no name server on another port; there the address is looked up for them.
async fn loopback(lab: &Lab, id: MemberId) -> Result<String> {
    let list = crate::lookup::addresses(lab.plan.dns(id), CART).await?;
    Ok(list.first().context("no address")?.to_string())
}

/// The pod that answered, if it is one of aws-eu and its own log says so.
fn by_pod(lab: &Lab, answer: &Answer, id: String) -> Result<String, String> {
    if answer.member != MemberId::AwsEu.as_str() {
        return Err(format!("answered by {}", answer.member));
    }
    match ledger::unserved(lab, MemberId::AwsEu, &answer.pod, &[id]) {
        Ok(0) => Ok(answer.pod.clone()),
        Ok(_) => Err("answered, but not exactly once in its log".into()),
        Err(e) => Err(format!("{e:#}")),
    }
}

pub(super) async fn headless(context: &mut Context<'_>, verdict: &mut Verdict) -> Result<()> {
    let lab = context.lab;
    let mut all = Vec::new();
    for member in lab.members() {
        let dns = lab.plan.dns(member.id);
        let seen = member
            .inside(move || async move {
                let list = crate::lookup::addresses(dns, "kafka.data.svc.clusterset.local").await;
                let mut pods = Vec::new();
                for n in 0..3 {
                    let name = format!("kafka-{n}.aws-eu.kafka.data.svc.clusterset.local");
                    let id = probe::fresh_id("headless");
                    let answer = probe::http(dns, &name, 9092, &id).await;
                    pods.push((format!("kafka-{n}"), answer.map_err(|e| format!("{e:#}")), id));
                }
                Ok((list.map(|l| l.len()).map_err(|e| e.to_string()), pods))
            })
            .await?;
        let by = |answer: Answer, id: String| by_pod(lab, &answer, id);
        let pods = seen.1.into_iter().map(|(pod, said, id)| (pod, said.and_then(|a| by(a, id)))).collect();
        all.push(Headless { from: member.id.to_string(), addresses: seen.0, pods });
    }
    context.observed("headless", &all, verdict)?;
    all.iter().for_each(|seen| seen.judge(verdict));
    Ok(())
}
