//! How a command ends: exit codes, and the error it prints before.
//!
//! Used by every verb. Nothing here prints except the answer to a wrong command line.

use std::process::ExitCode;

use hansa_api::view;
use hansa_core::code::{Code, cli};

/// Exit codes of all verbs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done, and all is well.
    Ok = 0,
    /// A check found something, or what was asked for cannot be done.
    Findings = 1,
    /// Somebody cannot be reached.
    Unreachable = 3,
    /// The deadline passed.
    TimedOut = 4,
    /// Refused: identity, token, trust, permission.
    Refused = 5,
    /// Wrong usage.
    Usage = 64,
    /// A fault of ours.
    Internal = 70,
}

/// What the reference says of each exit code; 2 is kept for warnings.
pub(crate) const EXITS: &[(u8, &str)] = &[
    (0, "done, and all is well"),
    (1, "a check found something, or what was asked for cannot be done"),
    (2, "warnings (kept for verbs with `--fail-on warn`)"),
    (3, "not connected: the controller, a peer or a DNS server cannot be reached"),
    (4, "the deadline of `--timeout` passed"),
    (5, "refused: identity, token, trust or permission"),
    (64, "wrong usage: arguments or configuration"),
    (70, "a fault of hansa itself"),
];

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error on its way to the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) exit: Exit,
    /// What is printed.
    pub(crate) error: Box<view::Error>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, code: Code, object: impl Into<String>, cause: impl Into<String>) -> Self {
        Self { exit, error: Box::new(view::Error::new(code, object, cause)) }
    }

    /// Wrong usage that only the verb could see.
    pub(crate) fn usage(object: impl Into<String>, cause: impl Into<String>) -> Self {
        Self::new(Exit::Usage, cli::USAGE, object, cause)
    }

    /// A file that cannot be read or written.
    pub(crate) fn file(path: &std::path::Path, cause: impl std::fmt::Display) -> Self {
        let object = path.display().to_string();
        Self::new(Exit::Findings, cli::FILE_UNWRITABLE, object, cause.to_string())
    }

    /// An error the controller answered with: the exit code follows from the code, or from the
    /// HTTP status where the code says nothing.
    pub(crate) fn answered(status: http::StatusCode, error: view::Error) -> Self {
        let number: u16 = error.code.strip_prefix("HNS-").and_then(|n| n.parse().ok()).unwrap_or(0);
        let exit = match number {
            3000..=3099 => Exit::Refused,
            4003 | 4009 | 7001 | 7008 => Exit::Unreachable,
            7002 => Exit::TimedOut,
            7004 => Exit::Usage,
            _ => match status.as_u16() {
                401 | 403 => Exit::Refused,
                502 | 503 => Exit::Unreachable,
                408 | 504 => Exit::TimedOut,
                500 => Exit::Internal,
                _ => Exit::Findings,
            },
        };
        Self { exit, error: Box::new(error) }
    }
}

/// Prints help, version or what is wrong with the command line.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    // Nothing is left to tell when even this cannot be printed.
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Ok.into(),
        _ => Exit::Usage.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hansa_core::code::{control, trust};

    #[test]
    fn answers_end_with_the_exit_code_of_their_code() {
        let exit = |status: u16, code| {
            let status = http::StatusCode::from_u16(status).unwrap();
            Failure::answered(status, view::Error::new(code, "x", "y")).exit
        };
        assert_eq!(exit(400, trust::TOKEN_EXPIRED), Exit::Refused);
        assert_eq!(exit(502, control::PEER_UNREACHABLE), Exit::Unreachable);
        assert_eq!(exit(409, control::JOIN_SELF), Exit::Findings);
        assert_eq!(exit(504, control::JOIN_KNOWN), Exit::TimedOut);
        assert_eq!(exit(404, cli::NOT_FOUND), Exit::Findings);
    }
}
