//! Which crate may depend on which: arrows between our own, and fences around foreign ones that
//! only one place should know. ARCHITECTURE.md gives the reasons.

use super::{Finding, Tree};

/// Our crates and which of ours they may depend on. Development dependencies are free, because a
/// test may need a peer; crates that are not listed may depend on anything.
const ARROWS: &[(&str, &[&str])] = &[
    ("hansa-core", &[]),
    ("hansa-runtime", &[]),
    ("hansa-http3", &[]),
    ("hansa-lab", &[]),
    ("hansa-xtask", &[]),
    ("hansa-api", &["hansa-core"]),
    ("hansa-proto", &["hansa-core"]),
    ("hansa-identity", &["hansa-core"]),
    ("hansa-link", &["hansa-core", "hansa-proto", "hansa-identity", "hansa-runtime"]),
    ("hansa-gateway", LAYERS),
    ("hansa-controller", LAYERS),
    ("hansa-dns", LAYERS),
];

/// What the three products stand on; never each other.
const LAYERS: &[&str] = &[
    "hansa-core",
    "hansa-runtime",
    "hansa-http3",
    "hansa-api",
    "hansa-proto",
    "hansa-identity",
    "hansa-link",
];

/// Foreign crates and the crates of ours that may use them, `(dev)` in tests alone. A name that
/// ends in `*` stands for all that begin so.
const FENCES: &[(&str, &[&str])] = &[
    ("kube*", &["hansa-api", "hansa-controller", "hansa-cli", "hansa-tests"]),
    // Batched UDP sockets alone, without QUIC.
    ("quinn-udp", &["hansa-gateway", "hansa-dns"]),
    ("quinn*", &["hansa-http3", "hansa-gateway", "hansa-identity (dev)", "hansa-tests", "quintun"]),
    ("hickory-server", &["hansa-dns"]),
    ("hickory-net", &["hansa-dns", "hansa-lab", "hansa-cli"]),
    ("hickory-proto", &["hansa-dns", "hansa-lab", "hansa-cli", "hansa-tests"]),
    ("hickory-resolver", &["hansa-dns", "hansa-lab", "hansa-cli", "hansa-tests"]),
    ("rcgen", &["hansa-identity", "* (dev)"]),
    ("h3*", &["* (dev)"]),
];

/// All that core may use: it decides, and does nothing.
const CORE_USES: &[&str] = &["serde", "thiserror", "sha2", "ipnet", "smallvec", "smol_str"];

#[derive(Debug)]
struct Dependency {
    name: String,
    line: usize,
    dev: bool,
}

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (folder, manifest) in tree.packages() {
        let package = package_name(manifest);
        for dependency in dependencies(manifest) {
            if let Some(what) = breach(package, &dependency) {
                let path = format!("{folder}/Cargo.toml");
                found.push(Finding { path, line: dependency.line, rule: "arrow", what });
            }
        }
    }
    found
}

fn breach(package: &str, dependency: &Dependency) -> Option<String> {
    let Dependency { name, dev, .. } = dependency;
    if let Some((_, allowed)) = ARROWS.iter().find(|(of, _)| *of == package)
        && !dev
        && name.starts_with("hansa-")
        && !allowed.contains(&name.as_str())
    {
        return Some(format!("{package} may not depend on {name}"));
    }
    if package == "hansa-core" && !dev && !CORE_USES.contains(&name.as_str()) {
        return Some(format!("core stays pure: {name} is not among {}", CORE_USES.join(", ")));
    }
    // Packages outside the workspace (fuzz targets) stand where tests stand.
    let (_, users) = FENCES.iter().find(|(fence, _)| fits(fence, name))?;
    let allowed = users.iter().any(|user| match user.strip_suffix(" (dev)") {
        Some(user) => *dev && (user == "*" || user == package),
        None => *user == package,
    });
    (!allowed).then(|| format!("{name} is fenced: {package} is not among {}", users.join(", ")))
}

fn fits(fence: &str, name: &str) -> bool {
    match fence.strip_suffix('*') {
        Some(start) => name == start || name.strip_prefix(start).is_some_and(|r| r.starts_with('-')),
        None => fence == name,
    }
}

fn package_name(manifest: &str) -> &str {
    let after = manifest.split("[package]").nth(1).unwrap_or_default();
    let line = after.lines().find_map(|l| l.trim().strip_prefix("name")).unwrap_or_default();
    line.split('"').nth(1).unwrap_or_default()
}

/// Names in all dependency tables; enough of TOML for manifests as cargo writes them.
fn dependencies(manifest: &str) -> Vec<Dependency> {
    let mut found = Vec::new();
    let mut table = None;
    for (n, line) in manifest.lines().enumerate() {
        let line = line.split(" #").next().unwrap_or_default().trim();
        if let Some(header) = line.strip_prefix('[') {
            let header = header.trim_end_matches(']');
            let (kind, name) = split_header(header);
            table = kind;
            if let (Some(dev), Some(name)) = (kind, name) {
                found.push(Dependency { name: name.to_owned(), line: n + 1, dev });
                table = None;
            }
        } else if let (Some(dev), false) = (table, line.is_empty() || line.starts_with('#')) {
            let name = line.split(['=', '.', ' ']).next().unwrap_or_default().trim_matches('"');
            // A renamed dependency is known by the name of its package.
            let renamed = line.split("package = \"").nth(1).and_then(|r| r.split('"').next());
            let name = renamed.unwrap_or(name).to_owned();
            if line.contains('=') {
                found.push(Dependency { name, line: n + 1, dev });
            }
        }
    }
    found
}

/// Of `target.'x'.dev-dependencies.name`: whether it is a table of development dependencies
/// (`None`: no dependencies at all), and the name if the table is one dependency's own.
fn split_header(header: &str) -> (Option<bool>, Option<&str>) {
    for (kind, dev) in [("dev-dependencies", true), ("build-dependencies", false), ("dependencies", false)] {
        if let Some((before, after)) = header.rsplit_once(kind)
            && (before.is_empty() || before.ends_with('.'))
            && !before.starts_with("workspace")
        {
            return (Some(dev), after.strip_prefix('.'));
        }
    }
    (None, None)
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;

    fn breaches(name: &str, tables: &str) -> Vec<String> {
        let manifest = format!("[package]\nname = \"{name}\"\n{tables}");
        check(&tree(&[("x/Cargo.toml", &manifest)])).into_iter().map(|f| f.what).collect()
    }

    #[test]
    fn arrows_and_fences_bite() {
        for (name, tables, wanted) in [
            ("hansa-gateway", "[dependencies]\nhansa-dns.workspace = true\n", "may not depend on hansa-dns"),
            ("hansa-core", "[dependencies]\ntokio = \"1\"\n", "core stays pure: tokio"),
            ("hansa-dns", "[dependencies]\nquinn.workspace = true\n", "quinn is fenced"),
            (
                "hansa-dns",
                "[target.'cfg(unix)'.dependencies]\nkube-runtime = \"4\"\n",
                "kube-runtime is fenced",
            ),
            ("hansa-gateway", "[dependencies.hickory-proto]\nversion = \"1\"\n", "hickory-proto is fenced"),
            ("hansa-gateway", "[build-dependencies]\nrcgen = \"1\"\n", "rcgen is fenced"),
            ("hansa-cli", "[dependencies]\nx = { package = \"h3-quinn\" }\n", "h3-quinn is fenced"),
        ] {
            let seen = breaches(name, tables);
            assert!(seen.len() == 1 && seen[0].contains(wanted), "{tables}: {seen:?}");
        }
    }

    #[test]
    fn what_the_design_allows_passes() {
        for (name, tables) in [
            ("hansa-gateway", "[dependencies]\nhansa-core.workspace = true\nquinn = \"1\"\n"),
            ("hansa-http3", "[dev-dependencies]\nrcgen.workspace = true\nh3.workspace = true\n"),
            ("hansa-core", "[dependencies]\nserde = \"1\"\n[dev-dependencies]\nproptest = \"1\"\n"),
            ("hansa-cli", "[dependencies]\nhansa-gateway.workspace = true\n[features]\nh3 = []\n"),
        ] {
            assert_eq!(breaches(name, tables), [""; 0], "{tables}");
        }
    }
}
