//! What the gateways of a test binary log, access lines with it.
//! Part of the loopback and tunnel tests. The file has no name: nothing of it is left behind.

use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use hansa_runtime::logs::{Format, Options, Output, init};

static LOG: LazyLock<PathBuf> = LazyLock::new(|| {
    // Open for as long as the process lives.
    let file = Box::leak(Box::new(tempfile::tempfile().unwrap()));
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    init(&Options { output: Output::File(path.clone()), format: Format::Json, ..Options::default() })
        .unwrap();
    path
});

/// Keeps every line from now on.
pub(crate) fn listen() {
    LazyLock::force(&LOG);
}

/// Waits for a line with all of these words.
pub(crate) async fn says(words: &[&str]) {
    let heard = async {
        loop {
            let text = std::fs::read_to_string(&*LOG).unwrap();
            if text.lines().any(|line| words.iter().all(|word| line.contains(word))) {
                return;
            }
            // A file tells nobody that it grows.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let limit = Duration::from_secs(15);
    let heard = tokio::time::timeout(limit, heard).await.is_ok();
    assert!(heard, "nobody said {words:?}\n{}", std::fs::read_to_string(&*LOG).unwrap());
}
