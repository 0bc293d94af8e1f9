//! The references and schemas under `docs` are what the code says. `HANSA_BLESS=1` writes them anew.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::path::PathBuf;

fn docs() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

#[test]
fn generated_files_are_fresh_and_none_is_left_over() {
    let bless = std::env::var_os("HANSA_BLESS").is_some();
    let mut stale = Vec::new();
    for (path, wanted) in hansa_cli::reference::files() {
        let file = docs().join(&path);
        if std::fs::read_to_string(&file).unwrap_or_default() == wanted {
            continue;
        }
        if bless {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, wanted).unwrap();
        } else {
            stale.push(path);
        }
    }
    assert!(stale.is_empty(), "stale: {stale:?}; HANSA_BLESS=1 cargo test -p hansa-cli --test generated");
    let known = hansa_cli::reference::files();
    for entry in std::fs::read_dir(docs().join("schema")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(known.contains_key(&format!("schema/{name}")), "docs/schema/{name} describes nothing");
    }
}
