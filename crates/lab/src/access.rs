//! The access lines of a gateway: one per connection it carried, with how it ended.
//! Read by the steps from where a log stood at a moment; judges nothing.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The part of an access line that is judged.
#[derive(Debug, Clone, Deserialize)]
pub struct Line {
    /// `inbound` or `outbound`.
    #[serde(default)]
    pub direction: String,
    /// Name and port asked for.
    #[serde(default)]
    pub authority: String,
    /// How it ended.
    #[serde(default)]
    pub outcome: String,
    /// The message code, where there is one.
    #[serde(default)]
    pub code: String,
    #[serde(default)]
    target: String,
}

/// Where a gateway's log stood.
#[derive(Debug, Clone)]
pub struct Mark {
    file: PathBuf,
    offset: u64,
}

impl Mark {
    /// Now. A log that is not there yet is read from its beginning.
    #[must_use]
    pub fn now(file: PathBuf) -> Self {
        let offset = std::fs::metadata(&file).map_or(0, |meta| meta.len());
        Self { file, offset }
    }

    /// The log.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.file.clone()
    }

    /// Access lines of connections to `name` written since; the log's other lines are passed over.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn since(&self, name: &str) -> Result<Vec<Line>> {
        let mut file = std::fs::File::open(&self.file).with_context(|| self.file.display().to_string())?;
        file.seek(SeekFrom::Start(self.offset))?;
        let mut found = Vec::new();
        for line in BufReader::new(file).split(b'\n') {
            // A line that is just being written is not whole and not counted.
            let Ok(line) = serde_json::from_slice::<Line>(&line?) else { continue };
            if line.target == "access" && line.authority.starts_with(name) {
                found.push(line);
            }
        }
        Ok(found)
    }
}

/// How connections ended and how often: `done`, or the outcome with its code.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Ends(BTreeMap<String, usize>);

impl Ends {
    /// Counts lines.
    #[must_use]
    pub fn of(lines: &[Line]) -> Self {
        let mut ends = BTreeMap::new();
        for line in lines {
            let blank = if line.code.is_empty() { "" } else { " " };
            *ends.entry(format!("{}{blank}{}", line.outcome, line.code)).or_default() += 1;
        }
        Self(ends)
    }

    /// How many ended so and said a code.
    #[must_use]
    pub fn coded(&self, outcome: &str) -> usize {
        let wanted = format!("{outcome} HNS-");
        self.0.iter().filter(|(key, _)| key.starts_with(&wanted)).map(|(_, n)| n).sum()
    }

    /// How many ended so, with or without a code.
    #[must_use]
    pub fn count(&self, outcome: &str) -> usize {
        self.0.iter().filter(|(key, _)| key.split(' ').next() == Some(outcome)).map(|(_, n)| n).sum()
    }

    /// `path_lost HNS-5005 ×12`, the good ones left out.
    #[must_use]
    pub fn text(&self) -> String {
        let bad = self.0.iter().filter(|(key, _)| *key != "done" && *key != "probe");
        let list: Vec<String> = bad.map(|(key, n)| format!("{key} ×{n}")).collect();
        if list.is_empty() { "none".into() } else { list.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn only_access_lines_written_since_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        let line = |outcome: &str, target: &str| {
            format!(
                "{{\"direction\":\"outbound\",\"authority\":\"checkout.shop:80\",{outcome},\"target\":\"{target}\"}}\n"
            )
        };
        let done = line("\"outcome\":\"done\"", "access");
        std::fs::write(&path, &done).unwrap();
        let mark = Mark::now(path.clone());
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        let lost = line("\"outcome\":\"path_lost\",\"code\":\"HNS-5005\"", "access");
        write!(file, "{lost}{}{done}{{\"half", line("\"outcome\":\"x\"", "hansa")).unwrap();
        let lines = mark.since("checkout.").unwrap();
        let ends = Ends::of(&lines);
        assert_eq!((lines.len(), ends.coded("path_lost"), ends.count("done")), (2, 1, 1));
        assert_eq!(ends.text(), "path_lost HNS-5005 ×1");
        assert!(mark.since("cart.").unwrap().is_empty());
    }
}
