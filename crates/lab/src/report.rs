//! What the demo reports: per step the promise, the limit, what was seen, and whether it was kept.
//! Written as JSON for machines and as a table for people.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One judged step.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StepReport {
    /// Its id.
    pub id: String,
    /// What is promised.
    pub promise: String,
    /// The limit.
    pub limit: String,
    /// What was seen.
    pub seen: String,
    /// Whether the promise was kept.
    pub ok: bool,
    /// Files that show it.
    pub evidence: Vec<PathBuf>,
}

/// The whole report.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// How members were kept apart.
    pub mode: String,
    /// Seed of this run.
    pub seed: u64,
    /// Whether every step was judged and kept.
    pub ok: bool,
    /// Whether only some steps were asked for.
    pub partial: bool,
    /// What the filter between members lacks on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lacking: Option<String>,
    /// In order.
    pub steps: Vec<StepReport>,
}

impl Report {
    /// The report as a table of plain text.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        for step in &self.steps {
            let mark = if step.ok { "kept  " } else { "BROKEN" };
            let _ = writeln!(text, "{mark}  {:<16} {}", step.id, step.promise);
            let _ = writeln!(text, "        {:<16} limit: {}", "", step.limit);
            let _ = writeln!(text, "        {:<16} seen:  {}", "", step.seen);
        }
        let kept = self.steps.iter().filter(|s| s.ok).count();
        let _ = writeln!(
            text,
            "\n{kept} of {} promises kept ({}, seed {})",
            self.steps.len(),
            self.mode,
            self.seed
        );
        if let Some(what) = &self.lacking {
            let _ = writeln!(text, "{what}");
        }
        text
    }
}

/// Collects what one step sees.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    seen: Vec<String>,
    failed: bool,
    /// Files that show it.
    pub evidence: Vec<PathBuf>,
}

impl Verdict {
    /// Notes an observation; a false one breaks the promise.
    pub fn check(&mut self, kept: bool, text: impl Into<String>) {
        let text = text.into();
        self.failed |= !kept;
        self.seen.push(if kept { text } else { format!("NOT KEPT: {text}") });
    }

    /// A promise that nothing shows is not kept: there is evidence, and every file of it is there.
    pub fn check_evidence(&mut self) {
        if self.evidence.is_empty() {
            self.check(false, "no evidence");
        }
        let missing: Vec<PathBuf> = self.evidence.iter().filter(|file| !file.is_file()).cloned().collect();
        for file in missing {
            self.check(false, format!("evidence is not there: {}", file.display()));
        }
    }

    /// Adds a file.
    pub fn show(&mut self, file: PathBuf) {
        self.evidence.push(file);
    }

    /// Whether all was kept so far.
    #[must_use]
    pub fn kept(&self) -> bool {
        !self.failed && !self.seen.is_empty()
    }

    /// Everything seen, in order.
    #[must_use]
    pub fn text(&self) -> String {
        self.seen.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_without_evidence_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("seen");
        let judge = |files: &[&PathBuf]| {
            let mut verdict = Verdict::default();
            verdict.check(true, "fine");
            files.iter().for_each(|f| verdict.show((*f).clone()));
            verdict.check_evidence();
            (verdict.kept(), verdict.text())
        };
        assert_eq!(judge(&[]), (false, "fine; NOT KEPT: no evidence".into()));
        assert!(judge(&[&file]).1.contains("evidence is not there"));
        std::fs::write(&file, "").unwrap();
        assert_eq!(judge(&[&file]), (true, "fine".into()));
    }

    #[test]
    fn nothing_seen_is_nothing_kept() {
        assert!(!Verdict::default().kept());
    }
}
