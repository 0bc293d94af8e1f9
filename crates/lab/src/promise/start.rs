//! Judges `up`, `join` and `names`.

use serde::Serialize;

use super::shown;
use crate::report::Verdict;

/// From the start of `up`, seconds: everything ready, and the first cross-member request answered.
const FIRST: f64 = 10.0;

/// What `up` observes.
#[derive(Debug, Clone, Serialize)]
pub struct Up {
    /// Servers the members have.
    pub servers: usize,
    /// Servers three whole members have.
    pub wanted: usize,
    /// Servers that say they are ready.
    pub ready: usize,
    /// When, from the start.
    pub seconds: f64,
}

impl Up {
    /// Says what was kept.
    pub fn judge(&self, verdict: &mut Verdict) {
        let Self { servers, wanted, ready, seconds } = self;
        verdict.check(ready == wanted, format!("{ready} of {wanted} servers ready"));
        verdict.check(*seconds < FIRST, format!("after {seconds:.2} s"));
        verdict.check(servers == wanted, format!("{servers} of {wanted} servers started"));
    }
}

/// What `join` observes.
#[derive(Debug, Clone, Serialize)]
pub struct Join {
    /// Who asked first.
    pub from: String,
    /// Who answered.
    pub answered: Option<String>,
    /// When, from the start of `up`.
    pub first: Option<f64>,
    /// When every member reached every other.
    pub all: Option<f64>,
}

impl Join {
    /// Says what was kept.
    pub fn judge(&self, verdict: &mut Verdict) {
        let by = self.answered.as_deref().unwrap_or("nobody");
        verdict.check(
            self.answered.as_ref().is_some_and(|a| *a != self.from) && self.first.is_some_and(|t| t < FIRST),
            format!("first answer in {}, from {by}, {}", self.from, shown(self.first)),
        );
        verdict.check(self.all.is_some(), format!("every member reaches every other {}", shown(self.all)));
    }
}

/// What one member saw of names that came or went.
#[derive(Debug, Clone, Serialize)]
pub struct Named {
    /// The member.
    pub member: String,
    /// When the last of the names was as it should be, from the act on; absent if it never was, or had been
    /// before anything was done.
    pub seconds: Option<f64>,
    /// How often a name gave an address on which nobody listened.
    pub deaf: usize,
    /// Good answers that the sample server's log does not have exactly once.
    pub unserved: usize,
}

/// What `names` observes, in each other member.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Names {
    /// How many are published at once.
    pub many: usize,
    /// One export appears and serves.
    pub one_serves: Vec<Named>,
    /// It is NXDOMAIN after its removal.
    pub one_gone: Vec<Named>,
    /// Many appear and serve.
    pub many_serve: Vec<Named>,
    /// They are gone.
    pub many_gone: Vec<Named>,
}

impl Names {
    /// Says what was kept.
    pub fn judge(&self, verdict: &mut Verdict) {
        let many = self.many;
        for (list, limit, what) in [
            (&self.one_serves, 1.0, "one export serves in".to_owned()),
            (&self.one_gone, 1.0, "removed, NXDOMAIN in".to_owned()),
            (&self.many_serve, 5.0, format!("{many} at once serve in")),
            (&self.many_gone, 5.0, "all removed in".to_owned()),
        ] {
            if list.len() < 2 {
                verdict.check(false, format!("{what} {} of 2 members watched", list.len()));
            }
            for Named { member, seconds, deaf, unserved } in list {
                let ok = seconds.is_some_and(|t| t < limit);
                verdict.check(ok, format!("{what} {member} {}", shown(*seconds)));
                if *deaf > 0 {
                    let text =
                        format!("in {member} a name gave an address where nobody listened, {deaf} times");
                    verdict.check(false, text);
                }
                if *unserved > 0 {
                    let text =
                        format!("{unserved} answers in {member} are not exactly once in the server's log");
                    verdict.check(false, text);
                }
            }
        }
    }
}
