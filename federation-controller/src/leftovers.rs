//! Removes what a crash between write and rename left in the state folder.
//!
//! Called by `controller` once at start, while it alone has the folder and before anything is written
//! there. A leftover may hold a copy of a key. Removes nothing else, and follows no link.

use std::path::Path;

use tracing::{info, warn};

/// Whether this is the name of an unfinished file: `.NAME.PID.new` of `hansa-identity`, or
/// `.NAME.tmp-PID` of `hansa-runtime`.
fn unfinished(name: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let Some(rest) = name.strip_prefix('.') else { return false };
    let of = |found: Option<(&str, &str)>| found.is_some_and(|(name, pid)| !name.is_empty() && number(pid));
    of(rest.strip_suffix(".new").and_then(|rest| rest.rsplit_once('.'))) || of(rest.rsplit_once(".tmp-"))
}

/// Removes the unfinished files of `folder`. What cannot be removed is named in the log.
pub fn remove(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let leftover = entry.file_name().to_str().is_some_and(unfinished)
            && entry.file_type().is_ok_and(|kind| kind.is_file());
        if !leftover {
            continue;
        }
        let path = entry.path();
        match std::fs::remove_file(&path) {
            Ok(()) => info!(path = %path.display(), "removed what an interrupted write left behind"),
            Err(error) => {
                warn!(path = %path.display(), %error, "what an interrupted write left behind stays");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unfinished_files_go() {
        let dir = tempfile::tempdir().unwrap();
        let gone = [".ca.json.4711.new", ".first-seen.json.tmp-1"];
        let kept = ["ca.json", ".ca.json.new", ".ca.json.x1.new", "a.1.new", ".tmp-1", "x.tmp-1", ".1.new"];
        for name in gone.iter().chain(&kept) {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        std::fs::create_dir(dir.path().join(".folder.1.new")).unwrap();
        remove(dir.path());
        let left = |name: &&str| dir.path().join(name).exists();
        assert!(!gone.iter().any(left) && kept.iter().all(left) && left(&".folder.1.new"));
        remove(&dir.path().join("missing"));
    }
}
