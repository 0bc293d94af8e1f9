//! Rules of single files: length, opening, words, leftovers, paths of somebody's machine.

use super::scrub::scrub;
use super::{Finding, Tree};

/// Longer files hold more than one thing.
const MOST_LINES: usize = 500;

/// Name endings that say nothing, refused for types.
const EMPTY_NAMES: &[&str] = &["Manager", "Helper", "Helpers", "Util", "Utils"];

/// Folders that exist on one machine only.
const MACHINE_PATHS: &[&str] = &["/root/", "/home/", "/work/", "/Users/"];

/// Endings of files whose text is checked for leftovers and machine paths.
const TEXTS: &[&str] =
    &[".rs", ".toml", ".sh", ".md", ".proto", ".yaml", ".yml", ".py", ".json", "Makefile", ".ci/run"];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (path, text) in &tree.files {
        let mut see = |line, rule, what: String| {
            found.push(Finding { path: path.clone(), line, rule, what });
        };
        if TEXTS.iter().any(|ending| path.ends_with(ending)) {
            any_text(path, text, &mut see);
        }
        if path.ends_with(".rs") {
            rust(path, text, &mut see);
        }
    }
    found
}

fn any_text(path: &str, text: &str, see: &mut impl FnMut(usize, &'static str, String)) {
    let leftovers = !path.ends_with(".md") && !path.ends_with(".json");
    for (n, line) in numbered(text) {
        for folder in MACHINE_PATHS {
            if names_machine_path(line, folder) {
                see(n, "machine-path", format!("{folder} is a folder of one machine"));
            }
        }
        let open = ["TODO", "FIXME"].iter().find(|word| has_word(line, word));
        if let Some(word) = open.filter(|_| leftovers && !names_issue(line)) {
            see(n, "issue", format!("{word} without its issue (#n or a link)"));
        }
    }
}

fn rust(path: &str, text: &str, see: &mut impl FnMut(usize, &'static str, String)) {
    let lines = text.lines().count();
    if lines > MOST_LINES {
        see(0, "lines", format!("{lines} lines, at most {MOST_LINES}"));
    }
    if !text.starts_with("//!") {
        see(1, "opening", "does not open with `//!`: what it is, who calls it, what it never does".into());
    }
    if path.ends_with("/mod.rs") {
        see(0, "mod-rs", "use foo.rs beside foo/".into());
    }
    let scrubbed = scrub(text);
    for (n, line) in numbered(&scrubbed.code) {
        if has_word(line, "unsafe") {
            see(n, "unsafe", "unsafe code is forbidden".into());
        }
        if line.replace(' ', "").contains("#[ignore") {
            see(n, "ignore", "a test that does not run proves nothing; it belongs to a ring".into());
        }
        if let Some(name) = empty_type_name(line) {
            see(n, "name", format!("{name} says nothing; name what it is"));
        }
    }
    for (n, line) in numbered(&scrubbed.comments) {
        if is_code(line) {
            see(n, "dead-code", "looks like code in a comment; delete it, git remembers".into());
        }
    }
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(n, line)| (n + 1, line))
}

fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(part) && !after.is_some_and(part)
    })
}

fn names_issue(line: &str) -> bool {
    let number = |(at, _): (usize, &str)| line[at + 1..].starts_with(|c: char| c.is_ascii_digit());
    line.contains("https://") || line.match_indices('#').any(number)
}

/// A path that begins with `folder`, not one that has it in the middle (`a/work/`), nor the bare
/// home folder of a variable (`/home/$USER`).
fn names_machine_path(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + folder.len()..].chars().next();
        let inside = before.is_some_and(|c| c.is_alphanumeric() || "._-/~}*".contains(c));
        !inside && after.is_some_and(|c| c.is_alphanumeric() || c == '.')
    })
}

fn empty_type_name(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    words.find(|w| matches!(*w, "struct" | "enum" | "trait"))?;
    let name = words.next()?.split(|c: char| !c.is_alphanumeric() && c != '_').next()?;
    EMPTY_NAMES.iter().any(|ending| name.ends_with(ending)).then_some(name)
}

/// Modest on purpose: a plain comment that ends like a statement and begins like one. Examples
/// in documentation (`///`, `//!`) are code by right.
fn is_code(comment: &str) -> bool {
    let Some(text) = comment.trim_start().strip_prefix("//") else { return false };
    if text.starts_with(['/', '!']) {
        return false;
    }
    let text = text.trim();
    let begins = |words: &[&str]| words.iter().any(|w| text.starts_with(w));
    let statement = ["let ", "use ", "return ", "pub ", "assert", "self.", "println!", "mod ", "const "];
    let block = ["if ", "for ", "while ", "match ", "fn ", "pub ", "impl", "} else", "loop "];
    (text.ends_with(';') && begins(&statement)) || (text.ends_with('{') && begins(&block))
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<&'static str> {
        check(&tree(&[(path, text)])).into_iter().map(|f| f.rule).collect()
    }

    #[test]
    fn each_rule_bites() {
        let ok = "//! Fine.\n";
        for (path, text, rule) in [
            ("a.rs", "fn f() {}\n".to_owned(), "opening"),
            ("a.rs", format!("{ok}{}", "\n".repeat(500)), "lines"),
            ("a/mod.rs", ok.to_owned(), "mod-rs"),
            ("a.rs", format!("{ok}{} fn f() {{}}\n", "unsafe"), "unsafe"),
            ("a.rs", format!("{ok}#[{}]\n", "ignore = \"slow\""), "ignore"),
            ("a.rs", format!("{ok}pub struct PeerManager;\n"), "name"),
            ("a.rs", format!("{ok}// let x = f();\n"), "dead-code"),
            ("a.rs", format!("{ok}    // if x {{\n"), "dead-code"),
            ("a.sh", format!("# {} later\n", "TODO"), "issue"),
            ("a.md", "see /root/x\n".to_owned(), "machine-path"),
            ("a.toml", "p = \"/home/jane/x\"\n".to_owned(), "machine-path"),
        ] {
            assert_eq!(rules(path, &text), [rule], "{text}");
        }
    }

    #[test]
    fn what_is_allowed_passes() {
        for (path, text) in [
            ("a.rs", "//! unsafe is forbidden here.\n#![forbid(unsafe_code)]\n"),
            ("a.rs", "//! x\nconst X: &str = \"unsafe // let x = 1;\";\n"),
            ("a.rs", "//! x\n/// let x = 1;\n// We return early; the rest follows.\n"),
            ("a.sh", "# TODO(#12): later\n"),
            ("a.md", "TODO lists; https://x/home/y and crates/work/z and $HOME/.cache\n"),
            ("a.rs", "//! x\nstruct Managers { x: TODOS }\n"),
        ] {
            assert_eq!(rules(path, text), [""; 0], "{text}");
        }
    }
}
