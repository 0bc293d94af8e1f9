//! What `hansa demo` says when it cannot do what was asked: the object, the cause, and the next command.
//! Made by the verbs, printed by the command line; decides nothing.

use std::path::Path;

use super::{FAILED, USAGE};

/// An error on its way to a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {cause}\n  next: {next}")]
pub struct Trouble {
    /// What it is about.
    pub object: String,
    /// What happened.
    pub cause: String,
    /// What to run or do next.
    pub next: String,
    /// Exit code.
    pub exit: u8,
}

impl Trouble {
    /// Something is not as it must be.
    pub(super) fn new(object: &str, cause: impl Into<String>, next: impl Into<String>) -> Self {
        Self { object: object.into(), cause: cause.into(), next: next.into(), exit: FAILED }
    }

    /// The command line asks for what there is not.
    pub(super) fn usage(object: &str, cause: impl Into<String>, next: impl Into<String>) -> Self {
        Self { exit: USAGE, ..Self::new(object, cause, next) }
    }

    /// Whatever an error is; one that is none of ours is about the demo in this folder.
    pub(super) fn of(error: anyhow::Error, dir: Option<&Path>) -> Self {
        error.downcast().unwrap_or_else(|other: anyhow::Error| {
            let at = dir.map(|dir| format!(" --dir {}", dir.display())).unwrap_or_default();
            Self::new("demo", format!("{other:#}"), format!("hansa demo down{at}"))
        })
    }

    /// Whether the command line asked for what there is not.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        self.exit == USAGE
    }

    /// A verb that needs a demo which is up.
    pub(super) fn not_up(dir: &Path) -> Self {
        let shown = dir.display().to_string();
        Self::new(&shown, "no demo is up in this folder", format!("hansa demo up --dir {shown}"))
    }
}
