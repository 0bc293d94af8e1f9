//! `names`: how fast a new export answers and serves in the other members, a thousand of them, and how
//! fast a removed one is gone.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::StreamExt as _;
use hickory_proto::op::ResponseCode;

use super::Context;
use crate::config::{Port, Sample};
use crate::lab::Lab;
use crate::lookup::{self, LookupError};
use crate::report::Verdict;
use crate::spec::{Host, MemberId};
use crate::{clock, probe};

/// Services published at once.
const MANY: usize = 1000;
/// Longest time to watch; well beyond every limit, so that the report can say how late it was.
const WATCH: Duration = Duration::from_secs(30);

pub(super) async fn judge(context: &mut Context<'_>) -> Result<Verdict> {
    let lab = context.lab;
    let mut verdict = Verdict::default();
    let others = [MemberId::GcpEu, MemberId::Rack1];
    let one = vec![sample(lab, "flash-sale")];
    for (member, took) in publish(lab, "flash-sale", &one, &others).await? {
        verdict.check(within(took, 1.0), format!("one export serves in {member} after {}", shown(took)));
    }
    for (member, took) in withdraw(lab, "flash-sale", &one, &others).await? {
        verdict.check(within(took, 1.0), format!("removed, NXDOMAIN in {member} after {}", shown(took)));
    }
    let many: Vec<Sample> = (0..MANY).map(|n| sample(lab, &format!("shelf-{n}"))).collect();
    for (member, took) in publish(lab, "shelves", &many, &others).await? {
        verdict.check(within(took, 5.0), format!("{MANY} at once serve in {member} after {}", shown(took)));
    }
    for (member, took) in withdraw(lab, "shelves", &many, &others).await? {
        verdict.check(within(took, 5.0), format!("all removed in {member} after {}", shown(took)));
    }
    for member in others {
        verdict.show(lab.member(member).home().join("dns/log.jsonl"));
    }
    Ok(verdict)
}

/// A service of the lab's HTTP server in aws-eu under another name.
fn sample(lab: &Lab, name: &str) -> Sample {
    Sample {
        name: name.into(),
        namespace: "shop".into(),
        port: Port { name: "http", port: lab.plan.http_port(), target: 8080, protocol: "TCP" },
        pods: vec![("checkout-1".into(), lab.plan.inside(MemberId::AwsEu, Host::App(1)))],
        headless: false,
    }
}

type Times = Vec<(MemberId, Option<f64>)>;

async fn publish(lab: &Lab, file: &str, samples: &[Sample], others: &[MemberId]) -> Result<Times> {
    let yaml: Vec<String> = samples.iter().map(Sample::yaml).collect();
    watch(lab, samples, others, false, || lab.member(MemberId::AwsEu).publish(file, &yaml.join("---\n")))
        .await
}

async fn withdraw(lab: &Lab, file: &str, samples: &[Sample], others: &[MemberId]) -> Result<Times> {
    watch(lab, samples, others, true, || lab.member(MemberId::AwsEu).withdraw(file)).await
}

/// Starts a watcher in each member, acts, and tells how many seconds later each watcher was content.
async fn watch(
    lab: &Lab,
    samples: &[Sample],
    others: &[MemberId],
    gone: bool,
    act: impl FnOnce() -> Result<()>,
) -> Result<Times> {
    let names: Vec<String> = samples.iter().map(Sample::fqdn).collect();
    let port = lab.plan.http_port();
    let watchers = others.iter().map(|id| {
        let (member, dns, names) = (lab.member(*id), lab.plan.dns(*id), names.clone());
        async move { member.inside(move || async move { Ok(content(dns, port, names, gone).await) }).await }
    });
    let watching = futures::future::try_join_all(watchers);
    let acting = async {
        // The watchers are asking by then; what they learn before counts against nobody.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let at = clock::now();
        act().map(|()| at)
    };
    let (ends, at) = futures::try_join!(watching, acting)?;
    // Content before anything was done: then what was to change had never been there.
    let after = |end: Option<u64>| end.filter(|end| *end >= at).map(|end| clock::seconds(at, end));
    Ok(others.iter().zip(ends).map(|(id, end)| (*id, after(end))).collect())
}

/// Asks for every name until each serves, or is gone; when the last one did.
async fn content(dns: SocketAddr, port: u16, mut names: Vec<String>, gone: bool) -> Option<u64> {
    let end = Instant::now() + WATCH;
    while Instant::now() < end {
        let asked = futures::stream::iter(names).map(|name| async move {
            let done = if gone {
                let answer = lookup::addresses(dns, &name).await;
                matches!(answer, Err(LookupError::Code(ResponseCode::NXDomain)))
            } else {
                probe::http(dns, &name, port, "").await.is_ok()
            };
            (name, done)
        });
        let answers: Vec<(String, bool)> = asked.buffer_unordered(16).collect().await;
        names = answers.into_iter().filter(|(_, done)| !done).map(|(name, _)| name).collect();
        if names.is_empty() {
            return Some(clock::now());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    None
}

fn within(took: Option<f64>, limit: f64) -> bool {
    took.is_some_and(|t| t < limit)
}

fn shown(took: Option<f64>) -> String {
    took.map_or_else(
        || format!("more than {} s, or it was so before", WATCH.as_secs()),
        |t| format!("{t:.2} s"),
    )
}
