//! Runs commands for the rings: output shown as it comes, counts read from cargo's closing lines,
//! and a limit beyond which a hanging run is ended.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context as _;

use super::Outcome;

/// A run that takes longer hangs. Seconds, as `timeout` takes them.
const LIMIT: &str = "3600";

/// Runs cargo with its output where ours goes; whether it succeeded.
pub(super) fn cargo(root: &Path, args: &[&str]) -> anyhow::Result<bool> {
    let status = limited(root, cargo_path(), args).status().context("cannot run cargo")?;
    Ok(status.success())
}

/// Runs `cargo test` and counts what its test binaries say.
pub(super) fn cargo_test(root: &Path, args: &[&str]) -> anyhow::Result<Outcome> {
    let mut child =
        limited(root, cargo_path(), args).stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
    let mut outcome = Outcome::default();
    if let Some(out) = child.stdout.take() {
        show(out, |line| {
            if let Some(counted) = closing_line(line) {
                outcome.add(counted);
            }
        })?;
    }
    let succeeded = child.wait()?.success();
    if !succeeded && outcome.failed == 0 {
        // A binary that did not build, or broke off before its closing line.
        eprintln!("cargo {} ended badly without naming a test", args.join(" "));
        outcome.failed = 1;
    }
    Ok(outcome)
}

/// A command that `timeout` ends with all its children if it hangs; coreutils are everywhere.
pub(super) fn limited(root: &Path, program: impl AsRef<OsStr>, args: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=30", LIMIT]).arg(program).args(args).current_dir(root).stdin(Stdio::null());
    command
}

fn cargo_path() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Passes lines on as they come, and to `see`.
fn show(out: impl Read, mut see: impl FnMut(&str)) -> anyhow::Result<()> {
    let mut lines = BufReader::new(out);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(&line)?;
        stdout.flush()?;
        see(&String::from_utf8_lossy(&line));
        line.clear();
    }
    Ok(())
}

/// `test result: ok. 46 passed; 0 failed; 1 ignored; …` as counts.
fn closing_line(line: &str) -> Option<Outcome> {
    // A test that prints without a line break may leave its text in front.
    let (_, rest) = line.split_once("test result: ")?;
    let (_, counts) = rest.split_once(". ")?;
    let count = |what: &str| {
        let part = counts.split("; ").find_map(|p| p.trim().strip_suffix(what))?;
        part.trim().parse::<u64>().ok()
    };
    let (passed, failed, ignored) = (count("passed")?, count("failed")?, count("ignored")?);
    Some(Outcome { ran: passed + failed, failed, skipped: ignored, seconds: 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_counted() {
        let rest = "0 measured; 0 filtered out; finished in 0.11s";
        for (line, wanted) in [
            (format!("test result: ok. 32 passed; 0 failed; 0 ignored; {rest}"), Some((32, 0, 0))),
            (format!("test result: FAILED. 3 passed; 2 failed; 1 ignored; {rest}\n"), Some((5, 2, 1))),
            (format!("noise test result: ok. 0 passed; 0 failed; 0 ignored; {rest}"), Some((0, 0, 0))),
            ("test x ... ok".to_owned(), None),
            ("test result: odd".to_owned(), None),
        ] {
            let seen = closing_line(&line).map(|o| (o.ran, o.failed, o.skipped));
            assert_eq!(seen, wanted, "{line}");
        }
    }

    #[test]
    fn lines_pass_through_whole_even_when_they_are_no_text() {
        let mut seen = Vec::new();
        show(&b"one\n\xff\nlast"[..], |line| seen.push(line.to_owned())).unwrap();
        assert_eq!(seen, ["one\n", "\u{fffd}\n", "last"]);
    }
}
