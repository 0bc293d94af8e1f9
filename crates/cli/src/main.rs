//! The `hansa` binary: every server and every verb. All of it is in the library beside.

use std::process::ExitCode;

fn main() -> ExitCode {
    hansa_cli::run(std::env::args_os())
}
