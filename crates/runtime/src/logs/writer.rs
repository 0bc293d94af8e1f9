//! The log writer: a bounded queue and one thread that owns the file. Called by `logs` alone.
//!
//! It never blocks the caller and never grows without bound: a line that does not fit is dropped
//! and counted, and the gap is told in the log itself once there is room again.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

use super::{LogError, Output, open};

/// Lines that may wait: about a second of access lines at the rates one process reaches.
const QUEUE_LINES: usize = 16_384;
/// Bytes that may wait, so that long lines cannot take the process's memory.
const QUEUE_BYTES: usize = 8 << 20;
/// Lines are written in one piece up to this size, then flushed.
const BATCH_BYTES: usize = 64 << 10;
/// After a write the thread gathers so long before the next one: a busy process wakes it fifty times
/// a second instead of once a line.
const GATHER: Duration = Duration::from_millis(20);

/// Sends lines to the writing thread. Clones share it; the thread ends with the last clone.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    queue: SyncSender<Message>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    waiting_bytes: AtomicUsize,
    dropped: AtomicU64,
}

enum Message {
    Line(Vec<u8>),
    Reopen,
    Flush(SyncSender<()>),
}

impl Writer {
    pub(super) fn start(output: &Output) -> Result<Self, LogError> {
        let (sink, path): (Box<dyn Write + Send>, _) = match output {
            Output::Stderr => (Box::new(io::stderr()), None),
            Output::File(path) => (Box::new(open(path)?), Some(path.clone())),
        };
        let (queue, lines) = sync_channel(QUEUE_LINES);
        let writer = Self { queue, counts: Arc::default() };
        let mut pump = Pump { lines, sink, path, counts: Arc::clone(&writer.counts), told: 0, batch: vec![] };
        let path = pump.path.clone().unwrap_or_else(|| PathBuf::from("stderr"));
        std::thread::Builder::new()
            .name("logs".to_owned())
            .spawn(move || pump.run())
            .map_err(|source| LogError::Open { path, source })?;
        Ok(writer)
    }

    pub(super) fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }

    pub(super) fn reopen(&self) {
        // A full queue loses this request; the next SIGHUP repeats it.
        let _ = self.queue.try_send(Message::Reopen);
    }

    pub(super) fn flush(&self, limit: Duration) -> bool {
        let (done, wait) = sync_channel(1);
        self.queue.try_send(Message::Flush(done)).is_ok() && wait.recv_timeout(limit).is_ok()
    }
}

/// The formatter writes each line with one call, so one call is one line.
impl Write for Writer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let counts = &self.counts;
        let waiting = counts.waiting_bytes.fetch_add(line.len(), Ordering::Relaxed);
        let fits = waiting.saturating_add(line.len()) <= QUEUE_BYTES;
        if !fits || self.queue.try_send(Message::Line(line.to_vec())).is_err() {
            counts.waiting_bytes.fetch_sub(line.len(), Ordering::Relaxed);
            counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Writer {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// What the writing thread owns.
struct Pump {
    lines: Receiver<Message>,
    sink: Box<dyn Write + Send>,
    path: Option<PathBuf>,
    counts: Arc<Counts>,
    /// How many drops the log has been told of.
    told: u64,
    batch: Vec<u8>,
}

impl Pump {
    fn run(&mut self) {
        loop {
            // Write out as soon as nothing waits; block only with an empty batch.
            let next = if self.batch.is_empty() {
                self.lines.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                self.lines.recv_timeout(Duration::ZERO)
            };
            match next {
                Ok(Message::Line(line)) => self.take(&line),
                Ok(Message::Reopen) => self.reopen(),
                Ok(Message::Flush(done)) => {
                    self.write_out();
                    let _ = done.try_send(());
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.write_out();
                    std::thread::sleep(GATHER);
                }
                Err(RecvTimeoutError::Disconnected) => return self.write_out(),
            }
        }
    }

    fn take(&mut self, line: &[u8]) {
        self.counts.waiting_bytes.fetch_sub(line.len(), Ordering::Relaxed);
        self.batch.extend_from_slice(line);
        if self.batch.len() >= BATCH_BYTES {
            self.write_out();
        }
    }

    fn write_out(&mut self) {
        let dropped = self.counts.dropped.load(Ordering::Relaxed);
        if dropped > self.told {
            let gap = format!(
                "{{\"level\":\"WARN\",\"target\":\"hansa_runtime::logs\",\
                 \"message\":\"log lines dropped\",\"dropped\":{}}}\n",
                dropped - self.told
            );
            self.batch.extend_from_slice(gap.as_bytes());
            self.told = dropped;
        }
        if self.batch.is_empty() {
            return;
        }
        if self.sink.write_all(&self.batch).and_then(|()| self.sink.flush()).is_err() {
            // A full disk must not stop the process: count what is lost and go on.
            let lost = self.batch.iter().filter(|b| **b == b'\n').count() as u64;
            self.counts.dropped.fetch_add(lost, Ordering::Relaxed);
            // Nothing to tell into a sink that refuses; the metric tells.
            self.told = self.counts.dropped.load(Ordering::Relaxed);
        }
        self.batch.clear();
        self.batch.shrink_to(2 * BATCH_BYTES);
    }

    fn reopen(&mut self) {
        self.write_out();
        if let Some(file) = self.path.as_ref().and_then(|path| open(path).ok()) {
            self.sink = Box::new(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stuck_sink_drops_and_counts_and_never_blocks() {
        // A writer whose thread never reads.
        let (queue, lines) = sync_channel(2);
        let mut writer = Writer { queue, counts: Arc::default() };
        for _ in 0..5 {
            writer.write_all(b"line\n").unwrap();
        }
        assert_eq!(writer.dropped(), 3);
        drop(lines);
        writer.write_all(b"line\n").unwrap();
        assert_eq!(writer.dropped(), 4);
        assert!(!writer.flush(Duration::from_millis(1)));
    }

    #[test]
    fn long_lines_cannot_take_the_memory() {
        let (queue, _lines) = sync_channel(QUEUE_LINES);
        let mut writer = Writer { queue, counts: Arc::default() };
        let line = vec![b'x'; QUEUE_BYTES / 2 + 1];
        writer.write_all(&line).unwrap();
        writer.write_all(&line).unwrap();
        assert_eq!(writer.dropped(), 1);
    }

    #[test]
    fn a_gap_is_told_in_the_log_and_a_full_disk_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let writer = Writer::start(&Output::File(path.clone())).unwrap();
        writer.counts.dropped.fetch_add(2, Ordering::Relaxed);
        writer.clone().write_all(b"{}\n").unwrap();
        assert!(writer.flush(Duration::from_secs(20)));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("\"message\":\"log lines dropped\",\"dropped\":2}"), "{text}");

        let full = Writer::start(&Output::File(PathBuf::from("/dev/full"))).unwrap();
        full.clone().write_all(b"{}\n{}\n").unwrap();
        assert!(full.flush(Duration::from_secs(20)));
        assert_eq!(full.dropped(), 2);
    }
}
