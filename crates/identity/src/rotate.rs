//! Root rotation as a state machine: prepare, activate, retire, each refused with its reason.
//!
//! Called by the controller for `hansa trust rotate`. Knows no clock: `now` and what the peers have
//! acknowledged are arguments. After every step the caller saves the CA and publishes its bundle.

use std::time::{Duration, SystemTime};

use crate::bundle::MAX_ROOTS;
use crate::ca::{Ca, CaError, NextRoot, RetiredRoot, new_root};
use crate::cert::Fingerprint;

/// A new root is published this many refresh hints before it signs (SPIFFE: three to five).
pub const HINTS_BEFORE_USE: u32 = 3;

/// Why a step of a rotation was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RotateRefusal {
    /// A next root is published already.
    #[error("root {0} is already prepared; activate it first")]
    AlreadyPrepared(Fingerprint),
    /// There is no next root.
    #[error("no next root is prepared")]
    NotPrepared,
    /// The next root has not been published for long enough.
    #[error("the next root has not been published for {HINTS_BEFORE_USE} refresh hints; {0:?} remain")]
    TooEarly(Duration),
    /// Somebody has not acknowledged the bundle of this step.
    #[error("not every server and peer has acknowledged the bundle")]
    NotAcknowledged,
    /// Leaves of the old root may still live.
    #[error("leaves of this root may live for another {0:?}")]
    LeavesLive(Duration),
    /// No retired root has this fingerprint.
    #[error("no retired root has fingerprint {0}")]
    Unknown(Fingerprint),
    /// So many roots are published that no other fits.
    #[error("{MAX_ROOTS} roots are published already; retire one first")]
    TooMany,
}

impl RotateRefusal {
    /// Whether the step is allowed as soon as everybody has acknowledged the bundle.
    pub fn waits_for_others(&self) -> bool {
        matches!(self, Self::TooEarly(_) | Self::NotAcknowledged)
    }
}

/// Why a step failed: refused, or the new root could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// The rules do not allow the step now.
    #[error(transparent)]
    Refused(#[from] RotateRefusal),
    /// Making the root failed.
    #[error(transparent)]
    Making(#[from] CaError),
}

/// What is known when a step is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Consent {
    /// Every peer and every own server that is not denied has acknowledged the bundle now published.
    pub acknowledged: bool,
    /// The operator takes the consequences: who does not know the root refuses us.
    pub force: bool,
}

/// Where a rotation stands, for `hansa trust show`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// The root that signs.
    pub active: Fingerprint,
    /// The root that is published but does not sign, and since when.
    pub next: Option<(Fingerprint, SystemTime)>,
    /// Roots that no longer sign, and since when.
    pub retired: Vec<(Fingerprint, SystemTime)>,
}

impl Ca {
    /// Where a rotation stands.
    pub fn rotation(&self) -> Rotation {
        let next = self.next.as_ref();
        Rotation {
            active: self.active.root.fingerprint(),
            next: next.map(|next| (next.signing.root.fingerprint(), next.published)),
            retired: self.retired.iter().map(|old| (old.root.fingerprint(), old.since)).collect(),
        }
    }

    /// Step 1: makes the next root and puts it into the bundle. It signs nothing yet.
    pub fn prepare_next(&mut self, now: SystemTime) -> Result<Fingerprint, RotateError> {
        if let Some(next) = &self.next {
            return Err(RotateRefusal::AlreadyPrepared(next.signing.root.fingerprint()).into());
        }
        if self.retired.len() + 2 > MAX_ROOTS {
            return Err(RotateRefusal::TooMany.into());
        }
        let signing = new_root(&self.domain, &self.options, now)?;
        let fingerprint = signing.root.fingerprint();
        self.next = Some(NextRoot { signing, published: now });
        self.sequence += 1;
        Ok(fingerprint)
    }

    /// Step 2: the next root signs from now on; the old one stays in the bundle.
    ///
    /// An acknowledgement by all allows it at once. Without one it is refused, first as too early,
    /// then as not acknowledged: a peer that does not know the root would refuse every new leaf and
    /// could then not be told by the feed either.
    pub fn activate_next(&mut self, now: SystemTime, consent: Consent) -> Result<Fingerprint, RotateRefusal> {
        let next = self.next.take().ok_or(RotateRefusal::NotPrepared)?;
        if let Err(refusal) = self.may_activate(&next, now, consent) {
            self.next = Some(next);
            return Err(refusal);
        }
        let old = std::mem::replace(&mut self.active, next.signing);
        self.retired.push(RetiredRoot { root: old.root, since: now, longest: old.longest });
        self.lives();
        Ok(self.active.root.fingerprint())
    }

    fn may_activate(&self, next: &NextRoot, now: SystemTime, consent: Consent) -> Result<(), RotateRefusal> {
        if consent.acknowledged || consent.force {
            return Ok(());
        }
        let wait = self.options.refresh_hint * HINTS_BEFORE_USE;
        let passed = now.duration_since(next.published).unwrap_or_default();
        if passed < wait {
            Err(RotateRefusal::TooEarly(wait - passed))
        } else {
            Err(RotateRefusal::NotAcknowledged)
        }
    }

    /// Step 3: takes an old root out of the bundle.
    ///
    /// Refused while a leaf it signed may live, and until everybody acknowledged the bundle that
    /// holds the new root.
    pub fn retire(
        &mut self,
        root: Fingerprint,
        now: SystemTime,
        consent: Consent,
    ) -> Result<(), RotateRefusal> {
        let found = self.retired.iter().position(|old| old.root.fingerprint() == root);
        let index = found.ok_or(RotateRefusal::Unknown(root))?;
        if !consent.force {
            let since = now.duration_since(self.retired[index].since).unwrap_or_default();
            // Not the life in force today: it may have been longer when this root signed.
            let longest = self.retired[index].longest;
            if since < longest {
                return Err(RotateRefusal::LeavesLive(longest - since));
            }
            if !consent.acknowledged {
                return Err(RotateRefusal::NotAcknowledged);
            }
        }
        self.retired.remove(index);
        self.sequence += 1;
        Ok(())
    }
}
