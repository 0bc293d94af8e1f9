//! ARCHITECTURE.md's code map tells the truth: each package's folder is in it, and each folder it
//! names exists.

use super::{Finding, Tree};

const FILE: &str = "ARCHITECTURE.md";
/// The heading under which the map stands.
const HEADING: &str = "code map";
/// Folders of packages outside the workspace, shown as one.
const LOOSE: &[&str] = &["benches", "fuzz"];

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
    let words: Vec<&str> = section.iter().flat_map(|(_, line)| split(line)).collect();
    for (folder, _) in tree.packages() {
        // Tools and fuzz targets are packages of their own; their common folder is enough.
        let shown = folder.split('/').next().filter(|top| LOOSE.contains(top)).unwrap_or(folder);
        if !words.iter().any(|word| word.trim_end_matches('/') == shown) {
            found.push(see(section[0].0, format!("does not name the package in {shown}/")));
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
    let path = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    split(line).filter(move |w| {
        let letters = w.chars().any(|c| c.is_ascii_lowercase());
        w.contains('/') && !w.starts_with('/') && letters && w.chars().all(path)
    })
}

fn split(line: &str) -> impl Iterator<Item = &str> {
    let words = line.split(|c: char| c.is_whitespace() || "`|()[],;:{}*".contains(c));
    words.map(|word| word.trim_end_matches('.'))
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
        let map = "# A\nsee no/such/place\n## Code map\n- `crates/core/` pure\n- crates/gone: x\n- `benches`\n## End\na/b\n";
        let package = "[package]\n";
        let files = [
            (FILE, map),
            ("crates/core/Cargo.toml", package),
            ("dns/Cargo.toml", package),
            ("benches/a/Cargo.toml", package),
        ];
        let found: Vec<_> = check(&tree(&files)).into_iter().map(|f| f.what).collect();
        assert_eq!(found, ["names crates/gone, which is not there", "does not name the package in dns/"]);
        assert_eq!(check(&tree(&[])).len(), 1);
        assert_eq!(check(&tree(&[(FILE, "# no map\n")])).len(), 1);
    }
}
