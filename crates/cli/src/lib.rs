//! The command line: one binary that is every server and every verb.
//!
//! Called by `main.rs`, and by the tests that compare the generated references under `docs` with the
//! code. Verbs only ask: the controller over its control socket, DNS servers over the network. They
//! decide nothing and keep no state.

use std::ffi::OsString;
use std::future::Future;
use std::process::ExitCode;

use clap::Parser;
use hansa_core::code::cli;

mod args;
mod client;
mod dial;
mod exit;
mod output;
pub mod reference;
mod table;
mod target;
mod verb;

use args::{Cli, Context, Verb};
use exit::{Exit, Failure};

/// Reads the command line, does what it says, and returns the exit code.
pub fn run(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(e) => return exit::usage(&e),
    };
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        // Another one is there already: only when called twice in one process, by a test.
    }
    let context = Context::new(&cli.global);
    let outcome = match cli.verb {
        // These make runtimes of their own, if any: threads must not exist before a namespace is
        // entered, and servers use more than one.
        Verb::Demo(args) => return verb::demo::run(args, &context.output),
        Verb::Lab(args) => return verb::lab::run(&args),
        Verb::Gateway(args) => verb::server::gateway(&args),
        Verb::Controller(args) => verb::server::controller(&args),
        Verb::Dns(args) => match args.query {
            Some(verb::dns::DnsVerb::Query(query)) => wait(verb::dns::query(query, &context)),
            None => verb::server::dns(&args.server),
        },
        Verb::Completion(args) => verb::completion::run(&args),
        Verb::Config(args) => verb::config::run(&args, &context),
        Verb::Version => verb::version::run(&context),
        asking => wait(ask(asking, &context)),
    };
    match outcome {
        Ok(exit) => exit.into(),
        Err(failure) => context.output.failure(&failure),
    }
}

/// The verbs that ask the controller.
async fn ask(verb: Verb, context: &Context) -> Result<Exit, Failure> {
    match verb {
        Verb::Status(args) => verb::status::run(&args, context).await,
        Verb::Services => verb::services::run(context).await,
        Verb::Explain(args) => verb::explain::run(&args, context).await,
        Verb::Check(args) => verb::check::run(&args, context).await,
        Verb::Enroll(args) => verb::enroll::run(&args, context).await,
        Verb::Forget(args) => verb::enroll::forget(&args, context).await,
        Verb::Peer(args) => verb::peer::run(args, context).await,
        Verb::Get(args) => verb::get::run(&args, context).await,
        Verb::Trust(args) => verb::trust::run(args, context).await,
        _ => Err(Failure::new(Exit::Internal, cli::USAGE, "verb", "it does not ask the controller")),
    }
}

/// Runs a verb on this thread.
fn wait(work: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(work),
        Err(e) => Err(Failure::new(Exit::Internal, cli::ANSWER_UNREADABLE, "this process", e.to_string())),
    }
}
