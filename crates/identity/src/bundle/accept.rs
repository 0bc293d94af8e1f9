//! The rule by which a newer bundle takes the place of the one held.
//!
//! Called for every bundle that arrives by the feed, a `ClusterPeer` or a file. Pure: the caller
//! keeps the result, logs it, and decides about force.

use super::Bundle;

/// What an accepted bundle means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// Nothing was held for the domain.
    First,
    /// The very bundle that is held.
    Unchanged,
    /// A newer bundle with at least one root in common.
    Newer,
    /// A newer, empty bundle: the domain has revoked everything. Worth an audit line.
    Revoked,
}

/// Why an offered bundle was not taken. The one held stays in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The bundle is of another trust domain.
    #[error("the bundle is of trust domain {offered}, not {held}")]
    OtherDomain {
        /// The domain of the bundle held.
        held: String,
        /// The domain of the bundle offered.
        offered: String,
    },
    /// The sequence went back.
    #[error("the sequence went back from {held} to {offered}")]
    Older {
        /// Sequence held.
        held: u64,
        /// Sequence offered.
        offered: u64,
    },
    /// Another content under the same sequence.
    #[error("sequence {0} is held with another content")]
    SameSequence(u64),
    /// No root in common, so nothing vouches for the new ones.
    #[error("none of the new roots overlaps with those held; seed the trust anew or use force")]
    NoOverlap,
    /// The first bundle of a domain holds no root, which would say nothing.
    #[error("the bundle is empty and nothing is held for the domain")]
    EmptyFirst,
}

/// Whether `offered` may take the place of `current`.
pub fn accept(current: Option<&Bundle>, offered: &Bundle) -> Result<Accepted, Refusal> {
    let Some(held) = current else {
        return if offered.is_revoked() { Err(Refusal::EmptyFirst) } else { Ok(Accepted::First) };
    };
    if held.trust_domain != offered.trust_domain {
        return Err(Refusal::OtherDomain {
            held: held.trust_domain.to_string(),
            offered: offered.trust_domain.to_string(),
        });
    }
    if offered.sequence < held.sequence {
        return Err(Refusal::Older { held: held.sequence, offered: offered.sequence });
    }
    if offered.sequence == held.sequence {
        let same = held.same_content(offered);
        return if same { Ok(Accepted::Unchanged) } else { Err(Refusal::SameSequence(held.sequence)) };
    }
    if offered.is_revoked() {
        return Ok(Accepted::Revoked);
    }
    if !offered.roots.iter().any(|root| held.roots.contains(root)) {
        return Err(Refusal::NoOverlap);
    }
    Ok(Accepted::Newer)
}

/// As [`accept`], by an operator's word: only another trust domain is still refused.
pub fn accept_forced(current: Option<&Bundle>, offered: &Bundle) -> Result<Accepted, Refusal> {
    match accept(current, offered) {
        Err(other @ Refusal::OtherDomain { .. }) => Err(other),
        Err(_) if offered.is_revoked() => Ok(Accepted::Revoked),
        Err(_) => Ok(Accepted::Newer),
        taken => taken,
    }
}
