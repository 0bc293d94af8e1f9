//! Process limits: raises the soft limit of open files to the hard one at start.
//!
//! Called once by each server's wiring. It never lowers a limit.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limit of open file descriptors before and after [`raise_open_files`]; `None` is unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFiles {
    /// The soft limit found.
    pub before: Option<u64>,
    /// The soft limit now.
    pub after: Option<u64>,
}

/// Raises the soft limit of open files to the hard limit. A server with one descriptor per
/// connection otherwise stops at the shell's customary 1,024.
///
/// # Errors
/// When the kernel refuses; the old limit then stays and the server can still run.
pub fn raise_open_files() -> std::io::Result<OpenFiles> {
    let found = getrlimit(Resource::Nofile);
    if found.current == found.maximum {
        return Ok(OpenFiles { before: found.current, after: found.current });
    }
    let wanted = Rlimit { current: found.maximum, maximum: found.maximum };
    setrlimit(Resource::Nofile, wanted)?;
    Ok(OpenFiles { before: found.current, after: getrlimit(Resource::Nofile).current })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_reaches_the_hard_one_and_stays() {
        let raised = raise_open_files().unwrap();
        assert_eq!(raised.after, getrlimit(Resource::Nofile).maximum);
        let again = raise_open_files().unwrap();
        assert_eq!(again.before, again.after);
    }
}
