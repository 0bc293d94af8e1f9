//! Logs: one line per event, JSON unless a person reads the terminal, a level that changes at
//! run time, and access lines with a switch of their own.
//!
//! Called once by each process's `main`, later by the admin endpoint and the metrics. The data
//! path never waits for a disk or a terminal here: lines pass a bounded queue to one thread
//! (`logs/writer.rs`), and what does not fit is dropped and counted.

use std::fs::{File, OpenOptions};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

use crate::tasks::Tasks;

mod writer;

use writer::Writer;

/// The target of access lines: `info!(target: ACCESS, { bytes.sent = 7 }, "connection")`.
pub const ACCESS: &str = "access";

/// How to log. `Default` is: level `info`, access lines on, stderr, JSON unless it is a terminal.
#[derive(Clone, Debug)]
pub struct Options {
    /// A level (`debug`) or directives (`info,quinn=warn`).
    pub level: String,
    /// Whether access lines are written; independent of the level.
    pub access: bool,
    /// Where lines go.
    pub output: Output,
    /// How lines look.
    pub format: Format,
}

/// Where log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Standard error.
    Stderr,
    /// Appended to this file, which [`Logs::reopen`] opens anew after a rotation.
    File(PathBuf),
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line.
    Json,
    /// Text for people, coloured on a terminal.
    Text,
    /// Text on a terminal, JSON otherwise.
    Auto,
}

impl Default for Options {
    fn default() -> Self {
        Self { level: "info".to_owned(), access: true, output: Output::Stderr, format: Format::Auto }
    }
}

/// Why logging could not start or change.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level is no level and no list of directives.
    #[error("{level:?} is not a log level (error, warn, info, debug, trace) or filter: {source}")]
    Level {
        /// As given.
        level: String,
        /// The cause.
        source: ParseError,
    },
    /// The log file or the writer's thread could not be opened.
    #[error("cannot open log {path}: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Logging is set up already in this process.
    #[error("logging is already set up")]
    Twice,
}

/// Handle on the process's logs. Clones share it.
#[derive(Clone, Debug)]
pub struct Logs {
    filter: reload::Handle<EnvFilter, Registry>,
    setting: Arc<Mutex<Setting>>,
    writer: Writer,
}

#[derive(Clone, Debug)]
struct Setting {
    level: String,
    access: bool,
}

/// Sets up logging for the process.
///
/// # Errors
/// [`LogError`]; nothing is logged then, so the caller prints it.
pub fn init(options: &Options) -> Result<Logs, LogError> {
    let (logs, subscriber) = build(options)?;
    subscriber.try_init().map_err(|_| LogError::Twice)?;
    Ok(logs)
}

/// A handle and the subscriber to install: `init` does it for the process, tests for a scope.
pub(crate) fn build(options: &Options) -> Result<(Logs, impl tracing::Subscriber + Send + Sync), LogError> {
    let setting = Setting { level: options.level.clone(), access: options.access };
    let (filter, handle) = reload::Layer::new(setting.filter()?);
    let terminal = options.output == Output::Stderr && std::io::stderr().is_terminal();
    let writer = Writer::start(&options.output)?;
    let json = match options.format {
        Format::Json => true,
        Format::Text => false,
        Format::Auto => !terminal,
    };
    let lines = if json {
        let layer = fmt::layer().json().flatten_event(true).with_span_list(false);
        layer.with_writer(writer.clone()).with_ansi(false).boxed()
    } else {
        fmt::layer().with_writer(writer.clone()).with_ansi(terminal).boxed()
    };
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    let logs = Logs { filter: handle, setting: Arc::new(Mutex::new(setting)), writer };
    Ok((logs, subscriber))
}

impl Logs {
    /// Changes the level or directives, from the next line on.
    ///
    /// # Errors
    /// [`LogError::Level`]; the old level then stays.
    pub fn set_level(&self, level: &str) -> Result<(), LogError> {
        self.change(|s| level.trim().clone_into(&mut s.level))
    }

    /// Switches access lines on or off.
    ///
    /// # Errors
    /// Never in practice; the present level parsed before.
    pub fn set_access(&self, on: bool) -> Result<(), LogError> {
        self.change(|s| s.access = on)
    }

    /// The level or directives in force.
    #[must_use]
    pub fn level(&self) -> String {
        self.setting.lock().unwrap_or_else(PoisonError::into_inner).level.clone()
    }

    /// Whether access lines are written.
    #[must_use]
    pub fn access(&self) -> bool {
        self.setting.lock().unwrap_or_else(PoisonError::into_inner).access
    }

    /// How many lines were dropped since the start because the queue was full or the disk
    /// refused them.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.writer.dropped()
    }

    /// Opens the log file anew after it was moved away (SIGHUP).
    pub fn reopen(&self) {
        self.writer.reopen();
    }

    /// Listens for SIGHUP on a task of `tasks` and opens the log file anew at each.
    ///
    /// # Errors
    /// When the signal handler cannot be installed.
    pub fn listen_hangup(&self, tasks: &Tasks) -> std::io::Result<()> {
        let mut hangup = signal(SignalKind::hangup())?;
        let logs = self.clone();
        tasks.spawn_until_shutdown("log-reopen", async move {
            while hangup.recv().await.is_some() {
                logs.reopen();
            }
        });
        Ok(())
    }

    /// Waits until the lines so far are written, at most `limit`. Call before the process exits.
    pub fn flush(&self, limit: Duration) -> bool {
        self.writer.flush(limit)
    }

    fn change(&self, edit: impl FnOnce(&mut Setting)) -> Result<(), LogError> {
        let mut slot = self.setting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut wanted = slot.clone();
        edit(&mut wanted);
        let filter = wanted.filter()?;
        // Fails only when the subscriber is gone, and then there is nothing to change.
        let _ = self.filter.reload(filter);
        *slot = wanted;
        Ok(())
    }
}

impl Setting {
    fn filter(&self) -> Result<EnvFilter, LogError> {
        let access = if self.access { "info" } else { "off" };
        let refuse = |source| LogError::Level { level: self.level.clone(), source };
        // An empty text would parse as "everything off".
        let level = if self.level.is_empty() { "info" } else { &self.level };
        EnvFilter::builder().parse(format!("{level},{ACCESS}={access}")).map_err(refuse)
    }
}

fn open(path: &PathBuf) -> Result<File, LogError> {
    let file = OpenOptions::new().append(true).create(true).open(path);
    file.map_err(|source| LogError::Open { path: path.clone(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::{debug, info, subscriber::with_default, warn};

    const LONG: Duration = Duration::from_secs(20);

    fn options(path: &std::path::Path) -> Options {
        let output = Output::File(path.to_owned());
        Options { output, format: Format::Json, ..Options::default() }
    }

    fn lines(path: &std::path::Path) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    #[test]
    fn lines_are_flat_json_and_level_and_access_switch_at_run_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        let (logs, subscriber) = build(&options(&path)).unwrap();
        with_default(subscriber, || {
            debug!("hidden");
            info!(peer.cluster = "b", count = 3, "shown");
            logs.set_level("warn").unwrap();
            info!("hidden");
            warn!("loud");
            info!(target: ACCESS, { bytes.sent = 7 }, "connection");
            logs.set_access(false).unwrap();
            info!(target: ACCESS, "hidden");
            logs.set_level("debug").unwrap();
            debug!("deep");
            assert!(matches!(logs.set_level("a=b=c"), Err(LogError::Level { .. })));
            assert_eq!(logs.level(), "debug");
        });
        assert!(logs.flush(LONG));
        let seen = lines(&path);
        let messages: Vec<_> = seen.iter().map(|l| l["message"].as_str().unwrap()).collect();
        assert_eq!(messages, ["shown", "loud", "connection", "deep"]);
        assert_eq!(seen[0]["peer.cluster"], "b");
        assert_eq!(seen[0]["count"], 3);
        assert_eq!(seen[2]["target"], ACCESS);
        assert_eq!(logs.dropped(), 0);
    }

    #[test]
    fn a_rotated_file_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("log"), dir.path().join("log.1"));
        let (logs, subscriber) = build(&options(&path)).unwrap();
        with_default(subscriber, || {
            info!("one");
            assert!(logs.flush(LONG));
            std::fs::rename(&path, &old).unwrap();
            logs.reopen();
            info!("two");
        });
        assert!(logs.flush(LONG));
        assert_eq!(lines(&old)[0]["message"], "one");
        assert_eq!(lines(&path)[0]["message"], "two");
    }

    #[test]
    fn a_bad_level_or_path_is_refused_at_the_start() {
        let bad = Options { level: "loud=very=much".into(), ..Options::default() };
        assert!(matches!(build(&bad), Err(LogError::Level { .. })));
        let lost = options(std::path::Path::new("/nowhere/at/all/log"));
        assert!(matches!(build(&lost), Err(LogError::Open { .. })));
    }
}
