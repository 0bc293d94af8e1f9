//! Entry points for fuzzers and the replay test: every text that core parses. Each takes any bytes,
//! must not panic, and states the law of its parser. Never called in production.

use std::fmt::Display;
use std::str::FromStr;

use crate::catalog::Protocol;
use crate::locality::Locality;
use crate::name::{ClusterId, Label, Namespace, PortName, ServiceName, Target};
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::zone::{self, Qtype, Zone};

/// A target: its name and what it does with the input.
pub type FuzzTarget = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[FuzzTarget] =
    &[("names", names_law), ("spiffe", spiffe_law), ("locality", locality_law), ("question", question_law)];

/// What is taken is written as it was read.
fn round_trip<T: FromStr<Err: Display> + Display>(text: &str) -> Option<T> {
    match text.parse::<T>() {
        Ok(value) => {
            assert_eq!(value.to_string(), text, "changed by reading");
            Some(value)
        }
        Err(error) => {
            // It goes into logs and answers: short, and without what moves a terminal.
            let said = error.to_string();
            assert!(said.len() < 3_000 && !said.contains('\x1b'), "{said:?}");
            None
        }
    }
}

fn names_law(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    round_trip::<ClusterId>(text);
    round_trip::<Namespace>(text);
    round_trip::<Label>(text);
    round_trip::<PortName>(text);
    round_trip::<Protocol>(text);
    if let Some(name) = round_trip::<ServiceName>(text) {
        assert_eq!(ServiceName::from_fqdn(&name.fqdn()), Ok(name));
    }
    if let Ok(name) = ServiceName::from_fqdn(text) {
        assert_eq!(name.fqdn(), text);
        assert_eq!(name.to_string().parse(), Ok(name));
    }
    round_trip::<Target>(text);
}

fn spiffe_law(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    round_trip::<TrustDomain>(text);
    if let Some(id) = round_trip::<SpiffeId>(text)
        && let Some(role) = id.role()
    {
        assert_eq!(SpiffeId::of(id.trust_domain(), &role), id);
    }
}

fn locality_law(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (place, zone) = text.split_once('\n').unwrap_or((text, "a"));
    if let Some(place) = round_trip::<Locality>(place) {
        assert!(place.within(&place));
        if let Ok(zoned) = place.with_zone(zone) {
            assert_eq!(zoned.region(), place.region());
        }
    }
}

/// Any name, asked of a zone without services, is not found or not ours.
fn question_law(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let types = [Qtype::A, Qtype::Aaaa, Qtype::Srv, Qtype::Txt, Qtype::Soa, Qtype::Ns, Qtype::Any];
    let answers = types.map(|qtype| zone::answer(&Zone::default(), text, qtype));
    let missing = |answer: &zone::Answer| matches!(answer, zone::Answer::NxDomain | zone::Answer::NotOurs);
    // Whether a name exists does not depend on the type asked for (RFC 8020).
    let count = answers.iter().filter(|answer| missing(answer)).count();
    assert!(count == 0 || count == answers.len(), "{text:?}: {answers:?}");
}
