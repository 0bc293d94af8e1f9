//! `hansa lab …`, hidden: the sample servers and the load generator that the lab starts.

use std::process::ExitCode;

use clap::Args;

use crate::exit::Exit;

/// Words for the lab's own parser.
#[derive(Debug, Args)]
pub(crate) struct LabArgs {
    /// serve-http, serve-udp or load, with options
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

pub(crate) fn run(args: &LabArgs) -> ExitCode {
    match hansa_lab::tools::parse(&args.words) {
        Ok(tool) => hansa_lab::tools::run(tool),
        Err(e) => {
            eprintln!("hansa lab: {e:#}");
            Exit::Usage.into()
        }
    }
}
