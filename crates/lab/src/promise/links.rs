//! Judges `member-cut`, `udp-block` and `udp-return`.

use serde::Serialize;

use super::{SECOND, good_from, once, shown};
use crate::access::Ends;
use crate::clock;
use crate::judge::Records;
use crate::report::Verdict;

/// What `hansa status` said of a member that was cut off.
#[derive(Debug, Clone, Serialize)]
pub struct Unreachable {
    /// Where status was asked.
    pub from: String,
    /// About whom.
    pub peer: String,
    /// When it first said `unreachable`, from the cut on.
    pub seconds: Option<f64>,
    /// The age it gave then.
    pub age: Option<f64>,
    /// What it said last.
    pub reach: String,
}

impl Unreachable {
    fn judge(&self, verdict: &mut Verdict) {
        let Self { from, peer, seconds, age, reach } = self;
        let right = seconds.is_some_and(|t| t < 5.0 && age.is_some_and(|a| a > 0.0 && a < t + 3.0));
        let aged = age.map_or_else(|| "none".into(), |a| format!("{a:.2} s"));
        let seen = shown(*seconds);
        verdict.check(right, format!("status in {from}: {peer} {reach}, unreachable {seen}, age {aged}"));
    }
}

/// How the gateways ended connections since a fault, by their access lines.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Ended {
    /// Within five seconds of it.
    pub soon: Ends,
    /// All until it was undone, or watching ended.
    pub all: Ends,
}

/// What is on a dead path ends within five seconds, and the gateways say so with a code.
fn ended(verdict: &mut Verdict, records: &Records, at: u64, ends: &Ended) {
    let last = records.last_end_of_what_was_open(at).map(|t| clock::seconds(at, t));
    verdict.check(
        last.is_none_or(|t| t < 5.0),
        format!("the last connection on the dead path ended {}", shown(last)),
    );
    let lost = "path_lost";
    let late = ends.all.count(lost).saturating_sub(ends.soon.count(lost));
    verdict.check(
        ends.soon.coded(lost) > 0 && ends.all.coded(lost) == ends.all.count(lost) && late == 0,
        format!("within 5 s ended by the gateways as {}, {late} path_lost later", ends.soon.text()),
    );
}

/// What `member-cut` observes where another copy is.
#[derive(Debug, Clone)]
pub struct TwoCopies {
    /// What status said.
    pub status: Unreachable,
    /// When the cut was confirmed.
    pub at: u64,
    /// When it was ended.
    pub until: u64,
    /// A load from the member where status was asked.
    pub records: Records,
    /// How its gateways ended connections since the cut.
    pub ends: Ended,
}

impl TwoCopies {
    /// Says what was kept.
    pub fn judge(&self, verdict: &mut Verdict) {
        self.status.judge(verdict);
        let who = format!("{} without {}", self.status.from, self.status.peer);
        good_from(verdict, &who, &self.records, (self.at, 2 * SECOND, self.until));
        ended(verdict, &self.records, self.at, &self.ends);
        once(verdict, &self.records, (self.at + 2 * SECOND, self.until));
    }
}

/// What `member-cut` observes where there is no other copy.
#[derive(Debug, Clone)]
pub struct OnlyCopy {
    /// What status said.
    pub status: Unreachable,
    /// When the cut was confirmed.
    pub at: u64,
    /// When it was ended.
    pub until: u64,
    /// A load from the member where status was asked.
    pub records: Records,
    /// How its gateways ended connections since the cut.
    pub ends: Ended,
}

impl OnlyCopy {
    /// Says what was kept.
    pub fn judge(&self, verdict: &mut Verdict) {
        self.status.judge(verdict);
        // Were anything good, the cut would not be one.
        let new = self.records.new_between(self.at, self.until.saturating_sub(2 * SECOND));
        verdict.check(new.all > 0 && new.failed == new.all, format!("meanwhile {}", new.short()));
        ended(verdict, &self.records, self.at, &self.ends);
        let repeated = self.records.repeated();
        verdict.check(repeated == 0, format!("{repeated} requests served twice"));
    }
}

/// What `udp-block` observes.
#[derive(Debug, Clone)]
pub struct UdpBlock {
    /// Whether all went over QUIC before.
    pub on_quic: bool,
    /// Packets of UDP that passed after the block was confirmed.
    pub passed: u64,
    /// What new streams to each peer went over at the end.
    pub over: Vec<String>,
    /// When the block was confirmed.
    pub at: u64,
    /// When judging ended.
    pub until: u64,
    /// A load through it.
    pub records: Records,
    /// How gateways ended connections since the block.
    pub ends: Ended,
}

impl UdpBlock {
    /// Says what was kept.
    pub fn judge(&self, verdict: &mut Verdict) {
        verdict.check(self.on_quic, if self.on_quic { "before: on QUIC" } else { "before: not on QUIC" });
        verdict.check(self.passed == 0, format!("{} packets of UDP passed", self.passed));
        let moved = !self.over.is_empty() && self.over.iter().all(|t| t == "http2");
        verdict.check(moved, format!("then over {}", self.over.join(", ")));
        good_from(verdict, "UDP blocked", &self.records, (self.at, SECOND, self.until));
        ended(verdict, &self.records, self.at, &self.ends);
        once(verdict, &self.records, (self.at + SECOND, self.until));
    }
}

/// What `udp-return` observes.
#[derive(Debug, Clone)]
pub struct UdpReturn {
    /// Whether all went over HTTP/2 before.
    pub on_http2: bool,
    /// Packets of UDP that were dropped before: the block was real.
    pub dropped: u64,
    /// When UDP passed again.
    pub healed: u64,
    /// When new streams went over QUIC again, from then on.
    pub seconds: Option<f64>,
    /// Whether UDP passed by then.
    pub passed: u64,
    /// A load through it.
    pub records: Records,
}

impl UdpReturn {
    /// Says what was kept.
    pub fn judge(&self, verdict: &mut Verdict) {
        let before = if self.on_http2 { "before: on HTTP/2" } else { "before: not on HTTP/2" };
        verdict
            .check(self.on_http2 && self.dropped > 0, format!("{before}, {} packets dropped", self.dropped));
        verdict.check(
            self.seconds.is_some_and(|t| t < 30.0) && self.passed > 0,
            format!("on QUIC again {}, {} packets of UDP passed", shown(self.seconds), self.passed),
        );
        let new = self.records.new_between(self.healed, u64::MAX);
        let kept = self.records.kept_between(self.healed, u64::MAX);
        verdict.check(new.clean() && kept.clean(), format!("new {}, kept {}", new.text(), kept.text()));
    }
}
