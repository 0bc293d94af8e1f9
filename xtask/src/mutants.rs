//! Puts known faults into a copy of the tree, one line each, and asks whether a test turns red.
//!
//! Called by `xtask mutants`. The list is `.ci/mutants`. It works on a copy and builds in a folder of
//! its own, so that neither the tree nor what is built of it is ever touched, and it first asks for
//! green: a test that is red anyway proves nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};

/// Where the list lies, from the workspace's root.
const LIST: &str = ".ci/mutants";
/// Where the copy is made.
const COPY: &str = "target/mutants";
/// A mutant may make a test hang, which is also an answer. Seconds.
const LIMIT: &str = "600";

/// One fault: a text that occurs once in a file, what stands there instead, and the tests that
/// must notice.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Mutant {
    name: String,
    file: String,
    find: String,
    put: String,
    test: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Green,
    Red,
    DoesNotBuild,
}

/// Runs all mutants, or the one named; `true` when each turned a test red.
///
/// # Errors
/// When the list or the copy is unusable.
pub fn run(root: &Path, only: Option<&str>) -> anyhow::Result<bool> {
    let text = std::fs::read_to_string(root.join(LIST)).with_context(|| format!("cannot read {LIST}"))?;
    let mut mutants = parse(&text)?;
    mutants.retain(|m| only.is_none_or(|name| m.name == name));
    ensure!(!mutants.is_empty(), "no such mutant in {LIST}");
    let copy = copy(root)?;
    let tests: BTreeSet<_> = mutants.iter().map(|m| m.test.clone()).collect();
    for test in tests {
        println!("without a fault: cargo test {test}");
        let verdict = judge(&copy, &test)?;
        ensure!(verdict == Verdict::Green, "cargo test {test} is not green without a fault ({verdict:?})");
    }
    let mut survived = Vec::new();
    for mutant in &mutants {
        let verdict = mutant.try_on(&copy)?;
        let word = match verdict {
            Verdict::Red => "red, as it must be",
            Verdict::Green => "SURVIVED: no test noticed",
            Verdict::DoesNotBuild => "DOES NOT BUILD: the mutant needs care",
        };
        println!("{:<28} {word}", mutant.name);
        if verdict != Verdict::Red {
            survived.push(mutant.name.as_str());
        }
    }
    std::fs::remove_dir_all(&copy)?;
    println!("{} red, {} not", mutants.len() - survived.len(), survived.len());
    Ok(survived.is_empty())
}

impl Mutant {
    fn try_on(&self, copy: &Path) -> anyhow::Result<Verdict> {
        let path = copy.join(&self.file);
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("{}: no {}", self.name, self.file))?;
        let broken = self.apply(&text)?;
        std::fs::write(&path, broken)?;
        let verdict = judge(copy, &self.test);
        std::fs::write(&path, text)?;
        verdict
    }

    fn apply(&self, text: &str) -> anyhow::Result<String> {
        let times = text.matches(&self.find).count();
        ensure!(times == 1, "{}: its text occurs {times} times in {}", self.name, self.file);
        Ok(text.replacen(&self.find, &self.put, 1))
    }
}

fn judge(copy: &Path, test: &str) -> anyhow::Result<Verdict> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let run = |extra: &[&str]| {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=10", LIMIT]).arg(&cargo).args(["test", "--quiet"]).args(extra);
        command.args(test.split_whitespace().take_while(|a| *a != "--" || extra.is_empty()));
        if let Some(builds) = std::env::var_os("CARGO_TARGET_DIR") {
            // Cargo would take what is built of the copy for the tree's: same names, and younger.
            command.env("CARGO_TARGET_DIR", Path::new(&builds).join("mutants"));
        }
        command.current_dir(copy).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().context("cannot run cargo")
    };
    if !run(&["--no-run"])?.success() {
        return Ok(Verdict::DoesNotBuild);
    }
    Ok(if run(&[])?.success() { Verdict::Green } else { Verdict::Red })
}

/// Copies what git knows or would add; the last copy goes first.
fn copy(root: &Path) -> anyhow::Result<PathBuf> {
    let to = root.join(COPY);
    if to.exists() {
        std::fs::remove_dir_all(&to)?;
    }
    let args = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let out = Command::new("git").args(args).current_dir(root).output().context("cannot run git")?;
    ensure!(out.status.success(), "git ls-files failed");
    for name in String::from_utf8(out.stdout)?.split('\0').filter(|n| !n.is_empty()) {
        let (source, target) = (root.join(name), to.join(name));
        if source.is_file() {
            std::fs::create_dir_all(target.parent().context("a file has a folder")?)?;
            std::fs::copy(&source, &target).with_context(|| format!("cannot copy {name}"))?;
        }
    }
    Ok(to)
}

/// Blocks of `mutant`, `file`, `find`, `put` and `test`, each on one line; `#` begins a comment
/// line. `\n` in `find` and `put` is a line break.
fn parse(text: &str) -> anyhow::Result<Vec<Mutant>> {
    let mut found: Vec<Mutant> = Vec::new();
    let lines = text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty() && !l.starts_with('#'));
    for (n, line) in lines {
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        let value = value.trim().replace("\\n", "\n");
        if key == "mutant" {
            found.push(Mutant { name: value, ..Mutant::default() });
            continue;
        }
        let Some(last) = found.last_mut() else { bail!("{LIST}:{}: before the first mutant", n + 1) };
        match key {
            "file" => last.file = value,
            "find" => last.find = value,
            "put" => last.put = value,
            "test" => last.test = value,
            _ => bail!("{LIST}:{}: unknown word {key}", n + 1),
        }
    }
    for m in &found {
        ensure!(
            !m.file.is_empty() && !m.find.is_empty() && !m.test.is_empty(),
            "{LIST}: {} is not whole",
            m.name
        );
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_parsed_and_incomplete_ones_refused() {
        let text = "# x\nmutant a\nfile f.rs\nfind if x {\nput if true {\ntest -p p\n\nmutant b\nfile g\nfind 1\nput\ntest t\n";
        let found = parse(text).unwrap();
        assert_eq!((found[0].find.as_str(), found[0].put.as_str()), ("if x {", "if true {"));
        assert_eq!((found.len(), found[1].put.as_str()), (2, ""));
        for bad in ["file x\n", "mutant a\nfile f\n", "mutant a\nodd b\n"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_text_must_occur_once() {
        let m = Mutant { find: "x".into(), put: "y".into(), ..Mutant::default() };
        assert_eq!(m.apply("axb").unwrap(), "ayb");
        assert!(m.apply("ab").is_err() && m.apply("xx").is_err());
    }

    #[test]
    fn every_listed_fault_still_finds_its_place() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for mutant in parse(&std::fs::read_to_string(root.join(LIST)).unwrap()).unwrap() {
            mutant.apply(&std::fs::read_to_string(root.join(&mutant.file)).unwrap()).unwrap();
        }
    }
}
