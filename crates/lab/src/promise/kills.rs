//! Judges `endpoint-kill`, `gateway-kill` and `controller-kill`.

use super::{SECOND, good_from, once};
use crate::clock;
use crate::judge::Records;
use crate::report::Verdict;

/// How soon after its restart an export made while the controller was away serves elsewhere, seconds.
const KNOWN: f64 = 2.0;
/// How long a controller is away at least, seconds.
const AWAY: f64 = 20.0;

/// What `endpoint-kill` observes.
#[derive(Debug, Clone)]
pub struct EndpointKill {
    /// Whose sample server died.
    pub victim: String,
    /// The other member that has the service.
    pub other: String,
    /// When the death was confirmed.
    pub at: u64,
    /// When it was started again.
    pub until: u64,
    /// A load from the victim's member.
    pub records: Records,
}

impl EndpointKill {
    /// Says what was kept.
    pub fn judge(&self, verdict: &mut Verdict) {
        let new = self.records.new_between(self.at, self.until);
        verdict.check(new.clean(), format!("after the kill of {}: {}", self.victim, new.text()));
        verdict.check(new.all > 0 && new.only(&[&self.other]), format!("answered by {:?}", new.members));
        once(verdict, &self.records, (self.at + SECOND, self.until));
    }
}

/// What `gateway-kill` observes of one gateway.
#[derive(Debug, Clone)]
pub struct GatewayKill {
    /// `local` or `peer's`, and which one.
    pub who: String,
    /// When the death was confirmed.
    pub at: u64,
    /// When it was started again.
    pub until: u64,
    /// A load through it.
    pub records: Records,
}

impl GatewayKill {
    /// Says what was kept.
    pub fn judge(&self, verdict: &mut Verdict) {
        good_from(verdict, &self.who, &self.records, (self.at, SECOND, self.until));
        once(verdict, &self.records, (self.at + SECOND, self.until));
    }
}

/// What `controller-kill` observes.
#[derive(Debug, Clone)]
pub struct ControllerKill {
    /// Whose controller died.
    pub victim: String,
    /// When the death was confirmed.
    pub at: u64,
    /// When the process was started again.
    pub restarted: u64,
    /// When it said it was ready.
    pub ready: u64,
    /// When an export made meanwhile first served elsewhere.
    pub known: Option<u64>,
    /// Loads, by the member they come from.
    pub views: Vec<(String, Records)>,
}

impl ControllerKill {
    /// Says what was kept.
    pub fn judge(&self, verdict: &mut Verdict) {
        let away = clock::seconds(self.at, self.restarted);
        verdict.check(away >= AWAY, format!("{}'s controller was away for {away:.1} s", self.victim));
        for (from, records) in &self.views {
            let new = records.new_between(self.at, self.restarted);
            let kept = records.kept_between(self.at, self.restarted);
            verdict.check(
                new.clean() && kept.clean(),
                format!("{from}: every connection by name, new {}, kept {}", new.text(), kept.text()),
            );
        }
        let took = self.known.map(|t| clock::seconds(self.restarted, t));
        let seen = took.map_or_else(|| "not while watched".into(), |t| format!("{t:.2} s after the restart"));
        verdict.check(
            took.is_some_and(|t| t < KNOWN),
            format!(
                "an export made meanwhile serves elsewhere {seen} (ready {:.2} s after it)",
                clock::seconds(self.restarted, self.ready)
            ),
        );
    }
}
