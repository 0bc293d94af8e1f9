//! `hansa demo`: the whole story on one machine, or its parts by hand.
//! The command line crate parses the arguments and calls [`run`]; nothing here knows how a server works.

mod by_hand;
mod trouble;
mod verbs;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::lab::{Lab, teardown};
use crate::process::{self, Proc};
use crate::report::Report;
use crate::spec::{LabSpec, Links, NetMode, Plan, Sabotage};
use crate::state::DemoState;
use crate::{mode, steps};

pub use trouble::Trouble;

/// Exit code when a promise was not kept or something failed.
const FAILED: u8 = 1;
/// Exit code for a wrong command line.
const USAGE: u8 = 64;
/// Exit code after Ctrl-C, as of a shell.
const INTERRUPTED: u8 = 130;
/// Exit code when a program this needs is not installed.
const MISSING: u8 = 3;

/// Arguments of `hansa demo`.
#[derive(Debug, Clone, Default)]
pub struct DemoArgs {
    /// What to do.
    pub command: DemoCommand,
    /// Folder of the demo; a default in the user's state folder.
    pub dir: Option<PathBuf>,
    /// Also writes the report here.
    pub report: Option<PathBuf>,
    /// How members are kept apart; the best that works here by default.
    pub net: Option<NetMode>,
    /// Decides everything that is left to chance; random by default.
    pub seed: Option<u64>,
    /// Leaves everything up at the end.
    pub keep: bool,
    /// Judges these steps alone (and `up` and `join`).
    pub only: Vec<String>,
    /// The `hansa` binary under judgement; the running program by default.
    pub hansa: Option<PathBuf>,
    /// What the links between members do not allow.
    pub links: Links,
    /// Faults built in on purpose, for tests.
    pub sabotage: Vec<Sabotage>,
}

/// What `hansa demo` is to do.
#[derive(Debug, Clone, Default)]
pub enum DemoCommand {
    /// Everything: up, join, judge every promise, down.
    #[default]
    Run,
    /// Up and joined, and stay so.
    Up,
    /// Take it down.
    Down,
    /// Show what is up.
    Status,
    /// Break something.
    Break(String),
    /// Undo a break.
    Heal(String),
    /// Run any program as a client inside a member.
    Exec {
        /// The member.
        member: String,
        /// Program and arguments.
        command: Vec<OsString>,
    },
}

/// Runs the verb and returns the process's exit code.
///
/// # Errors
/// What could not be done, with what to do next; to be printed by the caller.
pub fn run(args: &DemoArgs) -> Result<ExitCode, Trouble> {
    start(args).map_err(|error| Trouble::of(error, args.dir.as_deref()))
}

fn start(args: &DemoArgs) -> Result<ExitCode> {
    if let Some(unknown) = args.only.iter().find(|id| !steps::known(id)) {
        let ids: Vec<&str> = steps::STEPS.iter().map(|s| s.id).collect();
        return Err(
            Trouble::usage(unknown, "no step has this id", format!("--only with {}", ids.join(" "))).into()
        );
    }
    let dir = folder(args.dir.as_deref())?;
    if matches!(args.command, DemoCommand::Run | DemoCommand::Up) {
        return create(args, &dir);
    }
    let state = DemoState::load(&dir)?;
    if let Some(state) = &state {
        mode::enter_existing(state)?;
    }
    let runtime = tokio::runtime::Runtime::new().context("runtime")?;
    runtime.block_on(verbs::existing(args, &dir, state))
}

/// `run` and `up`: a new lab.
fn create(args: &DemoArgs, dir: &Path) -> Result<ExitCode> {
    let mode = mode::choose(args.net);
    if !mode::inside() {
        println!("mode: {}{}", mode.as_str(), explain(mode));
        println!("folder: {}", dir.display());
        let missing = mode::missing(mode);
        if !missing.is_empty() {
            let cause = format!("not installed: {}", missing.join(" "));
            let next = "apt-get install -y iproute2 nftables redis-server redis-tools curl util-linux";
            return Err(Trouble { exit: MISSING, ..Trouble::new("demo", cause, next) }.into());
        }
    }
    mode::enter_new(mode, dir)?;
    std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let _lock = process::lock(&dir.join("demo.lock"))?;
    let runtime = tokio::runtime::Runtime::new().context("runtime")?;
    let code = runtime.block_on(async {
        clean(dir).await?;
        let seed = args.seed.unwrap_or_else(rand::random);
        let hansa = match &args.hansa {
            Some(path) => std::path::absolute(path)?,
            None => std::env::current_exe()?,
        };
        let spec = LabSpec {
            sabotage: args.sabotage.clone(),
            progress: true,
            seed,
            links: args.links,
            ..LabSpec::new(dir, &hansa, mode)
        };
        if matches!(args.command, DemoCommand::Up) {
            verbs::up(args, spec).await
        } else {
            whole(args, spec).await
        }
    });
    // Threads of the runtime may still wait for a name or a file; nobody waits for them.
    runtime.shutdown_background();
    code
}

/// The whole demo; whatever happens, nothing stays behind unless it was asked to.
async fn whole(args: &DemoArgs, spec: LabSpec) -> Result<ExitCode> {
    let (dir, fallback) = (spec.dir.clone(), Plan::new(&spec.dir, spec.mode, 0));
    let judged = tokio::select! {
        report = judge(args, spec) => Some(report),
        () = interrupted() => None,
    };
    let plan = DemoState::load(&dir)?.map_or(fallback, |state| state.plan);
    if args.keep && judged.is_some() {
        verbs::keep(&dir)?;
    } else {
        verbs::down(&dir).await?;
    }
    let Some(report) = judged else {
        return Ok(told_to_stop());
    };
    let text = serde_json::to_vec_pretty(&report)?;
    let own = dir.join("report.json");
    for path in std::iter::once(&own).chain(&args.report) {
        std::fs::write(path, &text).with_context(|| path.display().to_string())?;
    }
    println!("\n{}", report.table());
    println!("report: {}", own.display());
    verbs::by_hand(args, &plan, args.keep);
    verbs::end_holder();
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

async fn judge(args: &DemoArgs, spec: LabSpec) -> Report {
    let (mode, seed) = (spec.mode, spec.seed);
    match Lab::up(spec).await {
        Ok(lab) => steps::judge_all(&lab, &args.only).await,
        Err(e) => steps::not_up(mode.as_str(), seed, &args.only, &format!("{e:#}")),
    }
}

/// The end after Ctrl-C, with everything taken down.
fn told_to_stop() -> ExitCode {
    eprintln!("hansa demo: interrupted; everything is taken down");
    ExitCode::from(INTERRUPTED)
}

async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut int), Ok(mut term)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! { _ = int.recv() => {}, _ = term.recv() => {} }
}

/// Makes the folder ready for a new lab: takes down what a killed demo left, removes its files.
async fn clean(dir: &Path) -> Result<()> {
    if let Some(state) = DemoState::load(dir)? {
        if state.kept && state.processes().any(|p: Proc| p.alive()) {
            let shown = dir.display().to_string();
            let next = format!("hansa demo down --dir {shown}, or choose another --dir");
            return Err(Trouble::new(&shown, "a demo is up in this folder", next).into());
        }
        eprintln!("taking down what an earlier demo left");
        teardown::take_down(&state).await?;
    }
    for name in ["aws-eu", "gcp-eu", "rack-1", "invitations", "load", "evidence"] {
        match std::fs::remove_dir_all(dir.join(name)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).context(name),
            _ => {}
        }
    }
    Ok(())
}

/// The demo's folder, absolute and short enough for a socket below it.
fn folder(wanted: Option<&Path>) -> Result<PathBuf> {
    let var = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let dir = var(mode::FOLDER).or_else(|| wanted.map(Path::to_path_buf)).unwrap_or_else(|| {
        let state = var("XDG_STATE_HOME").or_else(|| var("HOME").map(|home| home.join(".local/state")));
        state.unwrap_or_else(std::env::temp_dir).join("hansa/demo")
    });
    let dir = std::path::absolute(dir)?;
    // The kernel takes socket paths of 107 bytes.
    if dir.as_os_str().len() > 60 {
        let shown = dir.display().to_string();
        let cause = "the folder's path is longer than 60 bytes, too long for sockets below it";
        return Err(Trouble::usage(&shown, cause, "hansa demo --dir with a shorter path").into());
    }
    Ok(dir)
}

fn explain(mode: NetMode) -> &'static str {
    match mode {
        NetMode::Netns => " (network namespaces, as root)",
        NetMode::Userns => " (network namespaces inside a user namespace)",
        NetMode::Loopback => " (loopback addresses, forwarders between members)",
    }
}
