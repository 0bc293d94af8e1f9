//! Readiness as a set of named conditions: a process is ready when all of them hold and nobody
//! has withdrawn it. `/readyz` prints what is missing.
//!
//! Called by wiring (declares conditions), by the parts that fulfil them, and by drain.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;

/// The readiness of this process. Clones share it.
///
/// ```
/// # use hansa_runtime::ready::Ready;
/// let ready = Ready::new();
/// let table = ready.condition("first-table");
/// assert!(!ready.is_ready());
/// table.set();
/// assert!(ready.is_ready());
/// ready.withdraw("draining");
/// assert!(!ready.is_ready());
/// ```
#[derive(Clone, Debug)]
pub struct Ready {
    state: Arc<watch::Sender<State>>,
}

/// One named condition, held by the part that knows whether it is met. Dropping it leaves the
/// last state in force.
#[derive(Clone, Debug)]
pub struct Condition {
    name: String,
    ready: Ready,
}

/// What `/readyz` shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether all conditions hold and nobody withdrew the process.
    pub ready: bool,
    /// The conditions that do not hold, by name.
    pub missing: Vec<Missing>,
}

/// A condition that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// The condition's name.
    pub name: String,
    /// Why it does not hold, for people.
    pub reason: String,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct State {
    /// Condition name to the reason why it does not hold; `None` when it holds.
    conditions: BTreeMap<String, Option<String>>,
    withdrawn: Option<String>,
}

impl Default for Ready {
    fn default() -> Self {
        Self::new()
    }
}

impl Ready {
    /// No conditions yet, so ready: declare all of them before the health port opens.
    #[must_use]
    pub fn new() -> Self {
        Self { state: Arc::new(watch::channel(State::default()).0) }
    }

    /// Declares a condition that does not hold yet. The same name twice is the same condition.
    pub fn condition(&self, name: impl Into<String>) -> Condition {
        let condition = Condition { name: name.into(), ready: self.clone() };
        condition.unset("not yet");
        condition
    }

    /// Makes the process not ready for good, whatever the conditions say. Drain's first step.
    pub fn withdraw(&self, reason: impl Into<String>) {
        let reason = reason.into();
        self.state.send_if_modified(|s| {
            let changed = s.withdrawn.is_none();
            s.withdrawn.get_or_insert(reason);
            changed
        });
    }

    /// Whether all conditions hold and nobody withdrew the process.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state.borrow().is_ready()
    }

    /// The present state with everything that is missing.
    #[must_use]
    pub fn report(&self) -> Report {
        let state = self.state.borrow();
        let withdrawn = state.withdrawn.iter().map(|r| ("serving", r));
        let unmet = state.conditions.iter().filter_map(|(n, r)| Some((n.as_str(), r.as_ref()?)));
        let missing: Vec<_> = withdrawn
            .chain(unmet)
            .map(|(name, reason)| Missing { name: name.to_owned(), reason: reason.clone() })
            .collect();
        Report { ready: missing.is_empty(), missing }
    }

    /// Waits until ready.
    pub async fn wait(&self) {
        self.wait_for(State::is_ready).await;
    }

    /// Waits until not ready, for those who publish readiness to others.
    pub async fn wait_unready(&self) {
        self.wait_for(|s| !s.is_ready()).await;
    }

    async fn wait_for(&self, wanted: impl FnMut(&State) -> bool) {
        // An error would mean that the sender is gone, and `self` holds it.
        let _ = self.state.subscribe().wait_for(wanted).await;
    }
}

impl Condition {
    /// The condition holds from now on.
    pub fn set(&self) {
        self.put(None);
    }

    /// The condition does not hold, and why.
    pub fn unset(&self, reason: impl Into<String>) {
        self.put(Some(reason.into()));
    }

    fn put(&self, value: Option<String>) {
        self.ready.state.send_if_modified(|s| {
            let changed = s.conditions.get(&self.name) != Some(&value);
            s.conditions.insert(self.name.clone(), value);
            changed
        });
    }
}

impl State {
    fn is_ready(&self) -> bool {
        self.withdrawn.is_none() && self.conditions.values().all(Option::is_none)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_only_when_every_condition_holds() {
        let ready = Ready::new();
        let a = ready.condition("a");
        let b = ready.condition("b");
        a.set();
        let missing = ready.report().missing;
        assert_eq!(missing, [Missing { name: "b".into(), reason: "not yet".into() }]);
        let waiter = ready.clone();
        let (_, ()) = tokio::join!(waiter.wait(), async { b.set() });
        assert!(ready.report().ready);
        b.unset("lost it");
        ready.wait_unready().await;
        assert_eq!(ready.report().missing[0].reason, "lost it");
    }

    #[test]
    fn withdrawal_is_final_and_keeps_its_first_reason() {
        let ready = Ready::new();
        ready.withdraw("draining");
        ready.withdraw("again");
        let report = ready.report();
        assert_eq!(report.missing[0].name, "serving");
        assert_eq!(report.missing[0].reason, "draining");
        assert!(!ready.is_ready());
    }
}
