//! ARCHITECTURE.md's code map tells the truth: each package's folder is in it, and each folder it
//! names exists.

use super::{Finding, Tree};

const FILE: &str = "ARCHITECTURE.md";
/// The heading under which the map stands.
const HEADING: &str = "code map";

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let see = |line, what: String| Finding { path: FILE.to_owned(), line, rule: "map", what };
    let Some(text) = tree.text(FILE) else { return vec![see(0, "is missing".to_owned())] };
    let section = section(text);
    if section.is_empty() {
        return vec![see(0, format!("has no section with the heading \"{HEADING}\""))];
    }
    let named: Vec<(usize, &str)> =
        section.iter().flat_map(|(n, line)| paths(line).map(|p| (*n, p))).collect();
    let mut found: Vec<_> = named
        .iter()
        .filter(|(_, path)| !exists(tree, path))
        .map(|(n, path)| see(*n, format!("names {path}, which is not there")))
        .collect();
    for (folder, _) in tree.packages() {
        if !named.iter().any(|(_, path)| path.trim_end_matches('/') == folder) {
            found.push(see(section[0].0, format!("does not name the package in {folder}/")));
        }
    }
    found
}

/// The numbered lines below the map's heading, up to the next heading of its level or above.
fn section(text: &str) -> Vec<(usize, &str)> {
    let level = |line: &str| line.len() - line.trim_start_matches('#').len();
    let mut lines = text.lines().enumerate().map(|(n, line)| (n + 1, line));
    let heading = |line: &str| line.starts_with('#') && line.to_lowercase().contains(HEADING);
    let Some((_, start)) = lines.find(|(_, line)| heading(line)) else { return Vec::new() };
    let depth = level(start);
    lines
        .take_while(|(_, line)| !(line.starts_with("# ") || line.starts_with("##") && level(line) <= depth))
        .collect()
}

/// Words that are folders or files by their look: with a slash, or ending in one.
fn paths(line: &str) -> impl Iterator<Item = &str> {
    let words = line.split(|c: char| c.is_whitespace() || "`|()[],;:{}*".contains(c));
    let path = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    words.map(|w| w.trim_end_matches('.')).filter(move |w| {
        w.contains('/')
            && w.chars().all(path)
            && !w.starts_with('/')
            && w.contains(|c: char| c.is_ascii_lowercase())
    })
}

fn exists(tree: &Tree, path: &str) -> bool {
    let path = path.trim_end_matches('/');
    let inside = format!("{path}/");
    tree.has(path)
        || tree.files.iter().any(|(name, _)| name.starts_with(&inside))
        || tree.root.join(path).exists()
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;

    #[test]
    fn the_map_is_compared_both_ways() {
        let map =
            "# A\nsee no/such/place\n## Code map\n- `crates/core/` pure\n- crates/gone: x\n## End\na/b\n";
        let package = "[package]\n";
        let files = [(FILE, map), ("crates/core/Cargo.toml", package), ("dns/Cargo.toml", package)];
        let found: Vec<_> = check(&tree(&files)).into_iter().map(|f| f.what).collect();
        assert_eq!(found, ["names crates/gone, which is not there", "does not name the package in dns/"]);
        assert_eq!(check(&tree(&[])).len(), 1);
        assert_eq!(check(&tree(&[(FILE, "# no map\n")])).len(), 1);
    }
}
