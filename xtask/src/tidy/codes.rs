//! Every message code is asserted by a test: by its number, or by the constant's name.

use std::collections::BTreeSet;

use super::{Finding, Tree};

/// Where the codes stand.
const REGISTER: &str = "crates/core/src/code/";

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let sources = tree.files.iter().filter(|(path, _)| path.ends_with(".rs"));
    let tested: BTreeSet<&str> =
        sources.filter_map(|(path, text)| tests_in(path, text)).flat_map(words).collect();
    let registers = tree.files.iter().filter(|(path, _)| path.starts_with(REGISTER));
    let mut found = Vec::new();
    for (path, text) in registers {
        for (at, line) in text.lines().enumerate() {
            let Some((name, number)) = code(line) else { continue };
            if tested.contains(name) || tested.contains(format!("HNS-{number}").as_str()) {
                continue;
            }
            let what = format!("no test asserts HNS-{number} ({name})");
            found.push(Finding { path: path.clone(), line: at + 1, rule: "code", what });
        }
    }
    found
}

/// `NAME = 1234, …` of the register.
fn code(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.trim().split_once(" = ")?;
    let (number, _) = rest.split_once(',')?;
    let constant = name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    let digits = number.len() == 4 && number.chars().all(|c| c.is_ascii_digit());
    (constant && digits).then_some((name, number))
}

/// The part of a file that is tests.
fn tests_in<'a>(path: &str, text: &'a str) -> Option<&'a str> {
    // What the demo judges is judged again by each run of its tests.
    if path.contains("tests/") || path.ends_with("tests.rs") || path.starts_with("crates/lab/") {
        return Some(text);
    }
    text.find("#[cfg(test)]").and_then(|at| text.get(at..))
}

/// `HNS-1234` is one word: the bare number says nothing.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_without_a_test_is_found() {
        let file = |path: &str, text: &str| (path.to_owned(), text.to_owned());
        let register = "    ONE = 1001, \"a\", \"b\", \"c\";\n    TWO = 1002, \"\", \"\", \"\";\n    SIX = 1006, \"\", \"\", \"\";\n";
        let tree = Tree {
            root: ".".into(),
            files: vec![
                file("crates/core/src/code/config.rs", register),
                file("a/src/lib.rs", "say(SIX)\n#[cfg(test)]\nmod tests { assert(\"HNS-1001 x\") }"),
                file("a/tests/b.rs", "assert_eq!(code, config::TWO); sleep(1006)"),
            ],
        };
        let found: Vec<String> = check(&tree).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["crates/core/src/code/config.rs:3: [code] no test asserts HNS-1006 (SIX)"]);
    }
}
