//! Rules of the tree that no compiler checks: size, words, orphans, arrows between crates, message
//! codes that tests assert, and a code map that tells the truth.
//!
//! Called by `xtask tidy` and by a test of this crate. It reads; it mends nothing. Exceptions
//! stand in the tables at the top of each rule's file, each with its reason.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

mod arrows;
mod codes;
mod map;
mod orphans;
mod scrub;
mod source;

/// Files exempt from one rule: (rule, path prefix, reason). Keep it short.
pub(crate) const ALLOW: &[(&str, &str, &str)] = &[
    ("lines", "Cargo.lock", "made by cargo"),
    ("machine-path", "xtask/src/tidy/", "the rule has to name what it looks for"),
    ("issue", "xtask/src/tidy/", "the rule has to name what it looks for"),
];

/// Something that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Path from the workspace's root.
    pub path: String,
    /// Line, from 1; 0 for the whole file.
    pub line: usize,
    /// The rule's short name, as in [`ALLOW`].
    pub rule: &'static str,
    /// What is wrong.
    pub what: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: [{}] {}", self.path, self.line, self.rule, self.what)
    }
}

/// The files of the tree and their text.
pub(crate) struct Tree {
    pub(crate) root: PathBuf,
    /// Path from the root, and text; files that are not UTF-8 are left out.
    pub(crate) files: Vec<(String, String)>,
}

/// Checks every rule on the tree below `root`.
///
/// # Errors
/// When git or a file cannot be read.
pub fn check(root: &Path) -> anyhow::Result<Vec<Finding>> {
    let tree = Tree::read(root)?;
    let mut found = source::check(&tree);
    found.extend(orphans::check(&tree));
    found.extend(arrows::check(&tree));
    found.extend(codes::check(&tree));
    found.extend(map::check(&tree));
    found.retain(|f| !ALLOW.iter().any(|(rule, path, _)| f.rule == *rule && f.path.starts_with(path)));
    found.sort();
    found.dedup();
    Ok(found)
}

impl Tree {
    /// All files git knows or would add; ignored ones are nobody's.
    fn read(root: &Path) -> anyhow::Result<Self> {
        let args = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
        let out = Command::new("git").args(args).current_dir(root).output().context("cannot run git")?;
        ensure!(out.status.success(), "git ls-files: {}", String::from_utf8_lossy(&out.stderr));
        let names = String::from_utf8(out.stdout).context("a file name is not UTF-8")?;
        let mut files = Vec::new();
        for name in names.split('\0').filter(|n| !n.is_empty()) {
            // Deleted but still in the index, or binary: nothing to check.
            if let Ok(text) = std::fs::read_to_string(root.join(name)) {
                files.push((name.to_owned(), text));
            }
        }
        files.sort();
        files.dedup();
        Ok(Self { root: root.to_owned(), files })
    }

    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        let at = self.files.binary_search_by(|(name, _)| name.as_str().cmp(path)).ok()?;
        Some(&self.files[at].1)
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.text(path).is_some()
    }

    /// Folders with a `Cargo.toml` that names a package.
    pub(crate) fn packages(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().filter_map(|(name, text)| {
            let folder = name.strip_suffix("/Cargo.toml")?;
            text.contains("[package]").then_some((folder, text.as_str()))
        })
    }
}

#[cfg(test)]
pub(crate) fn tree(files: &[(&str, &str)]) -> Tree {
    let mut files: Vec<_> = files.iter().map(|(n, t)| ((*n).to_owned(), (*t).to_owned())).collect();
    files.sort();
    Tree { root: PathBuf::from("/nonexistent"), files }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_tree_is_tidy() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let found: Vec<_> = check(root).unwrap().iter().map(ToString::to_string).collect();
        assert!(found.is_empty(), "\n{}", found.join("\n"));
    }
}
