//! A load generator at work in a member's client: started as a separate process, watched by its output.
//! Used by the steps.

use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::judge::Records;
use crate::lab::Lab;
use crate::ledger::Ledger;
use crate::load::{ConnKind, Outcome};
use crate::process::{Launch, Proc};
use crate::spec::{Host, MemberId};

/// What to load.
#[derive(Debug, Clone)]
pub struct LoadSpec {
    /// From which member's client.
    pub from: MemberId,
    /// The service's name.
    pub name: String,
    /// Its port.
    pub port: u16,
    /// `http` or `redis`.
    pub protocol: &'static str,
    /// Who may answer; empty means anybody.
    pub members: Vec<MemberId>,
    /// First part of file names and request ids.
    pub tag: String,
    /// Requests per second.
    pub rate: u32,
}

/// A running load generator.
#[derive(Debug)]
pub struct LoadRun {
    proc: Proc,
    out: PathBuf,
    offset: u64,
    rest: Vec<u8>,
    seen: Vec<Outcome>,
    ledger: Ledger,
}

impl LoadRun {
    /// Starts it.
    ///
    /// # Errors
    /// When the process cannot be started, or the lab has no such service.
    pub fn start(lab: &Lab, spec: &LoadSpec) -> Result<Self> {
        let ledger = Ledger::of(lab, &spec.name)?;
        let base = lab.folder("load")?.join(format!("{}-{}", spec.tag, spec.from));
        let out = base.with_extension("jsonl");
        let members: Vec<&str> = spec.members.iter().map(|m| m.as_str()).collect();
        let args: Vec<String> = [
            "lab",
            "load",
            "--dns",
            &lab.plan.dns(spec.from).to_string(),
            "--name",
            &spec.name,
            "--port",
            &spec.port.to_string(),
            "--protocol",
            spec.protocol,
            "--rate",
            &spec.rate.to_string(),
            "--members",
            &members.join(","),
            "--out",
            &out.to_string_lossy(),
            "--prefix",
            &format!("{}-{}-{:x}", spec.tag, spec.from, crate::clock::now() / 1_000_000),
            "--seed",
            &lab.spec.seed_for(&format!("load {} {}", spec.tag, spec.from)).to_string(),
        ]
        .map(String::from)
        .to_vec();
        let proc = Proc::start(&Launch {
            ns: lab.plan.ns(spec.from, Host::Client),
            program: lab.spec.hansa.clone(),
            args,
            output: base.with_extension("output.log"),
            mark: lab.spec.dir.clone(),
        })?;
        Ok(Self { proc, out, offset: 0, rest: Vec::new(), seen: Vec::new(), ledger })
    }

    /// The file of its outcomes.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.out.clone()
    }

    /// Waits until a full second's worth of requests in a row was good on both kinds of connections.
    ///
    /// # Errors
    /// When that does not happen in time, with the last failures.
    pub async fn steady(&mut self, limit: Duration, in_a_row: usize) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            self.read()?;
            let from = self.seen.len().saturating_sub(in_a_row);
            let last = self.seen.get(from..).unwrap_or_default();
            if last.len() == in_a_row && last.iter().all(|o| o.ok) {
                return Ok(());
            }
            if !self.proc.alive() {
                bail!("the load generator ended by itself");
            }
            if Instant::now() >= end {
                let mut errors: Vec<&str> = last.iter().filter_map(|o| o.error.as_deref()).collect();
                errors.sort_unstable();
                errors.dedup();
                errors.truncate(4);
                bail!("not {in_a_row} good answers in a row within {limit:?}: {}", errors.join(", "));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for an outcome that satisfies the condition, among those whose intended start is `from` or later.
    ///
    /// # Errors
    /// When the output cannot be read.
    pub async fn first(
        &mut self,
        from: u64,
        limit: Duration,
        wanted: impl Fn(&Outcome) -> bool,
    ) -> Result<Option<Outcome>> {
        let end = Instant::now() + limit;
        let mut next = 0;
        loop {
            self.read()?;
            let fresh = self.seen.get(next..).unwrap_or_default();
            if let Some(found) = fresh.iter().find(|o| o.intended_ns >= from && wanted(o)) {
                return Ok(Some(found.clone()));
            }
            next = self.seen.len();
            if Instant::now() >= end {
                return Ok(None);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends it and joins its outcomes with what the servers say they served.
    ///
    /// # Errors
    /// When it does not end, or what was served cannot be read.
    pub async fn stop(mut self) -> Result<Records> {
        self.proc.signal(Signal::TERM);
        self.proc.gone(Duration::from_secs(40)).await.context("the load generator")?;
        self.read()?;
        let outcomes = std::mem::take(&mut self.seen);
        let served = self.ledger.read(outcomes.iter().map(|o| o.id.clone()).collect()).await?;
        Ok(Records::of(outcomes, &served))
    }

    fn read(&mut self) -> Result<()> {
        let mut file = match std::fs::File::open(&self.out) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e).context("load output"),
        };
        file.seek(SeekFrom::Start(self.offset))?;
        let count = file.read_to_end(&mut self.rest)?;
        self.offset += u64::try_from(count).unwrap_or_default();
        let Some(end) = self.rest.iter().rposition(|b| *b == b'\n') else { return Ok(()) };
        let whole: Vec<u8> = self.rest.drain(..=end).collect();
        for line in whole.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            self.seen.push(serde_json::from_slice(line).context("load output")?);
        }
        Ok(())
    }
}

impl Drop for LoadRun {
    fn drop(&mut self) {
        // A step that fails in the middle leaves no load behind.
        self.proc.signal(Signal::KILL);
    }
}

/// Whether an outcome is a good answer on a connection of its own.
#[must_use]
pub fn good_new(outcome: &Outcome) -> bool {
    outcome.ok && outcome.kind == ConnKind::New
}
