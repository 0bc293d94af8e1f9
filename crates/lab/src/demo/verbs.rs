//! The verbs of `hansa demo` beside the whole run: up, down, status, break, heal, exec.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};

use super::trouble::Trouble;
use super::{DemoArgs, DemoCommand, FAILED, USAGE, by_hand};
use crate::lab::{Fault, Lab, teardown};
use crate::process::{self, Proc};
use crate::spec::{LabSpec, MemberId, Plan};
use crate::state::DemoState;

/// Brings a lab up, joined, and leaves it so.
pub(super) async fn up(args: &DemoArgs, spec: LabSpec) -> Result<ExitCode> {
    let dir = spec.dir.clone();
    let work = async {
        let lab = Lab::up(spec).await?;
        lab.join().await?;
        lab.connected(Duration::from_secs(20)).await?;
        lab.say("all members reach each other");
        anyhow::Ok(lab.plan)
    };
    let result = tokio::select! {
        result = work => Some(result),
        () = super::interrupted() => None,
    };
    let Some(Ok(plan)) = result else {
        down(&dir).await?;
        end_holder();
        return result.map_or_else(|| Ok(super::told_to_stop()), |result| result.map(|_| ExitCode::SUCCESS));
    };
    keep(&dir)?;
    by_hand(args, &plan, true);
    Ok(ExitCode::SUCCESS)
}

/// Everything that needs a lab which is already up.
pub(super) async fn existing(args: &DemoArgs, dir: &Path, state: Option<DemoState>) -> Result<ExitCode> {
    match &args.command {
        DemoCommand::Down => {
            let (was_up, holder) = (state.is_some(), state.as_ref().and_then(|s| s.holder));
            let ended = down(dir).await?;
            if let Some(holder) = holder {
                holder.signal(rustix::process::Signal::KILL);
            }
            let shown = dir.display();
            match (was_up, ended) {
                (false, 0) => println!("{shown}: no demo was up here, nothing was left to remove"),
                _ => println!("{shown}: the demo is down; its logs and the last report stay in this folder"),
            }
            Ok(ExitCode::SUCCESS)
        }
        DemoCommand::Status => status(dir).await,
        DemoCommand::Break(name) => change(dir, name, true).await,
        DemoCommand::Heal(name) => change(dir, name, false).await,
        DemoCommand::Exec { member, command } => exec(dir, member, command),
        DemoCommand::Run | DemoCommand::Up => Ok(ExitCode::from(USAGE)),
    }
}

/// Takes down whatever is up in the folder, written down or not; how many strays there were beside that.
pub(super) async fn down(dir: &Path) -> Result<usize> {
    if let Some(state) = DemoState::load(dir)? {
        return teardown::take_down(&state).await.map(|()| 0);
    }
    let mut ended = 0;
    for proc in process::marked(dir) {
        if Some(proc) != crate::mode::holder() {
            proc.kill().await?;
            ended += 1;
        }
    }
    Ok(ended)
}

/// Ends the process that keeps the user namespace; what is inside goes with it.
pub(super) fn end_holder() {
    if let Some(holder) = crate::mode::holder() {
        holder.signal(rustix::process::Signal::KILL);
    }
}

/// Writes down that this lab is meant to stay.
pub(super) fn keep(dir: &Path) -> Result<()> {
    let mut state = DemoState::load(dir)?.ok_or_else(|| Trouble::not_up(dir))?;
    state.kept = true;
    state.save()
}

/// The lab that is up.
fn open(dir: &Path) -> Result<Lab> {
    if DemoState::load(dir)?.is_none() {
        return Err(Trouble::not_up(dir).into());
    }
    Lab::open(dir)
}

async fn status(dir: &Path) -> Result<ExitCode> {
    let lab = open(dir)?;
    println!("mode: {}", lab.mode().as_str());
    println!("folder: {}", dir.display());
    let mut sound = true;
    for member in lab.members() {
        println!(
            "\n{}  {}  VIPs {}  DNS {}",
            member.id,
            member.id.locality(),
            lab.plan.vip_prefix(member.id),
            lab.plan.dns(member.id)
        );
        let state = lab.state().members.get(member.id.as_str()).cloned().context("member")?;
        for (name, process) in state.processes.iter().chain(&state.samples) {
            let running = process.proc.filter(Proc::alive);
            sound &= running.is_some();
            let shown = running.map_or_else(|| "not running".into(), |p| format!("pid {}", p.pid));
            println!("  {name:<12} {shown}");
        }
        match member.status().await {
            Ok(status) => println!("  peers: {}", status.summary()),
            Err(e) => {
                sound = false;
                println!("  peers: {e:#}");
            }
        }
    }
    let broken = lab.state().broken.clone();
    if !broken.is_empty() {
        println!("\nbroken: {}", broken.join(", "));
    }
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

async fn change(dir: &Path, name: &str, broken: bool) -> Result<ExitCode> {
    let verb = if broken { "break" } else { "heal" };
    let fault: Fault = name.parse().map_err(|cause: String| {
        Trouble::usage(name, cause, format!("hansa demo {verb} gateway:rack-1/gateway-1"))
    })?;
    let lab = open(dir)?;
    let object = fault.to_string();
    let already = lab.state().broken.clone();
    let (known, running) = match &fault {
        Fault::Process(id, process) => {
            let proc = lab.proc(*id, process).ok();
            (proc.is_some(), proc.is_some_and(|p| p.alive()))
        }
        Fault::Member(_) | Fault::Udp => (true, !already.contains(&object)),
    };
    if !known {
        return Err(Trouble::usage(&object, "there is no such process", status_of(dir)).into());
    }
    if broken && !running {
        let next = format!("hansa demo heal {object} --dir {}", dir.display());
        return Err(Trouble::new(&object, "is already broken", next).into());
    }
    if !broken && running {
        let list = if already.is_empty() { "nothing".into() } else { already.join(", ") };
        return Err(
            Trouble::new(&object, format!("is not broken; broken now: {list}"), status_of(dir)).into()
        );
    }
    let failed = |e: anyhow::Error| Trouble::new(&object, format!("{e:#}"), status_of(dir));
    if broken {
        lab.break_(&fault).await.map_err(failed)?;
        println!("broken: {fault}; undo it with `hansa demo heal {fault} --dir {}`", dir.display());
    } else {
        lab.heal(&fault).await.map_err(failed)?;
        println!("healed: {fault}");
    }
    Ok(ExitCode::SUCCESS)
}

fn status_of(dir: &Path) -> String {
    format!("hansa demo status --dir {}", dir.display())
}

/// Becomes the given program, inside the member. `hansa` itself then asks that member's controller.
fn exec(dir: &Path, member: &str, command: &[OsString]) -> Result<ExitCode> {
    let next = "hansa demo exec rack-1 -- PROGRAM [ARGUMENTS]";
    let id = MemberId::parse(member).map_err(|cause| Trouble::usage(member, cause, next))?;
    let Some((program, args)) = command.split_first() else {
        return Err(Trouble::usage("exec", "no program was named", next).into());
    };
    let lab = open(dir)?;
    if !lab.mode().has_namespaces() {
        eprintln!(
            "hansa demo: on loopback a program keeps this machine's name server; ask {} for names",
            lab.plan.dns(id)
        );
    }
    let member = lab.member(id);
    let mut command = member.client(program);
    command.args(args).env("HANSA_SOCKET", member.socket());
    let error = command.as_std_mut().exec();
    let next = "hansa demo exec with a program that is installed on this machine";
    Err(Trouble::new(&program.to_string_lossy(), error.to_string(), next).into())
}

/// Prints the commands to try by hand.
pub(super) fn by_hand(args: &DemoArgs, plan: &Plan, is_up: bool) {
    let program = std::env::current_exe().unwrap_or_else(|_| "hansa".into());
    println!("{}", by_hand::text(&program, args.dir.as_deref(), plan, is_up));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a verb says where nothing is up, as it is printed, and its exit code.
    async fn said(command: DemoCommand) -> (String, u8) {
        let dir = tempfile::tempdir().unwrap();
        let args = DemoArgs { command, ..DemoArgs::default() };
        let error = existing(&args, dir.path(), None).await.unwrap_err();
        let exit = error.downcast_ref::<Trouble>().map_or(0, |trouble| trouble.exit);
        (format!("{error:#}").replace(&dir.path().display().to_string(), "DIR"), exit)
    }

    #[tokio::test]
    async fn where_nothing_is_up_every_verb_says_what_to_do() {
        let exec = DemoCommand::Exec { member: "rack-1".into(), command: vec!["true".into()] };
        let (broken, healed) = (DemoCommand::Break("udp".into()), DemoCommand::Heal("udp".into()));
        for command in [DemoCommand::Status, broken, healed, exec] {
            let wanted = "DIR: no demo is up in this folder\n  next: hansa demo up --dir DIR";
            assert_eq!(said(command).await, (wanted.to_owned(), FAILED));
        }
    }

    #[tokio::test]
    async fn what_there_is_not_is_named_with_what_there_is() {
        let (text, exit) = said(DemoCommand::Break("power".into())).await;
        assert!(text.starts_with("power: unknown fault") && text.contains("member:rack-1"), "{text}");
        assert!(text.contains("\n  next: hansa demo break ") && exit == USAGE, "{text}");
        let exec = DemoCommand::Exec { member: "mars".into(), command: vec!["true".into()] };
        let (text, exit) = said(exec).await;
        assert!(text.contains("mars: unknown member") && text.contains("next: ") && exit == USAGE, "{text}");
    }

    #[tokio::test]
    async fn taking_down_what_is_not_up_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let args = DemoArgs { command: DemoCommand::Down, ..DemoArgs::default() };
        assert_eq!(existing(&args, dir.path(), None).await.unwrap(), ExitCode::SUCCESS);
    }
}
