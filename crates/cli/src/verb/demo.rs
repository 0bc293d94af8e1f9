//! `hansa demo`: three members on this machine. The lab does all of it; here are only the arguments.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use hansa_core::code::cli;
use hansa_lab::demo::{DemoArgs, DemoCommand};
use hansa_lab::spec::{NetMode, Sabotage};

use crate::exit::{Exit, Failure};
use crate::output::Output;

const AFTER: &str = "\
Without a verb: bring three members up, judge every promise under load, take everything down.

Exits with 1 if a promise was not kept, 3 if a program it needs is not installed, 130 after Ctrl-C.

Examples:
  hansa demo                                      the whole story, ends with a table
  hansa demo --only http,gateway-kill --keep      two steps; everything stays up afterwards
  hansa demo up                                   only bring up and join
  hansa demo exec rack-1 -- dig checkout.shop.svc.clusterset.local
  hansa demo break gateway:rack-1/gateway-1       kill a gateway; `heal` brings it back
  hansa demo down                                 leave nothing behind";

/// Arguments of `hansa demo`.
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(crate) struct DemoVerb {
    #[command(subcommand)]
    command: Option<Command>,
    /// The demo's folder [default: hansa/demo in the user's state folder]
    #[arg(long, value_name = "DIR", global = true)]
    dir: Option<PathBuf>,
    /// Write the report here too
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// How members are kept apart: netns, userns or loopback [default: the best that works here]
    #[arg(long, value_name = "MODE", global = true)]
    net: Option<NetMode>,
    /// Decides what is left to chance: which gateway, sample server and controller dies, when requests start,
    /// which address a connection takes. The report names it; a run with it repeats those [default: random]
    #[arg(long, value_name = "N", global = true)]
    seed: Option<u64>,
    /// Leave everything up at the end
    #[arg(long)]
    keep: bool,
    /// Judge these steps alone, separated by commas
    #[arg(long, value_name = "STEPS", value_delimiter = ',')]
    only: Vec<String>,
    /// Build a fault in, so that a promise must break
    #[arg(long, hide = true, value_delimiter = ',', global = true)]
    sabotage: Vec<Sabotage>,
    /// The binary under judgement
    #[arg(long, hide = true, global = true)]
    hansa: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring the members up and join them, and leave it so
    Up,
    /// Take everything down, also what a killed demo left
    Down,
    /// Show what is up
    Status,
    /// Break something
    Break {
        /// endpoint, gateway, controller, dns, member or udp; with a target: gateway:rack-1/gateway-2
        what: String,
    },
    /// Undo a break
    Heal {
        /// As it was broken
        what: String,
    },
    /// Run any program as a client inside a member, with that member's DNS; hansa asks its controller
    Exec {
        /// aws-eu, gcp-eu or rack-1
        member: String,
        /// The program and its arguments
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
}

pub(crate) fn run(verb: DemoVerb, output: &Output) -> ExitCode {
    let command = match verb.command {
        None => DemoCommand::Run,
        Some(Command::Up) => DemoCommand::Up,
        Some(Command::Down) => DemoCommand::Down,
        Some(Command::Status) => DemoCommand::Status,
        Some(Command::Break { what }) => DemoCommand::Break(what),
        Some(Command::Heal { what }) => DemoCommand::Heal(what),
        Some(Command::Exec { member, command }) => DemoCommand::Exec { member, command },
    };
    let done = hansa_lab::demo::run(&DemoArgs {
        command,
        dir: verb.dir,
        report: verb.report,
        net: verb.net,
        seed: verb.seed,
        keep: verb.keep,
        only: verb.only,
        hansa: verb.hansa,
        sabotage: verb.sabotage,
        ..DemoArgs::default()
    });
    done.unwrap_or_else(|trouble| {
        let code = if trouble.is_usage() { cli::USAGE } else { cli::DEMO_FAILED };
        let mut failure = Failure::new(Exit::Findings, code, trouble.object, trouble.cause);
        failure.error.next = trouble.next;
        output.failure(&failure);
        // Its own codes: 3 is a missing program here.
        ExitCode::from(trouble.exit)
    })
}
