//! The verbs of `hansa demo` beside the whole run: up, down, status, break, heal, exec.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{DemoArgs, DemoCommand, FAILED, USAGE};
use crate::lab::{Fault, Lab, teardown};
use crate::process::{self, Proc};
use crate::spec::{LabSpec, MemberId};
use crate::state::DemoState;

/// Brings a lab up, joined, and leaves it so.
pub(super) async fn up(spec: LabSpec) -> Result<ExitCode> {
    let dir = spec.dir.clone();
    let work = async {
        let lab = Lab::up(spec).await?;
        lab.join().await?;
        lab.connected(Duration::from_secs(20)).await?;
        lab.say("all members reach each other");
        anyhow::Ok(())
    };
    let result = tokio::select! {
        result = work => result,
        () = super::interrupted() => Err(anyhow::anyhow!("interrupted")),
    };
    if let Err(e) = result {
        down(&dir).await?;
        end_holder();
        return Err(e);
    }
    keep(&dir)?;
    by_hand(true);
    Ok(ExitCode::SUCCESS)
}

/// Everything that needs a lab which is already up.
pub(super) async fn existing(args: &DemoArgs, dir: &Path, state: Option<DemoState>) -> Result<ExitCode> {
    match &args.command {
        DemoCommand::Down => {
            let holder = state.as_ref().and_then(|s| s.holder);
            down(dir).await?;
            if let Some(holder) = holder {
                holder.signal(rustix::process::Signal::KILL);
            }
            println!("nothing is up in {}", dir.display());
            Ok(ExitCode::SUCCESS)
        }
        DemoCommand::Status => status(dir).await,
        DemoCommand::Break(name) => change(dir, name, true).await,
        DemoCommand::Heal(name) => change(dir, name, false).await,
        DemoCommand::Exec { member, command } => exec(dir, member, command),
        DemoCommand::Run | DemoCommand::Up => Ok(ExitCode::from(USAGE)),
    }
}

/// Takes down whatever is up in the folder, written down or not.
pub(super) async fn down(dir: &Path) -> Result<()> {
    if let Some(state) = DemoState::load(dir)? {
        return teardown::take_down(&state).await;
    }
    for proc in process::marked(dir) {
        if Some(proc) != crate::mode::holder() {
            proc.kill().await?;
        }
    }
    Ok(())
}

/// Ends the process that keeps the user namespace; what is inside goes with it.
pub(super) fn end_holder() {
    if let Some(holder) = crate::mode::holder() {
        holder.signal(rustix::process::Signal::KILL);
    }
}

/// Writes down that this lab is meant to stay.
pub(super) fn keep(dir: &Path) -> Result<()> {
    let Some(mut state) = DemoState::load(dir)? else { bail!("no demo is up in {}", dir.display()) };
    state.kept = true;
    state.save()
}

async fn status(dir: &Path) -> Result<ExitCode> {
    let lab = Lab::open(dir)?;
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
    let fault: Fault = match name.parse() {
        Ok(fault) => fault,
        Err(e) => {
            eprintln!("hansa demo: {e}");
            return Ok(ExitCode::from(USAGE));
        }
    };
    let lab = Lab::open(dir)?;
    if broken {
        lab.break_(&fault).await?;
        println!("broken: {fault}; undo it with `hansa demo heal {fault}`");
    } else {
        lab.heal(&fault).await?;
        println!("healed: {fault}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Becomes the given program, inside the member.
fn exec(dir: &Path, member: &str, command: &[OsString]) -> Result<ExitCode> {
    let id = match MemberId::parse(member) {
        Ok(id) => id,
        Err(e) => {
            eprintln!("hansa demo: {e}");
            return Ok(ExitCode::from(USAGE));
        }
    };
    let Some((program, args)) = command.split_first() else {
        eprintln!("hansa demo: exec MEMBER -- PROGRAM [ARGUMENTS]");
        return Ok(ExitCode::from(USAGE));
    };
    let lab = Lab::open(dir)?;
    if !lab.mode().has_namespaces() {
        eprintln!(
            "hansa demo: on loopback a program keeps this machine's name server; ask {} for names",
            lab.plan.dns(id)
        );
    }
    let mut command = lab.member(id).client(program);
    command.args(args);
    Err(command.as_std_mut().exec()).with_context(|| program.to_string_lossy().into_owned())
}

/// The commands to try by hand.
pub(super) fn by_hand(is_up: bool) {
    let first = if is_up { "try by hand:" } else { "try by hand, after `hansa demo up`:" };
    println!(
        "{first}\n  \
         hansa demo exec rack-1 -- curl -s http://checkout.shop.svc.clusterset.local\n  \
         hansa demo exec rack-1 -- dig checkout.shop.svc.clusterset.local\n  \
         hansa demo exec aws-eu -- redis-cli -h cart.shop.svc.clusterset.local incr visits\n  \
         hansa demo status\n  \
         hansa demo break gateway:rack-1/gateway-1    hansa demo heal gateway:rack-1/gateway-1\n  \
         hansa demo break member:aws-eu               hansa demo heal member:aws-eu\n  \
         hansa demo down"
    );
}
