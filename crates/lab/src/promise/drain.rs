//! Judges `gateway-drain`.

use serde::Serialize;

use super::once;
use crate::clock;
use crate::judge::Records;
use crate::report::Verdict;

/// How much earlier than the deadline a held connection may have had its last answer: it asks several times a
/// second. In seconds.
const SLACK: f64 = 1.5;
/// How much later than the deadline it may end, and the process with it, seconds.
const LATE: f64 = 8.0;

/// One connection held through the drain, asked several times a second.
#[derive(Debug, Clone, Serialize)]
pub struct Held {
    /// Address it was connected to.
    pub address: String,
    /// Good answers it had.
    pub answers: usize,
    /// When the last one came.
    pub last_good: u64,
    /// When and how it ended; absent if it was still good at the end.
    pub ended: Option<(u64, String)>,
}

/// What `gateway-drain` observes of one gateway.
#[derive(Debug, Clone)]
pub struct Drain {
    /// `local` or `peer's`, and which one.
    pub who: String,
    /// The configured deadline, seconds.
    pub deadline: f64,
    /// When it was told to end.
    pub at: u64,
    /// When it was seen not to be ready any more.
    pub confirmed: u64,
    /// When its process had ended.
    pub ended: Option<u64>,
    /// Until when connections are judged.
    pub until: u64,
    /// A load of connections shorter than the deadline.
    pub records: Records,
    /// Connections longer than the deadline.
    pub held: Vec<Held>,
    /// Access lines of the gateway that say `drain_deadline` and its code.
    pub coded: usize,
}

impl Drain {
    /// Says what was kept.
    pub fn judge(&self, verdict: &mut Verdict) {
        let seconds = |t: u64| clock::seconds(self.at, t);
        let ended = self.ended.map(seconds);
        let seen = ended.map_or_else(|| "did not end".into(), |t| format!("ended {t:.1} s after SIGTERM"));
        verdict.check(
            ended.is_some_and(|t| t < self.deadline + LATE),
            format!("{}: not ready after {:.2} s, {seen}", self.who, seconds(self.confirmed)),
        );
        let new = self.records.new_between(self.at, self.until);
        let kept = self.records.kept_between(self.at, self.until);
        verdict.check(new.clean() && kept.clean(), format!("new {}, kept {}", new.text(), kept.text()));
        once(verdict, &self.records, (self.at, self.until));
        self.long_lived(verdict);
    }

    /// Connections through it that outlive the deadline are served until then, and end with a code.
    fn long_lived(&self, verdict: &mut Verdict) {
        let ends: Vec<(&Held, f64, &str)> = self
            .held
            .iter()
            .filter_map(|h| h.ended.as_ref().map(|(t, how)| (h, clock::seconds(self.at, *t), how.as_str())))
            .collect();
        if ends.is_empty() {
            let all = self.held.len();
            verdict.check(false, format!("none of {all} long connections was ended by the deadline"));
            return;
        }
        let in_time = |(held, end, how): &(&Held, f64, &str)| {
            clock::seconds(self.at, held.last_good) >= self.deadline - SLACK
                && *end < self.deadline + LATE
                && !how.contains("timeout")
        };
        let served = ends.iter().map(|(h, ..)| clock::seconds(self.at, h.last_good)).fold(f64::MAX, f64::min);
        let (_, end, how) =
            ends.iter().fold(("", 0.0, ""), |a, b| if b.1 > a.1 { ("", b.1, b.2) } else { a });
        verdict.check(
            ends.iter().all(in_time),
            format!(
                "{} of {} long connections went through it: served for {served:.1} s at least, \
                 ended {end:.1} s after SIGTERM ({how})",
                ends.len(),
                self.held.len()
            ),
        );
        verdict.check(self.coded >= ends.len(), format!("{} ended with code drain_deadline", self.coded));
    }
}
