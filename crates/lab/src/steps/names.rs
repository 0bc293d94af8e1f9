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
use crate::promise::start::{Named, Names};
use crate::report::Verdict;
use crate::spec::{Host, MemberId};
use crate::{clock, ledger, probe};

/// Services published at once.
const MANY: usize = 1000;
/// Longest time to watch; well beyond every limit, so that the report can say how late it was.
const WATCH: Duration = Duration::from_secs(15);
/// The sample server behind every name.
const POD: &str = "checkout-1";
/// Longest time for one connection.
const DIAL: Duration = Duration::from_secs(1);

pub(super) async fn observe(context: &mut Context<'_>, verdict: &mut Verdict) -> Result<()> {
    let lab = context.lab;
    let others = [MemberId::GcpEu, MemberId::Rack1];
    for member in others {
        verdict.show(lab.member(member).home().join("dns/log.jsonl"));
    }
    let one = vec![sample(lab, "flash-sale")];
    let many: Vec<Sample> = (0..MANY).map(|n| sample(lab, &format!("shelf-{n}"))).collect();
    let mut seen = Names { many: MANY, ..Names::default() };
    seen.one_serves = publish(lab, "flash-sale", &one, &others).await?;
    seen.one_gone = withdraw(lab, "flash-sale", &one, &others).await?;
    seen.many_serve = publish(lab, "shelves", &many, &others).await?;
    seen.many_gone = withdraw(lab, "shelves", &many, &others).await?;
    context.observed("names", &seen, verdict)?;
    seen.judge(verdict);
    Ok(())
}

/// A service of the lab's HTTP server in aws-eu under another name.
fn sample(lab: &Lab, name: &str) -> Sample {
    Sample {
        name: name.into(),
        namespace: "shop".into(),
        port: Port { name: "http", port: lab.plan.http_port(), target: lab.target(8080), protocol: "TCP" },
        pods: vec![(POD.into(), lab.plan.inside(MemberId::AwsEu, Host::App(1)))],
        headless: false,
    }
}

async fn publish(lab: &Lab, file: &str, samples: &[Sample], others: &[MemberId]) -> Result<Vec<Named>> {
    let yaml: Vec<String> = samples.iter().map(Sample::yaml).collect();
    watch(lab, samples, others, false, || lab.member(MemberId::AwsEu).publish(file, &yaml.join("---\n")))
        .await
}

async fn withdraw(lab: &Lab, file: &str, samples: &[Sample], others: &[MemberId]) -> Result<Vec<Named>> {
    watch(lab, samples, others, true, || lab.member(MemberId::AwsEu).withdraw(file)).await
}

/// Starts a watcher in each member, acts, and tells how many seconds later each watcher was content.
async fn watch(
    lab: &Lab,
    samples: &[Sample],
    others: &[MemberId],
    gone: bool,
    act: impl FnOnce() -> Result<()>,
) -> Result<Vec<Named>> {
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
    let named = others.iter().zip(ends).map(|(id, Seen { end, deaf, answered })| {
        let unserved = ledger::unserved(lab, MemberId::AwsEu, POD, &answered)?;
        Ok(Named { member: id.to_string(), seconds: after(end), deaf, unserved })
    });
    named.collect()
}

/// What one watcher saw.
#[derive(Default)]
struct Seen {
    /// When the last name stood as it should.
    end: Option<u64>,
    /// How often a name gave an address on which nobody listened.
    deaf: usize,
    /// Ids of the good answers.
    answered: Vec<String>,
}

/// How one name stands.
enum Stands {
    /// As it should; with the id of the request that was answered, if one was.
    Right(Option<String>),
    /// Not yet so.
    Wrong,
    /// It gave an address on which nobody listened.
    Deaf,
}

/// Asks for every name until each serves, or is gone.
async fn content(dns: SocketAddr, port: u16, mut names: Vec<String>, gone: bool) -> Seen {
    let end = Instant::now() + WATCH;
    let mut seen = Seen::default();
    while Instant::now() < end {
        let asked = futures::stream::iter(names).map(|name| async move {
            let stands = if gone { leaving(dns, port, &name).await } else { coming(dns, port, &name).await };
            (name, stands)
        });
        let answers: Vec<(String, Stands)> = asked.buffer_unordered(16).collect().await;
        names = Vec::new();
        for (name, stands) in answers {
            match stands {
                Stands::Right(id) => seen.answered.extend(id),
                Stands::Wrong => names.push(name),
                Stands::Deaf => {
                    seen.deaf += 1;
                    names.push(name);
                }
            }
        }
        if names.is_empty() {
            seen.end = Some(clock::now());
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    seen
}

/// A name that answers is published after the gateways listen.
async fn coming(dns: SocketAddr, port: u16, name: &str) -> Stands {
    let Ok(list) = lookup::addresses(dns, name).await else { return Stands::Wrong };
    for ip in &list {
        if !listens((*ip, port).into()).await {
            return Stands::Deaf;
        }
    }
    let Some(ip) = list.first() else { return Stands::Wrong };
    let id = probe::fresh_id("names");
    match probe::http_at(*ip, port, name, &id).await {
        Ok(answer) if answer.member == MemberId::AwsEu.as_str() && answer.pod == POD => {
            Stands::Right(Some(id))
        }
        _ => Stands::Wrong,
    }
}

/// A name that still answers has not lost its listeners.
async fn leaving(dns: SocketAddr, port: u16, name: &str) -> Stands {
    match lookup::addresses(dns, name).await {
        Err(LookupError::Code(ResponseCode::NXDomain)) => Stands::Right(None),
        Ok(list) => {
            for ip in list {
                if !listens((ip, port).into()).await {
                    return Stands::Deaf;
                }
            }
            Stands::Wrong
        }
        Err(_) => Stands::Wrong,
    }
}

/// Whether a connection is taken; being slow is not being deaf, and who resets it was there to take it.
async fn listens(to: SocketAddr) -> bool {
    match tokio::time::timeout(DIAL, tokio::net::TcpStream::connect(to)).await {
        Ok(Err(e)) => e.kind() == std::io::ErrorKind::ConnectionReset,
        Ok(Ok(_)) | Err(_) => true,
    }
}
