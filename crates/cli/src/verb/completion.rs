//! `hansa completion SHELL`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use hansa_core::code::cli;

use crate::args::Cli;
use crate::exit::{Exit, Failure};

/// Arguments of `hansa completion`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  source <(hansa completion bash)\n  hansa completion zsh > ~/.zfunc/_hansa"
)]
pub(crate) struct CompletionArgs {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: &CompletionArgs) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "hansa", &mut script);
    let unprintable =
        |e: std::io::Error| Failure::new(Exit::Internal, cli::FILE_UNWRITABLE, "stdout", e.to_string());
    match std::io::Write::write_all(&mut std::io::stdout(), &script) {
        // `| head` has read enough.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(Exit::Ok),
        written => written.map(|()| Exit::Ok).map_err(unprintable),
    }
}
