//! A lab: three members on one machine. Brings up, joins, breaks, heals, takes down.
//! Used by the demo and by the end-to-end tests; see the modules below for each part.

mod bringup;
pub mod faults;
pub mod member;
pub mod teardown;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::process::{Launch, Proc};
use crate::spec::{LabSpec, MemberId, NetMode, Plan};
use crate::state::{DemoState, ProcessState};

pub use faults::{Fault, Undone};
pub use member::Member;

/// A running lab.
#[derive(Debug)]
pub struct Lab {
    /// What was asked for.
    pub spec: LabSpec,
    /// Names and addresses.
    pub plan: Plan,
    /// When bring-up began.
    pub begun: Instant,
    state: Mutex<DemoState>,
}

impl Lab {
    /// Opens the lab that is up in `dir`.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(dir: &Path) -> Result<Self> {
        let Some(state) = DemoState::load(dir)? else {
            bail!("no demo is up in {}: start one with `hansa demo up`", dir.display());
        };
        let mut spec = LabSpec::new(dir, &state.hansa, state.mode);
        spec.members = MemberId::ALL.into_iter().filter(|m| state.members.contains_key(m.as_str())).collect();
        Ok(Self { spec, plan: state.plan.clone(), begun: Instant::now(), state: Mutex::new(state) })
    }

    /// How members are kept apart.
    #[must_use]
    pub fn mode(&self) -> NetMode {
        self.plan.mode
    }

    /// One member.
    #[must_use]
    pub fn member(&self, id: MemberId) -> Member<'_> {
        Member { lab: self, id }
    }

    /// All members of this lab.
    pub fn members(&self) -> impl Iterator<Item = Member<'_>> {
        self.spec.members.iter().map(|id| self.member(*id))
    }

    /// A folder below the lab's, made if it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.spec.dir.join(name);
        std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// What is written down about this lab.
    pub fn state(&self) -> MutexGuard<'_, DemoState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says on stderr what is going on.
    pub fn say(&self, text: &str) {
        if self.spec.progress {
            eprintln!("[{:7.2}s] {text}", self.begun.elapsed().as_secs_f64());
        }
    }

    /// Starts (again) a process that is written down, and writes down its id.
    ///
    /// # Errors
    /// When there is no such process or it cannot be started.
    pub fn start(&self, member: MemberId, name: &str) -> Result<Proc> {
        let launch = {
            let state = self.state();
            let process = find(&state, member, name)?;
            if process.proc.is_some_and(|p| p.alive()) {
                bail!("{member}/{name} is already running");
            }
            let (program, args) = process.command.split_first().context("no command")?;
            Launch {
                ns: process.net.clone(),
                program: program.into(),
                args: args.to_vec(),
                output: process.output.clone(),
                mark: self.spec.dir.clone(),
            }
        };
        let proc = Proc::start(&launch)?;
        let pid_file = self.spec.dir.join(member.as_str()).join(name).join("pid");
        if pid_file.parent().is_some_and(Path::is_dir) {
            crate::state::write_atomic(&pid_file, format!("{}\n", proc.pid).as_bytes())?;
        }
        let mut state = self.state();
        let entry = state.members.get_mut(member.as_str()).context("no such member")?;
        if let Some(process) = entry.processes.get_mut(name).or_else(|| entry.samples.get_mut(name)) {
            process.proc = Some(proc);
        }
        state.save()?;
        Ok(proc)
    }

    /// The process as last started.
    ///
    /// # Errors
    /// When it was never started.
    pub fn proc(&self, member: MemberId, name: &str) -> Result<Proc> {
        find(&self.state(), member, name)?.proc.with_context(|| format!("{member}/{name} was never started"))
    }
}

fn find<'a>(state: &'a DemoState, member: MemberId, name: &str) -> Result<&'a ProcessState> {
    state
        .members
        .get(member.as_str())
        .and_then(|m| m.processes.get(name).or_else(|| m.samples.get(name)))
        .with_context(|| format!("{member} has no process {name}"))
}
