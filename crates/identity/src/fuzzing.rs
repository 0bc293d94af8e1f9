//! Entry points for fuzzers and for the bounded random runs of the tests.
//!
//! Each takes hostile bytes and must neither panic nor take long. Not for use by products.

use std::time::UNIX_EPOCH;

use hansa_core::name::NodeId;
use hansa_core::spiffe::{Role, TrustDomain};

use crate::bundle::Bundle;
use crate::ca::{Ca, CaOptions};
use crate::cert::Leaf;
use crate::deny::DenyEntry;
use crate::token::{EnrollToken, InviteToken};

/// A target: its name and what it does with the input.
pub type FuzzTarget = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[FuzzTarget] = &[
    ("bundle", bundle),
    ("ca_state", ca_state),
    ("token", token),
    ("leaf", leaf),
    ("signing_request", signing_request),
];

/// Bundle text; what is read is written and read again to the same value.
pub fn bundle(bytes: &[u8]) {
    let Ok(domain) = "fuzz.example".parse::<TrustDomain>() else { return };
    if let Ok(bundle) = Bundle::from_json(&domain, bytes) {
        let again = Bundle::from_json(&domain, bundle.to_json().as_bytes());
        assert_eq!(again.as_ref(), Ok(&bundle), "a bundle survives writing and reading");
    }
}

/// The state of an authority as its file holds it; what is read is written and read again to the same text.
pub fn ca_state(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(state) = Ca::from_state(text).and_then(|ca| ca.to_state()) {
        let again = Ca::from_state(&state).and_then(|ca| ca.to_state());
        assert_eq!(again.ok().as_ref(), Some(&state), "a state survives reading and writing");
    }
}

/// Token text of both kinds.
pub fn token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = EnrollToken::parse(text, UNIX_EPOCH);
    let _ = InviteToken::parse(text, UNIX_EPOCH);
    let _ = text.parse::<DenyEntry>();
}

/// A certificate as a peer might present it.
pub fn leaf(bytes: &[u8]) {
    let _ = Leaf::parse(bytes);
}

/// A signing request as an enrolling server might send it.
pub fn signing_request(bytes: &[u8]) {
    let now = UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
    let Ok(domain) = "fuzz.example".parse::<TrustDomain>() else { return };
    let Ok(node) = "g".parse::<NodeId>() else { return };
    if let Ok(ca) = Ca::create(domain, CaOptions::default(), now) {
        let _ = ca.sign(&Role::Gateway(node), bytes, now);
    }
}
