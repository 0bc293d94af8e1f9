//! What `hansa demo` says when it cannot do what was asked: the object, the cause, and the next command.
//! Made by the verbs, printed by the demo; decides nothing.

use std::path::Path;

use super::{FAILED, USAGE};

/// An error on its way to a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {cause}\n  next: {next}")]
pub(super) struct Trouble {
    object: String,
    cause: String,
    next: String,
    /// Exit code.
    pub(super) exit: u8,
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

    /// A verb that needs a demo which is up.
    pub(super) fn not_up(dir: &Path) -> Self {
        let shown = dir.display().to_string();
        Self::new(&shown, "no demo is up in this folder", format!("hansa demo up --dir {shown}"))
    }
}
