//! `http`, `tcp` and `headless`: what clients see while nothing is broken.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{Context, SECOND};
use crate::lab::Lab;
use crate::loadrun::LoadRun;
use crate::probe;
use crate::report::Verdict;
use crate::spec::{Host, MemberId};

pub(super) async fn http(context: &mut Context<'_>) -> Result<Verdict> {
    let lab = context.lab;
    let mut verdict = Verdict::default();
    if lab.mode().has_namespaces() {
        let url = "http://checkout.shop.svc.clusterset.local/";
        for member in lab.members() {
            let body = member.exec("curl", &["-sS", "--max-time", "5", url]).await?;
            verdict.check(body.contains("\"member\""), format!("curl in {}: {}", member.id, body.trim()));
        }
    }
    let mut runs: Vec<(MemberId, LoadRun)> = Vec::new();
    for id in lab.spec.members.clone() {
        runs.push((id, context.checkout(id, "http").await?));
    }
    let from = crate::clock::now();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let to = crate::clock::now();
    for (id, run) in runs {
        verdict.show(run.file());
        let records = run.stop().await?;
        let (new, kept) = (records.new_between(from, to), records.kept_between(from, to));
        verdict.check(
            new.clean() && kept.clean(),
            format!("{id}: new {}, kept {}, p99 {:.1} ms", new.text(), kept.text(), millis(new.p99_us)),
        );
        if id != MemberId::Rack1 {
            verdict.check(new.only(&[id.as_str()]), format!("{id} answered by {:?}", new.members));
        }
    }
    verdict.check(to - from >= 5 * SECOND, "5 s of 500 requests/s from each member");
    Ok(verdict)
}

#[expect(clippy::cast_precision_loss, reason = "a latency is far below 2^53 µs")]
fn millis(us: u64) -> f64 {
    us as f64 / 1000.0
}

pub(super) async fn tcp(context: &mut Context<'_>) -> Result<Verdict> {
    let lab = context.lab;
    let mut verdict = Verdict::default();
    let file = lab.folder("load")?.join("megabyte");
    let value: String = (0..1_048_576_u32).map(|n| char::from(b'a' + (n % 23) as u8)).collect();
    std::fs::write(&file, &value)?;
    for member in lab.members() {
        let host = if lab.mode().has_namespaces() {
            "cart.shop.svc.clusterset.local".to_owned()
        } else {
            loopback_address(lab, member.id).await?
        };
        let key = format!("basket-{}", member.id);
        let answer =
            member.exec("redis-cli", &["-h", &host, "INCR", &format!("visits-{}", member.id)]).await?;
        verdict.check(answer.trim().parse::<u64>().is_ok(), format!("{}: INCR {}", member.id, answer.trim()));
        let mut set = member.client("redis-cli");
        set.args(["-h", &host, "-x", "SET", &key]);
        let answer = crate::sh::run(set, Some(&value)).await?;
        let back = member.exec("redis-cli", &["-h", &host, "GET", &key]).await?;
        verdict.check(
            answer.trim() == "OK" && back.trim_end() == value,
            format!("{}: 1 MiB set and read back unchanged", member.id),
        );
    }
    Ok(verdict)
}

/// Stock clients find no name server on another port; there the address is looked up for them.
async fn loopback_address(lab: &Lab, id: MemberId) -> Result<String> {
    let dns = lab.plan.dns(id);
    let list = crate::lookup::addresses(dns, "cart.shop.svc.clusterset.local").await?;
    Ok(list.first().context("no address")?.to_string())
}

pub(super) async fn headless(context: &mut Context<'_>) -> Result<Verdict> {
    let lab = context.lab;
    let mut verdict = Verdict::default();
    for member in lab.members() {
        let dns = lab.plan.dns(member.id);
        let local = (member.id == MemberId::AwsEu).then(|| lab.plan.inside(MemberId::AwsEu, Host::App(2)));
        let outcome = member
            .inside(move || async move {
                let all = crate::lookup::addresses(dns, "kafka.data.svc.clusterset.local").await?;
                ensure!(all.len() >= 3, "kafka.data has {} addresses", all.len());
                for n in 0..3 {
                    let name = format!("kafka-{n}.aws-eu.kafka.data.svc.clusterset.local");
                    let answer = probe::http(dns, &name, 9092, "").await.with_context(|| name.clone())?;
                    ensure!(answer.pod == format!("kafka-{n}"), "{name} is answered by {}", answer.pod);
                }
                Ok(all.len())
            })
            .await;
        let near = if local.is_some() { " (its own)" } else { "" };
        match outcome {
            Ok(count) => {
                verdict.check(true, format!("{}{near}: 3 pods by name, {count} addresses", member.id))
            }
            Err(e) => verdict.check(false, format!("{}{near}: {e:#}", member.id)),
        }
    }
    Ok(verdict)
}
