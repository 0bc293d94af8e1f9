//! What the sample servers say they served: the request logs of ours, the counters in a Redis.
//! Read by a load's end and by the probes of steps, judged elsewhere; never asks through hansa.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::judge::lines;
use crate::lab::Lab;
use crate::samples::{self, Kind};
use crate::serve::Served;
use crate::sh;
use crate::spec::MemberId;

/// Longest time to read the counters of a load.
const LIMIT: Duration = Duration::from_secs(20);
/// Counters asked for at one time.
const BATCH: usize = 500;
/// In whose name a Redis answers: it does not know its member.
pub const REDIS: &str = "redis";

/// By request id: who served it, once for each time.
pub type Places = HashMap<String, Vec<String>>;

/// Where to look up what a load was served.
#[derive(Debug, Clone)]
pub enum Ledger {
    /// Request logs of sample servers, each in the folder of its member.
    Logs(Vec<PathBuf>),
    /// A Redis, where each request has counted up a key of its own.
    Redis {
        /// Its own network namespace, if any.
        ns: Option<String>,
        /// Where it listens.
        at: SocketAddr,
    },
}

impl Ledger {
    /// The one of a sample service of the lab.
    ///
    /// # Errors
    /// When no member of the lab has the service.
    pub fn of(lab: &Lab, fqdn: &str) -> Result<Self> {
        let mut logs = Vec::new();
        for id in &lab.spec.members {
            for (sample, servers) in samples::of(&lab.plan, *id) {
                if sample.fqdn() != fqdn {
                    continue;
                }
                if let Some(server) = servers.iter().find(|s| s.kind == Kind::Redis) {
                    return Ok(Self::Redis { ns: lab.plan.ns(*id, server.host), at: server.listen });
                }
                logs.extend(servers.iter().map(|server| request_log(lab, *id, &server.pod)));
            }
        }
        if logs.is_empty() {
            bail!("no member of the lab serves {fqdn}");
        }
        Ok(Self::Logs(logs))
    }

    /// What was served; of a Redis what became of these ids.
    ///
    /// # Errors
    /// When a log is missing or cannot be read, or the Redis does not answer.
    pub async fn read(&self, ids: Vec<String>) -> Result<Places> {
        match self {
            Self::Logs(logs) => logged(logs),
            Self::Redis { ns, at } => {
                let at = *at;
                let asked = move || async move {
                    tokio::time::timeout(LIMIT, counted(at, &ids)).await.context("reading counters")?
                };
                sh::inside(ns.clone(), asked).await.with_context(|| format!("the Redis at {at}"))
            }
        }
    }
}

/// The request log of a sample server.
#[must_use]
pub fn request_log(lab: &Lab, member: MemberId, pod: &str) -> PathBuf {
    lab.spec.dir.join(member.as_str()).join(format!("{pod}.requests.jsonl"))
}

/// How many of these requests, answered in the name of a pod, its log does not have exactly once.
///
/// # Errors
/// When a log is missing or cannot be read.
pub fn unserved(lab: &Lab, member: MemberId, pod: &str, ids: &[String]) -> Result<usize> {
    let served = logged(&[request_log(lab, member, pod)])?;
    Ok(ids.iter().filter(|id| served.get(*id).map_or(0, Vec::len) != 1).count())
}

/// What the logs say.
///
/// # Errors
/// When there is none, or one cannot be read: what is in no log proves nothing.
pub fn logged(logs: &[PathBuf]) -> Result<Places> {
    ensure!(!logs.is_empty(), "there is no request log to look into");
    let mut places = Places::new();
    for log in logs {
        let folder = log.parent().and_then(Path::file_name).unwrap_or_default();
        for line in lines::<Served>(log)? {
            places.entry(line.id).or_default().push(folder.to_string_lossy().into_owned());
        }
    }
    Ok(places)
}

/// `MGET` of all ids, by hand as the load does it.
async fn counted(at: SocketAddr, ids: &[String]) -> Result<Places> {
    let mut stream = BufReader::new(TcpStream::connect(at).await?);
    let mut places = Places::new();
    for batch in ids.chunks(BATCH) {
        let mut question = format!("*{}\r\n$4\r\nMGET\r\n", batch.len() + 1);
        for id in batch {
            question.push_str(&format!("${}\r\n{id}\r\n", id.len()));
        }
        stream.write_all(question.as_bytes()).await?;
        let head = line(&mut stream).await?;
        ensure!(head == format!("*{}", batch.len()), "unexpected answer {head:?}");
        for id in batch {
            // A length of -1 is a key that was never counted up.
            if line(&mut stream).await? != "$-1" {
                let times: usize = line(&mut stream).await?.parse().with_context(|| format!("key {id}"))?;
                places.insert(id.clone(), vec![REDIS.to_owned(); times]);
            }
        }
    }
    Ok(places)
}

async fn line(stream: &mut BufReader<TcpStream>) -> Result<String> {
    let mut text = String::new();
    ensure!(stream.read_line(&mut text).await? > 0, "closed in the middle of an answer");
    Ok(text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[test]
    fn without_a_log_nothing_is_proved() {
        assert!(logged(&[]).is_err());
        let dir = tempfile::tempdir().unwrap();
        assert!(logged(&[dir.path().join("aws-eu/checkout-1.requests.jsonl")]).is_err());
    }

    #[tokio::test]
    async fn a_redis_is_asked_for_every_id() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let wanted = "*4\r\n$4\r\nMGET\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n";
            let mut question = vec![0; wanted.len()];
            stream.read_exact(&mut question).await.unwrap();
            assert_eq!(String::from_utf8(question).unwrap(), wanted);
            stream.write_all(b"*3\r\n$1\r\n1\r\n$-1\r\n$1\r\n2\r\n").await.unwrap();
        });
        let ids = ["a", "b", "c"].map(String::from).to_vec();
        let places = Ledger::Redis { ns: None, at }.read(ids).await.unwrap();
        server.await.unwrap();
        let times = |id: &str| places.get(id).map_or(0, Vec::len);
        assert_eq!((times("a"), times("b"), times("c")), (1, 0, 2));
    }
}
