//! The memory of paths on disk: what failed before a restart is probed after it, not trusted.
//!
//! Read once at the start; written when it changed, at most once a second, and at the end. A full
//! disk costs the memory and nothing else; a damaged file is set aside.

use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use hansa_core::Millis;
use hansa_core::code::config as codes;
use hansa_core::reach::Track;
use hansa_runtime::files;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{Memory, Path, Tracks};

/// The file in the state folder.
const FILE: &str = "paths.json";
/// The largest file read.
const MOST: u64 = 16 << 20;
/// The least time between two writes.
const EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    version: u32,
    paths: Vec<Row>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Row {
    path: Path,
    track: Track,
    since: Millis,
}

/// Takes up what the file says, where there is one.
pub(crate) fn load(tracks: &Tracks, state: &FilePath) {
    let file = state.join(FILE);
    let bytes = match files::read_limited(&file, MOST) {
        Ok(bytes) => bytes,
        Err(error) if error.is_not_found() => return,
        Err(error) => return tracing::warn!(%error, "the memory of paths cannot be read"),
    };
    match serde_json::from_slice::<Saved>(&bytes) {
        Ok(saved) if saved.version == 1 => {
            tracks.change(|state, _| {
                let memory = |row: &Row| Memory { track: row.track, since: row.since, attempt: 0, due: 0 };
                state.paths.extend(saved.paths.iter().map(|row| (row.path.clone(), memory(row))));
            });
        }
        // Of another version: it is only a memory, and the next write replaces it.
        Ok(_) => {}
        Err(error) => {
            let aside = files::set_aside(&file);
            let code = codes::STATE_CORRUPT;
            tracing::warn!(%code, %error, file = ?aside.ok(), next = code.next, "memory of paths set aside");
        }
    }
}

/// Keeps the file in step until `end`, and a last time then.
pub(crate) async fn keep(tracks: Tracks, state: PathBuf, end: CancellationToken) {
    let file = state.join(FILE);
    let (mut written, mut failing) = (Vec::new(), false);
    loop {
        let ending = end.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none();
        let rows = rows(&tracks);
        if rows != written {
            match write(file.clone(), &rows).await {
                Ok(()) => (written, failing) = (rows, false),
                Err(error) => {
                    let code = codes::STATE_UNWRITABLE;
                    // Once, however long the disk stays full.
                    if !std::mem::replace(&mut failing, true) {
                        tracing::error!(%code, %error, next = code.next, "the memory of paths cannot be saved");
                    }
                }
            }
        }
        if ending {
            return;
        }
    }
}

fn rows(tracks: &Tracks) -> Vec<Row> {
    let view = tracks.snapshot();
    let row = |(path, memory): (&Path, &Memory)| Row {
        path: path.clone(),
        track: memory.track,
        since: memory.since,
    };
    let mut rows: Vec<Row> = view.paths.iter().map(row).collect();
    rows.sort_by(|a, b| a.path.cmp(&b.path));
    rows
}

async fn write(file: PathBuf, rows: &[Row]) -> Result<(), String> {
    #[derive(Serialize)]
    struct Borrowed<'a> {
        version: u32,
        paths: &'a [Row],
    }
    let bytes = serde_json::to_vec(&Borrowed { version: 1, paths: rows }).map_err(|e| e.to_string())?;
    let writing = move || files::write_atomic(&file, &bytes, files::SECRET);
    let written = tokio::task::spawn_blocking(writing).await.map_err(|e| e.to_string())?;
    written.map_err(|e| e.to_string())
}

/// For [`crate::fuzzing`]: what is read is written and read again to the same value.
pub(crate) fn fuzz(data: &[u8]) {
    if let Ok(saved) = serde_json::from_slice::<Saved>(data) {
        let again = serde_json::to_vec(&saved).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        assert_eq!(again.as_ref(), Some(&saved));
    }
}

#[cfg(test)]
mod tests {
    use hansa_core::catalog::Protocol;
    use hansa_core::reach::Event;

    use super::*;

    #[tokio::test]
    async fn what_failed_before_a_restart_is_down_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let tracks = Tracks::default();
        let paths = [
            Path::Peer("b".parse().unwrap()),
            Path::Service("b".parse().unwrap(), "ns/web".parse().unwrap(), Protocol::Udp, 53),
            Path::Endpoint("[::1]:80".parse().unwrap()),
        ];
        for path in &paths {
            tracks.record(path, Event::Failed);
        }
        tracks.record(&paths[2], Event::ProbePassed);
        let end = CancellationToken::new();
        end.cancel();
        keep(tracks.clone(), folder.path().to_owned(), end).await;
        let again = Tracks::default();
        load(&again, folder.path());
        for path in &paths {
            assert_eq!(again.snapshot().track(path), tracks.snapshot().track(path));
        }
        assert!(matches!(again.snapshot().track(&paths[2]), Track::HoldDown { .. }));
    }

    #[test]
    fn a_damaged_file_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), b"{\"version\":1,\"paths\":[{").unwrap();
        let tracks = Tracks::default();
        load(&tracks, folder.path());
        assert!(tracks.snapshot().shown().is_empty());
        let left: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["paths.json.corrupt-1"]);
    }

    #[tokio::test]
    async fn a_state_folder_that_is_gone_costs_the_memory_alone() {
        let tracks = Tracks::default();
        tracks.record(&Path::Endpoint("127.0.0.1:80".parse().unwrap()), Event::Failed);
        let end = CancellationToken::new();
        end.cancel();
        keep(tracks, PathBuf::from("/nonexistent/state"), end).await;
    }
}
