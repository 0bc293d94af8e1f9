//! What became of one request, and the file of such lines.
//! Written by the load generator, read by the judge.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use super::{Conn, Job};
use crate::clock;

/// On what kind of connection a request was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnKind {
    /// One of its own.
    New,
    /// One that serves many requests.
    Kept,
}

/// One request's end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// Request id, unique in the lab.
    pub id: String,
    /// When it should have started, monotonic nanoseconds.
    pub intended_ns: u64,
    /// When it was over.
    pub ended_ns: u64,
    /// Kind of connection.
    pub kind: ConnKind,
    /// Number of the connection, 0 where there was none.
    pub conn: u64,
    /// When its connection was begun, successfully or not; 0 where none was.
    #[serde(default)]
    pub begun_ns: u64,
    /// Address it was connected to.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// The member that answered.
    pub member: Option<String>,
    /// Whether status, body, id and member were right.
    pub ok: bool,
    /// Why not.
    pub error: Option<String>,
    /// From the intended start to the end.
    pub latency_us: u64,
}

impl Outcome {
    pub(crate) fn of(job: &Job, kind: ConnKind, conn: &Conn, result: Result<String, String>) -> Self {
        let mut outcome = Self::failed(job, kind, conn.id, "");
        outcome.address = conn.address.to_string();
        outcome.begun_ns = conn.begun;
        match result {
            Ok(member) => {
                outcome.ok = true;
                outcome.member = Some(member);
                outcome.error = None;
            }
            Err(error) => outcome.error = Some(error),
        }
        outcome
    }

    /// A good answer that came later than this after the intended start is not good. Who gave it stays.
    pub(crate) fn within(mut self, limit: Duration) -> Self {
        if self.ok && Duration::from_micros(self.latency_us) > limit {
            self.ok = false;
            self.error = Some("answer: late".into());
        }
        self
    }

    /// A request whose connection, begun then, did not come about.
    pub(crate) fn unconnected(job: &Job, kind: ConnKind, begun: u64, error: &str) -> Self {
        Self { begun_ns: begun, ..Self::failed(job, kind, 0, error) }
    }

    pub(crate) fn failed(job: &Job, kind: ConnKind, conn: u64, error: &str) -> Self {
        let ended_ns = clock::now();
        Self {
            id: job.id.clone(),
            intended_ns: job.intended,
            ended_ns,
            kind,
            conn,
            begun_ns: 0,
            address: String::new(),
            member: None,
            ok: false,
            error: Some(error.to_owned()),
            latency_us: ended_ns.saturating_sub(job.intended) / 1000,
        }
    }
}

/// Takes outcomes from everywhere and writes them in one task. The queue is as long as what is in flight:
/// every outcome stems from a request that the generator's own bounds let through.
pub(crate) struct Writer {
    lines: UnboundedSender<Outcome>,
}

impl Writer {
    pub(crate) fn open(path: &Path) -> Result<(Self, JoinHandle<Result<()>>)> {
        let file = std::fs::File::create(path)?;
        let (lines, mut queue) = unbounded_channel::<Outcome>();
        let task = tokio::spawn(async move {
            let mut file = tokio::io::BufWriter::new(tokio::fs::File::from_std(file));
            let mut batch = Vec::new();
            while queue.recv_many(&mut batch, 256).await > 0 {
                for outcome in batch.drain(..) {
                    let mut line = serde_json::to_vec(&outcome)?;
                    line.push(b'\n');
                    file.write_all(&line).await?;
                }
                file.flush().await?;
            }
            Ok(())
        });
        Ok((Self { lines }, task))
    }

    pub(crate) fn put(&self, outcome: Outcome) {
        // The task ends only when the disk refused; `run` reports that.
        let _ = self.lines.send(outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_after_the_limit_is_late_and_not_good() {
        let job = Job { id: "a".into(), intended: 0 };
        let good = |latency_us| Outcome {
            ok: true,
            error: None,
            member: Some("aws-eu".into()),
            latency_us,
            ..Outcome::failed(&job, ConnKind::New, 1, "")
        };
        let limit = Duration::from_secs(3);
        assert!(good(3_000_000).within(limit).ok);
        let late = good(3_000_001).within(limit);
        assert_eq!((late.ok, late.error.as_deref()), (false, Some("answer: late")));
        let slowest = crate::judge::Records { outcomes: vec![good(2), late] }.new_between(0, u64::MAX);
        assert_eq!((slowest.failed, slowest.slowest_us), (1, 3_000_001));
    }
}
