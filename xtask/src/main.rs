//! `cargo run -p hansa-xtask -- tidy | test [--ring R]…`, as the Makefile calls it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use hansa_xtask::{mutants, rings, tidy};

/// Tools of the hansa workspace.
#[derive(Parser)]
#[command(name = "xtask")]
enum Command {
    /// Check the written rules that no compiler checks.
    Tidy,
    /// Run test rings, those in `.ci/milestones` unless named, and write target/test-report.json.
    Test {
        /// Run this ring alone (may come more than once).
        #[arg(long = "ring", value_name = "RING")]
        rings: Vec<rings::Ring>,
    },
    /// Put in the faults of `.ci/mutants` one by one; each must turn a test red.
    Mutants {
        /// This one alone.
        name: Option<String>,
    },
}

fn main() -> ExitCode {
    match run(Command::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<bool> {
    let root = root()?;
    match command {
        Command::Tidy => {
            let found = tidy::check(&root)?;
            for line in &found {
                eprintln!("{line}");
            }
            println!("tidy: {} found", found.len());
            Ok(found.is_empty())
        }
        Command::Mutants { name } => mutants::run(&root, name.as_deref()),
        Command::Test { rings } => rings::run(&root, &rings),
    }
}

/// The folder of the workspace, above this package's.
fn root() -> anyhow::Result<PathBuf> {
    // As cargo says at run time: clones share a build folder, so the one built in may be another.
    let here = std::env::var_os("CARGO_MANIFEST_DIR");
    let here = here.map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    Ok(here.parent().context("xtask lies in no workspace")?.to_owned())
}
