//! Connections that are held for as long as a step wants, asked several times a second.
//! Used by `gateway-drain`; runs in the client's place.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use tokio::net::TcpStream;

use super::CHECKOUT;
use crate::clock;
use crate::lab::Member;
use crate::load::request;
use crate::lookup;
use crate::promise::drain::Held;

/// Between two questions on one connection.
const PAUSE: Duration = Duration::from_millis(250);
/// Longest time for one answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Connections being held.
pub(super) struct Holding {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Result<Vec<Held>>>,
}

impl Holding {
    /// Opens `each` connections to every address of the service and returns when all had an answer.
    pub(super) async fn start(member: &Member<'_>, each: usize) -> Result<Self> {
        let (dns, port) = (member.lab.plan.dns(member.id), member.lab.plan.http_port());
        let ns = member.lab.plan.ns(member.id, crate::spec::Host::Client);
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, waiting) = tokio::sync::oneshot::channel();
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(crate::sh::inside(ns, move || async move {
            let list = lookup::addresses(dns, CHECKOUT).await?;
            let dials = list.iter().flat_map(|ip| std::iter::repeat_n(*ip, each));
            let opened = futures::future::try_join_all(dials.map(|ip| open(ip, port))).await?;
            // Nobody waits any more when the step has failed.
            let _ = ready.send(());
            let held = opened.into_iter().map(|(ip, stream)| hold(ip, stream, &stopped));
            Ok(futures::future::join_all(held).await)
        }));
        match waiting.await {
            Ok(()) => Ok(Self { stop, task }),
            Err(_) => Err(task.await?.err().unwrap_or_else(|| anyhow!("nothing was held"))),
        }
    }

    /// Lets go and tells what became of each.
    pub(super) async fn stop(self) -> Result<Vec<Held>> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

async fn open(ip: IpAddr, port: u16) -> Result<(IpAddr, TcpStream)> {
    let mut stream = TcpStream::connect((ip, port)).await.with_context(|| format!("connect {ip}:{port}"))?;
    ask(&mut stream).await.map_err(|e| anyhow!(e))?;
    Ok((ip, stream))
}

async fn ask(stream: &mut TcpStream) -> Result<(), String> {
    let asked = request(stream, CHECKOUT, "", false);
    tokio::time::timeout(ANSWER, asked).await.map_err(|_| "answer: timeout".to_owned())?.map(drop)
}

async fn hold(ip: IpAddr, mut stream: TcpStream, stop: &AtomicBool) -> Held {
    let mut held = Held { address: ip.to_string(), answers: 1, last_good: clock::now(), ended: None };
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(PAUSE).await;
        match ask(&mut stream).await {
            Ok(()) => {
                held.answers += 1;
                held.last_good = clock::now();
            }
            Err(how) => {
                held.ended = Some((clock::now(), how));
                break;
            }
        }
    }
    held
}
