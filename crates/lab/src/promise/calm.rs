//! Judges `http`, `tcp`, `udp`, `headless` and `explain`: what clients see while nothing is broken.

use serde::Serialize;

use super::SECOND;
use crate::judge::Tally;
use crate::report::Verdict;

/// What `http` observes of one member.
#[derive(Debug, Clone, Serialize)]
pub struct Http {
    /// The member asked from.
    pub from: String,
    /// Who must answer; absent where there is no near copy.
    pub nearest: Option<String>,
    /// What curl printed, where curl can be used.
    pub curl: Option<String>,
    /// How long the load was judged, nanoseconds.
    pub nanos: u64,
    /// Requests per second asked for.
    pub rate: u32,
    /// Requests on connections of their own.
    pub new: Tally,
    /// Requests on kept ones.
    pub kept: Tally,
}

impl Http {
    /// Says what was kept.
    pub fn judge(&self, verdict: &mut Verdict) {
        let Self { from, new, kept, .. } = self;
        if let Some(body) = &self.curl {
            verdict.check(body.contains("\"member\""), format!("curl in {from}: {}", body.trim()));
        }
        verdict.check(
            new.clean() && kept.clean(),
            format!("{from}: new {}, kept {}, p99 {:.1} ms", new.text(), kept.text(), millis(new.p99_us)),
        );
        // Half the planned number would be no open loop.
        let planned = usize::try_from(u64::from(self.rate) * self.nanos / SECOND).unwrap_or(usize::MAX);
        let made = new.all + kept.all;
        if self.nanos < 5 * SECOND || made * 10 < planned * 9 {
            verdict.check(false, format!("{from}: only {made} of {planned} requests"));
        }
        if let Some(near) = &self.nearest {
            verdict.check(new.only(&[near]), format!("{from} answered by {:?}", new.members));
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a latency is far below 2^53 µs")]
fn millis(us: u64) -> f64 {
    us as f64 / 1000.0
}

/// What `tcp` observes of one member: a stock client's answers, or why there was none.
#[derive(Debug, Clone, Serialize)]
pub struct Tcp {
    /// The member asked from.
    pub from: String,
    /// The answer to INCR of a fresh key.
    pub incr: Result<String, String>,
    /// The answer to SET of 1 MiB.
    pub set: Result<String, String>,
    /// Whether GET gave the same.
    pub same: Result<bool, String>,
}

impl Tcp {
    /// Says what was kept.
    pub fn judge(&self, verdict: &mut Verdict) {
        let from = &self.from;
        match &self.incr {
            Ok(n) => verdict.check(n.trim() == "1", format!("{from}: INCR {}", n.trim())),
            Err(e) => verdict.check(false, format!("{from}: INCR: {e}")),
        }
        let stored = self.set.as_ref().is_ok_and(|a| a.trim() == "OK");
        let text = match (&self.set, &self.same) {
            (Err(e), _) | (_, Err(e)) => format!("{from}: 1 MiB: {e}"),
            (Ok(_), Ok(true)) if stored => format!("{from}: 1 MiB set and read back unchanged"),
            (Ok(answer), Ok(_)) => format!("{from}: 1 MiB set ({}) and read back changed", answer.trim()),
        };
        verdict.check(stored && self.same == Ok(true), text);
    }
}

/// What `udp` observes.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Udp {
    /// The largest datagram that came back over each tunnel on QUIC.
    pub largest: usize,
    /// Datagrams sent by all clients.
    pub sent: usize,
    /// Of these, those that came back unchanged to the port they were sent from.
    pub echoed: usize,
    /// Whether [`Udp::BEYOND`] bytes more were lost.
    pub beyond_lost: bool,
    /// By how much the gateways' counter of too large ones rose.
    pub counted: u64,
    /// While UDP is blocked: each size and why it did not come back.
    pub over_http2: Vec<(usize, Option<String>)>,
    /// Packets of UDP that passed meanwhile.
    pub passed: u64,
}

impl Udp {
    /// So many bytes more fit in no tunnel: the number of a flow takes one to eight bytes of a datagram, and
    /// tunnels are at different numbers.
    pub const BEYOND: usize = 8;
    /// Sizes asked for over HTTP/2.
    pub const SIZES: [usize; 7] = [1, 512, 1200, 1500, 9000, 30_000, 65_507];

    /// Says what was kept.
    pub fn judge(&self, verdict: &mut Verdict) {
        let Self { largest, sent, echoed, beyond_lost, counted, .. } = self;
        verdict.check(*largest >= 1200, format!("largest datagram through the tunnel: {largest} bytes"));
        verdict.check(
            *sent == 1000 && echoed == sent,
            format!("{echoed} of {sent} echoed unchanged to the right port"),
        );
        verdict.check(
            *beyond_lost && *counted > 0,
            format!("{} bytes dropped: {beyond_lost}, counted: {counted}", largest + Self::BEYOND),
        );
        let failed: Vec<String> = self
            .over_http2
            .iter()
            .filter_map(|(size, error)| error.as_ref().map(|e| format!("{size} bytes: {e}")))
            .collect();
        let all = self.over_http2.len() == Self::SIZES.len() && failed.is_empty();
        let seen = if all { "every size up to 65,507".into() } else { failed.join(", ") };
        verdict.check(all, format!("over HTTP/2: {seen}"));
        verdict.check(self.passed == 0, format!("{} packets of UDP passed meanwhile", self.passed));
    }
}

/// What `headless` observes of one member.
#[derive(Debug, Clone, Serialize)]
pub struct Headless {
    /// The member asked from.
    pub from: String,
    /// Addresses the service's own name gave.
    pub addresses: Result<usize, String>,
    /// Each pod asked for by name, and which pod answered, or why none.
    pub pods: Vec<(String, Result<String, String>)>,
}

impl Headless {
    /// Says what was kept.
    pub fn judge(&self, verdict: &mut Verdict) {
        let from = &self.from;
        match &self.addresses {
            Ok(n) => verdict.check(*n >= 3, format!("{from}: {n} addresses")),
            Err(e) => verdict.check(false, format!("{from}: kafka.data: {e}")),
        }
        let right = self.pods.iter().filter(|(pod, by)| by.as_ref() == Ok(pod)).count();
        let wrong: Vec<String> = self
            .pods
            .iter()
            .filter(|(pod, by)| by.as_ref() != Ok(pod))
            .map(|(pod, by)| match by {
                Ok(other) => format!(", {pod} is answered by {other}"),
                Err(e) => format!(", {pod}: {e}"),
            })
            .collect();
        verdict.check(right == 3 && wrong.is_empty(), format!("{right} of 3 pods by name{}", wrong.concat()));
    }
}

/// What `explain` observes of one member.
#[derive(Debug, Clone, Serialize)]
pub struct Explain {
    /// The member asked from.
    pub from: String,
    /// Gateways it has.
    pub gateways: usize,
    /// Gateways that explained.
    pub explained: usize,
    /// Clusters with a share, by any of them.
    pub shares: Vec<String>,
    /// Who then answered, or why nobody did.
    pub answered: Result<Vec<String>, String>,
}

impl Explain {
    /// Says what was kept.
    pub fn judge(&self, verdict: &mut Verdict) {
        let Self { from, explained, shares, .. } = self;
        verdict.check(
            *explained == self.gateways && *explained > 0,
            format!("{from}: {explained} gateways answered"),
        );
        match &self.answered {
            Err(e) => {
                verdict.check(false, format!("{from}: explain says {shares:?}, then nobody answered: {e}"))
            }
            Ok(by) => verdict.check(
                !by.is_empty() && by.iter().all(|m| shares.contains(m)),
                format!("{from}: explain says {shares:?}, answered by {by:?}"),
            ),
        }
    }
}
