//! Every `.rs` file must be reachable from a Cargo target through `mod` lines; one that is not is
//! compiled by nobody.

use std::collections::{BTreeMap, BTreeSet};

use super::{Finding, Tree};

/// Folders whose direct `.rs` files, or `*/main.rs`, are targets of a package by themselves.
const TARGET_FOLDERS: &[&str] = &["src/bin", "tests", "benches", "examples"];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut reached = BTreeSet::new();
    let mut open = Vec::new();
    for (folder, manifest) in tree.packages() {
        open.extend(targets(tree, folder, manifest).into_iter().map(|path| (path, true)));
    }
    while let Some((path, is_root)) = open.pop() {
        let Some(text) = tree.text(&path) else { continue };
        if reached.insert(path.clone()) {
            open.extend(children(tree, &path, text, is_root));
        }
    }
    let rust = tree.files.iter().filter(|(path, _)| path.ends_with(".rs"));
    rust.filter(|(path, _)| !reached.contains(path))
        .map(|(path, _)| Finding {
            path: path.clone(),
            line: 0,
            rule: "orphan",
            what: "no target and no `mod` line reaches it".to_owned(),
        })
        .collect()
}

fn targets(tree: &Tree, folder: &str, manifest: &str) -> Vec<String> {
    let mut found =
        vec![format!("{folder}/src/lib.rs"), format!("{folder}/src/main.rs"), format!("{folder}/build.rs")];
    for line in manifest.lines() {
        if let Some(path) = line.trim().strip_prefix("path").and_then(quoted)
            && path.ends_with(".rs")
        {
            found.push(normal(&format!("{folder}/{path}")));
        }
    }
    for inner in TARGET_FOLDERS {
        let prefix = format!("{folder}/{inner}/");
        let below = tree.files.iter().filter_map(|(path, _)| Some((path, path.strip_prefix(&prefix)?)));
        let target = |rest: &str| !rest.contains('/') || rest.split('/').nth(1) == Some("main.rs");
        found.extend(below.filter(|(_, rest)| target(rest)).map(|(path, _)| path.clone()));
    }
    found
}

/// Files that the `mod` and `include!` lines of `path` name.
fn children(tree: &Tree, path: &str, text: &str, is_root: bool) -> Vec<(String, bool)> {
    let (folder, file) = path.rsplit_once('/').unwrap_or((".", path));
    let stem = file.trim_end_matches(".rs");
    let below = if is_root || stem == "mod" { folder.to_owned() } else { format!("{folder}/{stem}") };
    let mut found = Vec::new();
    let mut given = None;
    // Names of inline modules that enclose the line, by their indentation.
    let mut inline: BTreeMap<usize, String> = BTreeMap::new();
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim();
        if line == "}" {
            inline.retain(|at, _| *at < indent);
        }
        if let Some(path) = line.strip_prefix("#[path").and_then(quoted) {
            given = Some(normal(&format!("{folder}/{path}")));
        } else if let Some(path) = line.split("include!(").nth(1).and_then(quoted) {
            found.push((normal(&format!("{folder}/{path}")), false));
        } else if let Some(name) = module(line) {
            if let Some(name) = name.strip_suffix(';') {
                let at = inline.values().fold(below.clone(), |at, name| format!("{at}/{name}"));
                let plain = [format!("{at}/{name}.rs"), format!("{at}/{name}/mod.rs")];
                let file = given.take().or_else(|| plain.into_iter().find(|p| tree.has(p)));
                found.extend(file.map(|f| (f, false)));
            } else if let Some(name) = name.strip_suffix('{') {
                inline.insert(indent, name.trim().to_owned());
            }
        }
    }
    found
}

/// `name;` or `name {` of a line that declares a module.
fn module(line: &str) -> Option<&str> {
    let line = match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(')')?.1,
        Some(rest) => rest,
        None => line,
    };
    let name = line.trim_start().strip_prefix("mod ")?.trim();
    name.trim_end_matches([';', '{', ' ']).chars().all(|c| c.is_alphanumeric() || c == '_').then_some(name)
}

fn quoted(text: &str) -> Option<&str> {
    text.split('"').nth(1)
}

/// Resolves `.` and `..` in a path from the root.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "." | "" => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;

    #[test]
    fn reaches_through_every_kind_of_line_and_finds_the_rest() {
        let found = check(&tree(&[
            ("a/Cargo.toml", "[package]\n[[bin]]\npath = \"bin/x.rs\"\n"),
            ("a/src/lib.rs", "pub mod one;\nmod inner {\n    mod deep;\n}\n#[path = \"odd/f.rs\"]\nmod f;"),
            ("a/src/one.rs", "pub(crate) mod two;\n"),
            ("a/src/one/two.rs", "include!(\"three.rs\");"),
            ("a/src/one/three.rs", ""),
            ("a/src/inner/deep.rs", ""),
            ("a/src/odd/f.rs", ""),
            ("a/bin/x.rs", ""),
            ("a/tests/t.rs", "mod common;"),
            ("a/tests/common.rs", ""),
            ("a/tests/ring/main.rs", "mod story;"),
            ("a/tests/ring/story.rs", ""),
            ("a/src/lost.rs", ""),
            ("a/src/one/lost.rs", ""),
        ]));
        let lost: Vec<_> = found.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(lost, ["a/src/lost.rs", "a/src/one/lost.rs"]);
    }
}
