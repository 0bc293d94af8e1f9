//! The rings, what cargo runs for each, and `.ci/milestones`, which lists the rings and demo
//! steps of the finished milestones: those that a change must not break.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context as _, bail};

/// Where the list lies, from the workspace's root.
const FILE: &str = ".ci/milestones";

/// A ring of tests, from the inside out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ring {
    /// Values and single modules, and the examples in the documentation.
    Value,
    /// Components talking over loopback sockets.
    Loopback,
    /// Members in network namespaces, with faults.
    Netns,
    /// Independent implementations as judges.
    Referees,
    /// The steps of `hansa demo`.
    Demo,
}

/// All rings in running order.
const ALL: [Ring; 5] = [Ring::Value, Ring::Loopback, Ring::Netns, Ring::Referees, Ring::Demo];

/// Arguments of one `cargo test`, and those of its test binaries.
#[derive(Debug)]
pub(super) struct Selection {
    cargo: Vec<String>,
    binary: Vec<String>,
}

/// What `.ci/milestones` lists.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Milestones {
    rings: Vec<Ring>,
    steps: Vec<String>,
}

impl Ring {
    fn name(self) -> &'static str {
        match self {
            Self::Value => "value",
            Self::Loopback => "loopback",
            Self::Netns => "netns",
            Self::Referees => "referees",
            Self::Demo => "demo",
        }
    }

    /// Whether this ring drives the `hansa` binary, which must be built first.
    pub(super) fn needs_binary(self) -> bool {
        matches!(self, Self::Netns | Self::Referees | Self::Demo)
    }

    /// Whether this ring drives the lab's own tool, which `cargo test --test` does not build.
    pub(super) fn needs_tool(self) -> bool {
        matches!(self, Self::Loopback)
    }

    /// What cargo runs for this ring; nothing for the demo, which is no cargo test. Always the
    /// whole workspace, so that all rings share one build of every dependency.
    pub(super) fn selections(self, root: &Path) -> anyhow::Result<Vec<Selection>> {
        let select = |chosen: &[&str], tests: BTreeSet<String>| {
            let fixed = std::iter::once(&"--workspace").chain(chosen).map(|a| (*a).to_owned());
            let tests = tests.into_iter().map(|name| format!("--test={name}"));
            Selection { cargo: fixed.chain(tests).collect(), binary: Vec::new() }
        };
        // Faults and deadlines are judged by the clock there, so one story at a time.
        let alone = |name: &str| Selection {
            binary: vec!["--test-threads=1".to_owned()],
            ..select(&[], BTreeSet::from([name.to_owned()]))
        };
        let replay = |name: &String| name.starts_with("fuzz");
        let own = ["netns", "referees"];
        Ok(match self {
            Self::Value => {
                let replays = binaries(root)?.into_iter().filter(replay).collect();
                vec![select(&["--lib", "--bins"], replays), select(&["--doc"], BTreeSet::new())]
            }
            Self::Loopback => {
                let mut rest = binaries(root)?;
                rest.retain(|name| !replay(name) && !own.contains(&name.as_str()));
                // Without a name cargo would run all there is.
                if rest.is_empty() { vec![] } else { vec![select(&[], rest)] }
            }
            Self::Netns => vec![alone("netns")],
            Self::Referees => vec![alone("referees")],
            Self::Demo => vec![],
        })
    }
}

/// The integration tests of all packages, so that none is in no ring.
fn binaries(root: &Path) -> anyhow::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for above in [root.to_owned(), root.join("crates")] {
        for package in std::fs::read_dir(above)? {
            let folder = package?.path().join("tests");
            if !folder.with_file_name("Cargo.toml").exists() || !folder.exists() {
                continue;
            }
            for entry in std::fs::read_dir(&folder)? {
                let path = entry?.path();
                let is_test = path.extension().is_some_and(|e| e == "rs") || path.join("main.rs").exists();
                found.extend(path.file_stem().filter(|_| is_test).map(|s| s.to_string_lossy().into_owned()));
            }
        }
    }
    Ok(found)
}

impl Selection {
    pub(super) fn build(&self) -> impl Iterator<Item = &str> {
        self.cargo.iter().map(String::as_str)
    }

    pub(super) fn run(&self) -> impl Iterator<Item = &str> {
        let mark = (!self.binary.is_empty()).then_some("--");
        self.build().chain(mark).chain(self.binary.iter().map(String::as_str))
    }

    pub(super) fn is_doc(&self) -> bool {
        self.build().any(|arg| arg == "--doc")
    }
}

impl Milestones {
    pub(super) fn read(root: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(root.join(FILE)).with_context(|| format!("cannot read {FILE}"))?;
        Self::parse(&text)
    }

    /// One `ring NAME` or `step ID` per line; `#` begins a comment.
    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut found = Self::default();
        for (n, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            match line.split_once(' ') {
                None if line.is_empty() => {}
                Some(("ring", name)) => {
                    let ring = name.trim().parse().with_context(|| format!("{FILE}:{}", n + 1))?;
                    found.rings.push(ring);
                }
                Some(("step", id)) => found.steps.push(id.trim().to_owned()),
                _ => bail!("{FILE}:{}: neither `ring NAME` nor `step ID`: {line}", n + 1),
            }
        }
        Ok(found)
    }

    /// In running order; steps imply the demo.
    pub(super) fn rings(&self) -> Vec<Ring> {
        let listed = |r: &Ring| self.rings.contains(r) || (*r == Ring::Demo && !self.steps.is_empty());
        ALL.into_iter().filter(listed).collect()
    }

    pub(super) fn steps(&self) -> &[String] {
        &self.steps
    }
}

impl fmt::Display for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Ring {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> anyhow::Result<Self> {
        let known = || ALL.map(Self::name).join(", ");
        ALL.into_iter()
            .find(|r| r.name() == name)
            .with_context(|| format!("no ring {name}; known: {}", known()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_parsed_and_put_in_order() {
        let list =
            Milestones::parse("# M1\nstep up\nring loopback # now\n\nring value\nstep join\n").unwrap();
        assert_eq!(list.rings(), [Ring::Value, Ring::Loopback, Ring::Demo]);
        assert_eq!(list.steps(), ["up", "join"]);
        for bad in ["ring nowhere", "steps up", "ring"] {
            assert!(Milestones::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_committed_list_is_valid() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        assert!(Milestones::read(root).unwrap().rings().contains(&Ring::Value));
    }

    #[test]
    fn names_round_trip() {
        for ring in ALL {
            assert_eq!(ring.to_string().parse::<Ring>().unwrap(), ring);
        }
    }
}
