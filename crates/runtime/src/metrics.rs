//! Metrics plumbing: families registered once with name, kind and help, kept as rows for the
//! generated reference; process figures; build information; OpenMetrics text.
//!
//! Called by each crate's `metrics.rs` and by the admin endpoint. It defines no family of a
//! component.

use std::fmt::Write as _;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

/// The content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Collects the families of one process while it is wired; [`Families::finish`] freezes them.
///
/// ```
/// # use hansa_runtime::metrics::Families;
/// use prometheus_client::metrics::counter::Counter;
/// let mut families = Families::new();
/// let opened: Counter = Counter::default();
/// families.add("hansa_demo_opened_total", "Connections opened", opened.clone());
/// let metrics = families.finish();
/// opened.inc();
/// assert!(metrics.text().contains("hansa_demo_opened_total 1"));
/// ```
#[derive(Debug, Default)]
pub struct Families {
    registry: Registry,
    rows: Vec<Row>,
}

/// One line of the metrics reference.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Row {
    /// The family's name as scraped.
    pub name: String,
    /// `counter`, `gauge`, `histogram`, `info` or `unknown`.
    pub kind: &'static str,
    /// What it counts.
    pub help: String,
}

/// The frozen families of one process. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    inner: Arc<(Registry, Vec<Row>)>,
}

impl Families {
    /// No families.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a family under the name it is scraped by; a counter's must end in `_total`,
    /// which the text format appends by itself.
    ///
    /// # Panics
    /// When a counter's name does not end in `_total`, another's does, or a name comes twice:
    /// mistakes in the source that the first test of the component shows.
    pub fn add<M: Metric>(&mut self, name: &str, help: &str, metric: M) {
        let kind = kind_of(&metric);
        let base = name.strip_suffix("_total");
        assert_eq!(base.is_some(), kind == "counter", "{name} is a {kind}");
        assert!(self.rows.iter().all(|r| r.name != name), "{name} is registered twice");
        self.registry.register(base.unwrap_or(name), help, metric);
        self.rows.push(Row { name: name.to_owned(), kind, help: help.to_owned() });
    }

    /// Registers a collector, whose families are described by `rows`.
    pub fn add_collector(&mut self, collector: Box<dyn Collector>, rows: impl IntoIterator<Item = Row>) {
        self.registry.register_collector(collector);
        self.rows.extend(rows);
    }

    /// Adds `process_*` figures read from `/proc/self` at each scrape.
    pub fn add_process(&mut self) {
        let row =
            |(name, kind, help): (&str, _, &str)| Row { name: name.to_owned(), kind, help: help.to_owned() };
        self.add_collector(Box::new(Process), PROCESS.map(row));
    }

    /// Adds `<prefix>_build_info{version,commit,component}`, constant 1.
    pub fn add_build_info(&mut self, prefix: &str, component: &str, version: &str, commit: &str) {
        let labels = [("component", component), ("version", version), ("commit", commit)]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .to_vec();
        let (name, help) = (format!("{prefix}_build"), "Version and commit of this process");
        self.registry.register(name, help, Info::new(labels));
        let name = format!("{prefix}_build_info");
        self.rows.push(Row { name, kind: "info", help: help.to_owned() });
    }

    /// What is registered so far, for the generated reference.
    #[must_use]
    pub fn describe(&self) -> &[Row] {
        &self.rows
    }

    /// Freezes the set.
    #[must_use]
    pub fn finish(self) -> Metrics {
        Metrics { inner: Arc::new((self.registry, self.rows)) }
    }
}

impl Metrics {
    /// All families in the OpenMetrics text format.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a String fails only if an encoder of ours does; the scrape then shows
        // what was encoded so far, without the closing mark, and the scraper says so.
        let _ = encode(&mut text, &self.inner.0);
        text
    }

    /// Every family with kind and help.
    #[must_use]
    pub fn describe(&self) -> &[Row] {
        &self.inner.1
    }
}

/// A Markdown table of families, sorted by name.
#[must_use]
pub fn markdown(rows: &[Row]) -> String {
    let mut sorted: Vec<_> = rows.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let mut text = String::from("| family | kind | meaning |\n|---|---|---|\n");
    for Row { name, kind, help } in sorted {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "| `{name}` | {kind} | {} |", help.replace('|', "\\|"));
    }
    text
}

fn kind_of(metric: &impl EncodeMetric) -> &'static str {
    match metric.metric_type() {
        MetricType::Counter => "counter",
        MetricType::Gauge => "gauge",
        MetricType::Histogram => "histogram",
        MetricType::Info => "info",
        _ => "unknown",
    }
}

const PROCESS: [(&str, &str, &str); 5] = [
    ("process_cpu_seconds_total", "counter", "User and system CPU time"),
    ("process_resident_memory_bytes", "gauge", "Resident memory"),
    ("process_open_fds", "gauge", "Open file descriptors"),
    ("process_threads", "gauge", "Threads"),
    ("process_start_time_seconds", "gauge", "Start, in seconds since 1970"),
];

/// Reads `/proc/self` at each scrape; what cannot be read is left out.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let values = process_values();
        for ((name, kind, help), value) in PROCESS.into_iter().zip(values) {
            let Some(value) = value else { continue };
            if kind == "counter" {
                let name = name.trim_end_matches("_total");
                let metric = ConstCounter::new(value);
                metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)?;
            } else {
                let metric = ConstGauge::new(value);
                metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)?;
            }
        }
        Ok(())
    }
}

/// In the order of [`PROCESS`].
fn process_values() -> [Option<f64>; 5] {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The command name may hold spaces and brackets; fields count from its closing bracket,
    // so that index 0 is field 3 of proc(5).
    let fields: Vec<f64> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().map(|f| f.parse().unwrap_or(0.0)).collect())
        .unwrap_or_default();
    // The kernel shows times in USER_HZ, which is 100 on every architecture of Linux.
    let ticks = 100.0;
    let field = |n: usize| fields.get(n - 3).copied();
    let cpu = field(14).zip(field(15)).map(|(user, system)| (user + system) / ticks);
    let fds = std::fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as f64);
    let start = boot_time().zip(field(22)).map(|(boot, since)| boot + since / ticks);
    [cpu, resident_bytes(), fds, field(20), start]
}

fn resident_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
}

fn boot_time() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|l| l.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::family::Family;
    use prometheus_client::metrics::gauge::Gauge;

    #[test]
    fn families_are_scraped_by_the_name_given_and_described_even_when_empty() {
        let mut families = Families::new();
        let opened: Family<Vec<(String, String)>, Counter> = Family::default();
        families.add("x_opened_total", "Opened", opened.clone());
        families.add("x_depth", "Depth", Gauge::<i64>::default());
        families.add_process();
        families.add_build_info("x", "gateway", "1.2.3", "abc");
        let metrics = families.finish();
        let empty = metrics.text();
        assert!(!empty.contains("x_opened_total"), "{empty}");
        assert!(empty.contains("x_depth 0"));
        let build = "x_build_info{component=\"gateway\",version=\"1.2.3\",commit=\"abc\"} 1";
        assert!(empty.contains(build), "{empty}");
        opened.get_or_create(&vec![("peer".into(), "b".into())]).inc();
        assert!(metrics.text().contains("x_opened_total{peer=\"b\"} 1"));
        let table = markdown(metrics.describe());
        assert!(table.contains("| `x_opened_total` | counter | Opened |"), "{table}");
        assert!(table.contains("| `process_open_fds` | gauge |"));
    }

    #[test]
    fn process_figures_are_plausible() {
        let [cpu, memory, fds, threads, start] = process_values().map(Option::unwrap);
        assert!(cpu >= 0.0 && memory > 100_000.0 && fds >= 3.0 && threads >= 1.0);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(start <= now + 2.0 && start > now - 86_400.0, "{start} {now}");
    }

    #[test]
    #[should_panic(expected = "registered twice")]
    fn a_name_twice_is_a_mistake() {
        let mut families = Families::new();
        families.add("x_depth", "Depth", Gauge::<i64>::default());
        families.add("x_depth", "Depth", Gauge::<i64>::default());
    }

    #[test]
    #[should_panic(expected = "is a counter")]
    fn a_counter_without_total_is_a_mistake() {
        Families::new().add("x_opened", "Opened", Counter::<u64>::default());
    }
}
