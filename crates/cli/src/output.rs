//! Where a verb's one value goes: to stdout as table, JSON or YAML; everything else to stderr.
//!
//! Used by every verb. Colours appear on a terminal only, and never with `--no-color` or NO_COLOR.

use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

use clap::ValueEnum;
use hansa_core::code::cli;
use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::table::{Tone, clean};

/// How a value is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// One JSON document, by the schemas of `docs/schema`.
    Json,
    /// The same as YAML.
    Yaml,
}

/// The two streams, and how to write on them.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    pub(crate) format: Format,
    /// Colours on stdout.
    pub(crate) color: bool,
    quiet: bool,
}

impl Output {
    pub(crate) fn new(format: Format, no_color: bool, quiet: bool) -> Self {
        let forbidden = no_color || std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|v| v == "dumb");
        let color = !forbidden && !dumb && std::io::stdout().is_terminal();
        Self { format, color, quiet }
    }

    /// Prints the verb's value.
    pub(crate) fn value<T: Serialize>(
        &self,
        value: &T,
        table: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        let unprintable = |e: String| Failure::new(Exit::Internal, cli::ANSWER_UNREADABLE, "the answer", e);
        let text = match self.format {
            Format::Table => table(),
            Format::Json => serde_json::to_string_pretty(value).map_err(|e| unprintable(e.to_string()))?,
            Format::Yaml => serde_saphyr::to_string(value).map_err(|e| unprintable(e.to_string()))?,
        };
        self.text(&text)
    }

    /// Prints text as it is, with a newline at its end.
    pub(crate) fn text(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = std::io::stdout().lock();
        let end = if text.ends_with('\n') || text.is_empty() { "" } else { "\n" };
        let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.write_all(end.as_bytes()));
        match written.and_then(|()| stdout.flush()) {
            // `hansa services | head -1` has read enough.
            Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
            Err(e) => Err(Failure::new(Exit::Internal, cli::FILE_UNWRITABLE, "stdout", e.to_string())),
            Ok(()) => Ok(()),
        }
    }

    /// A remark for people, on stderr.
    pub(crate) fn say(&self, text: &str) {
        if !self.quiet {
            // Nobody reads stderr: nothing to do about it.
            let _ = writeln!(std::io::stderr(), "{}", clean(text));
        }
    }

    /// Prints an error on stderr and returns its exit code.
    pub(crate) fn failure(&self, failure: &Failure) -> ExitCode {
        // As above.
        let _ = writeln!(std::io::stderr(), "{}", self.shown(failure));
        failure.exit.into()
    }

    /// An error as it is printed.
    pub(crate) fn shown(&self, failure: &Failure) -> String {
        let error = &failure.error;
        match self.format {
            Format::Json => serde_json::to_string(error).unwrap_or_else(|_| error.to_string()),
            Format::Yaml => serde_saphyr::to_string(error).unwrap_or_else(|_| error.to_string()),
            Format::Table => {
                let color = self.color && std::io::stderr().is_terminal();
                let code = Tone::Bad.paint(&error.code, color);
                let rest = clean(&format!("{}: {}", error.object, error.cause));
                format!("{code} {rest}\n  next: {}", clean(&error.next))
            }
        }
    }
}
