//! `hansa gateway|controller|dns --config FILE`: reads the configuration, sets up logs and signals,
//! binds, runs until told to stop, and says why if it could not.

use std::error::Error;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use hansa_core::code::config::{CONFIG_INVALID, FILES_EXHAUSTED, PORT_IN_USE, STATE_UNWRITABLE};
use hansa_core::code::{Code, cli};
use hansa_runtime::config::Sources;
use hansa_runtime::drain::Drain;
use hansa_runtime::logs::{self, Logs, Output};
use hansa_runtime::ready::Ready;
use hansa_runtime::tasks::Tasks;
use tracing::{info, warn};

use super::config::{self, Kind};
use super::version::COMMIT;
use crate::exit::{Exit, Failure};

/// How long the last log lines may take to reach the disk.
const FLUSH: Duration = Duration::from_secs(1);

/// How long tasks may still run after their server ended.
const LEFT_OVER: Duration = Duration::from_secs(2);

const AFTER: &str = "\
Keys of the file are overlaid by HANSA_* variables (tunnel.maxStreams is HANSA_TUNNEL__MAX_STREAMS),
and these by --set. `hansa config schema` prints every key, `hansa config check` checks a file.

SIGTERM drains: unready, no new work, running work finishes or meets the deadline. A second signal
exits at once.";

/// Arguments of a server.
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(crate) struct ServerArgs {
    /// The configuration file
    #[arg(long, short, value_name = "FILE", env = "HANSA_CONFIG", hide_env_values = true, required = true)]
    config: Option<PathBuf>,
    /// Overlay one key, such as --set log.level=debug (repeatable)
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("use KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// What every server is given.
struct Process {
    tasks: Tasks,
    drain: Drain,
    ready: Ready,
    logs: Logs,
}

pub(crate) fn gateway(args: &ServerArgs) -> Result<Exit, Failure> {
    let loaded = config::load::<hansa_gateway::Config>(&sources(args, Kind::Gateway)?)?;
    let config = loaded.config;
    let log = options(&config.log.level, config.log.file.clone(), config.log.access);
    serve(Kind::Gateway, &log, &loaded.ignored, async |process| {
        let Process { tasks, drain, ready, logs } = process;
        let process = hansa_gateway::Process { tasks, drain, ready, logs: Some(logs) };
        let gateway = hansa_gateway::Gateway::start(config, process).await;
        let gateway = gateway.map_err(|e| match &e {
            hansa_gateway::StartError::Link(link) => outside(Kind::Gateway, link),
            other => stopped(Kind::Gateway, other),
        })?;
        gateway.run().await.map_err(|e| failed(Kind::Gateway, e))
    })
}

pub(crate) fn controller(args: &ServerArgs) -> Result<Exit, Failure> {
    let loaded = config::load_controller(&sources(args, Kind::Controller)?)?;
    let config = loaded.config;
    let log = options(&config.log.level, config.log.file.clone(), true);
    serve(Kind::Controller, &log, &loaded.ignored, async |process| {
        let Process { tasks, drain, ready, logs } = process;
        let process = hansa_controller::Process { tasks, drain, ready, logs: Some(logs) };
        let controller = hansa_controller::Controller::bind(config, process).await;
        let controller = controller.map_err(|e| coded(Kind::Controller, e.code(), &e))?;
        controller.run().await.map_err(|e| failed(Kind::Controller, e))
    })
}

pub(crate) fn dns(args: &ServerArgs) -> Result<Exit, Failure> {
    let loaded = config::load_dns(&sources(args, Kind::Dns)?)?;
    let config = loaded.config;
    let log = options(&config.log.level, config.log.file.clone(), true);
    serve(Kind::Dns, &log, &loaded.ignored, async |process| {
        let Process { tasks, drain, ready, logs } = process;
        let process = hansa_dns::Process { tasks, drain, ready, logs: Some(logs) };
        let server = hansa_dns::Server::bind(config, process).await;
        let ended = server.map_err(|e| stopped(Kind::Dns, &e))?.run().await;
        ended.map_err(|e| match &e {
            hansa_dns::RunError::Link(link) => outside(Kind::Dns, link),
            other => stopped(Kind::Dns, other),
        })
    })
}

fn sources(args: &ServerArgs, kind: Kind) -> Result<Sources, Failure> {
    let file = args.config.as_deref().ok_or_else(|| Failure::usage(kind.as_str(), "--config is missing"))?;
    let base = config::sources(file, kind);
    Ok(args.set.iter().fold(base, |sources, (key, value)| sources.flag(key, value)))
}

fn options(level: &str, file: Option<PathBuf>, access: bool) -> logs::Options {
    let output = file.map_or(Output::Stderr, Output::File);
    logs::Options { level: level.to_owned(), access, output, ..logs::Options::default() }
}

/// Sets up the process, runs the server in it, and writes the last lines.
fn serve<W, F>(kind: Kind, log: &logs::Options, ignored: &[String], work: W) -> Result<Exit, Failure>
where
    W: FnOnce(Process) -> F,
    F: Future<Output = Result<(), Failure>>,
{
    let refused = |e: logs::LogError| Failure::new(Exit::Usage, CONFIG_INVALID, "log", e.to_string());
    let logs = logs::init(log).map_err(refused)?;
    let runtime = match kind {
        // Its connections live on threads of their own; what is left is little.
        Kind::Gateway => tokio::runtime::Builder::new_current_thread().enable_all().build(),
        _ => tokio::runtime::Builder::new_multi_thread().enable_all().build(),
    };
    let runtime = runtime.map_err(|e| failed(kind, e))?;
    let outcome = runtime.block_on(async {
        let process =
            Process { tasks: Tasks::new(), drain: Drain::new(), ready: Ready::new(), logs: logs.clone() };
        let last = logs.clone();
        let flush = move || {
            last.flush(FLUSH);
        };
        process.drain.listen(&process.tasks, &process.ready, flush).map_err(|e| failed(kind, e))?;
        info!(server = kind.as_str(), version = env!("CARGO_PKG_VERSION"), commit = COMMIT, "starting");
        if !ignored.is_empty() {
            warn!(variables = ?ignored, "variables that name no key are ignored");
        }
        let tasks = process.tasks.clone();
        let outcome = work(process).await;
        // Most servers have done so; what is left may not hold up the end.
        tasks.shutdown(LEFT_OVER).await;
        outcome
    });
    match &outcome {
        Ok(()) => info!(server = kind.as_str(), "stopped"),
        Err(failure) => tracing::error!(
            code = failure.error.code,
            object = failure.error.object,
            cause = failure.error.cause,
            next = failure.error.next,
            "stopped"
        ),
    }
    // Threads that still wait for a name or a disk hold nothing anybody needs.
    runtime.shutdown_background();
    logs.flush(FLUSH);
    outcome.map(|()| Exit::Ok)
}

/// A server that has no identity and cannot get one.
fn outside(kind: Kind, error: &hansa_link::StartError) -> Failure {
    let failure = coded(kind, error.code().unwrap_or(cli::SERVER_FAILED), error);
    Failure { exit: Exit::Refused, ..failure }
}

/// A server that could not start or go on: the code follows from the cause deepest down.
fn stopped(kind: Kind, error: &(dyn Error + 'static)) -> Failure {
    coded(kind, cli::SERVER_FAILED, error)
}

/// The same, with the code of a cause that has none of its own.
fn coded(kind: Kind, or_else: Code, error: &(dyn Error + 'static)) -> Failure {
    let mut causes = vec![error.to_string()];
    let mut code = or_else;
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            code = of_io(io).unwrap_or(code);
        }
        let text = error.to_string();
        // Many errors already show the one below.
        if causes.iter().all(|known| !known.contains(&text)) {
            causes.push(text);
        }
        at = error.source();
    }
    Failure::new(Exit::Findings, code, kind.as_str(), causes.join(": "))
}

fn of_io(error: &std::io::Error) -> Option<Code> {
    use std::io::ErrorKind;
    // EMFILE and ENFILE have no kind of their own.
    if matches!(error.raw_os_error(), Some(23 | 24)) {
        return Some(FILES_EXHAUSTED);
    }
    match error.kind() {
        ErrorKind::AddrInUse => Some(PORT_IN_USE),
        ErrorKind::StorageFull | ErrorKind::ReadOnlyFilesystem => Some(STATE_UNWRITABLE),
        _ => None,
    }
}

fn failed(kind: Kind, cause: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Findings, cli::SERVER_FAILED, kind.as_str(), cause.to_string())
}
