//! Bundles as text, and the rule by which a newer one is taken.

use hansa_identity::bundle::{Accepted, Bundle, BundleError, Refusal, accept, accept_forced};

use crate::fixture::*;

fn read(text: &str) -> Result<Bundle, BundleError> {
    Bundle::from_json(&domain("a"), text.as_bytes())
}

fn element(bundle: &Bundle) -> String {
    let text = bundle.to_json();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value["keys"][0].to_string()
}

#[test]
fn a_bundle_survives_writing_and_reading() {
    let mut a = Member::new("a");
    a.ca.prepare_next(now()).unwrap();
    assert_eq!(read(&a.bundle().to_json()).unwrap(), a.bundle());
    let element = element(&a.bundle());
    for part in ["\"kty\":\"EC\"", "\"use\":\"x509-svid\"", "\"crv\":\"P-256\"", "\"x5c\""] {
        assert!(element.contains(part), "{element}");
    }
    assert!(!element.contains("kid"));
}

#[test]
fn unknown_elements_are_ignored_and_broken_ones_refused() {
    let a = Member::new("a");
    let good = element(&a.bundle());
    let keys = |keys: &str| read(&format!("{{\"keys\":[{keys}],\"spiffe_sequence\":7}}"));
    let jwt = r#"{"kty":"EC","use":"jwt-svid","kid":"x","crv":"P-256","x":"","y":""}"#;
    let alien = r#"{"kty":"PQ","use":"x509-svid"}"#;
    let bundle = keys(&format!("{jwt},{good},{alien}")).unwrap();
    assert_eq!((bundle.sequence, bundle.roots.len()), (7, 1));
    assert!(keys("").unwrap().is_revoked());

    let none = r#"{"kty":"EC","use":"x509-svid","x5c":[]}"#;
    assert_eq!(keys(none), Err(BundleError::Chain(0)));
    let two = good.replace("\"x5c\":[", "\"x5c\":[\"AA==\",");
    assert_eq!(keys(&two), Err(BundleError::Chain(0)));
    assert!(matches!(keys(&format!("{good},{good}")), Err(BundleError::Duplicate(_))));
    let garbage = r#"{"kty":"EC","use":"x509-svid","x5c":["AAAA"]}"#;
    assert!(matches!(keys(garbage), Err(BundleError::Root(0, _))));
}

#[test]
fn limits_and_duplicate_keys_are_refused() {
    assert!(matches!(read(&" ".repeat(300_000)), Err(BundleError::TooLarge(_))));
    let many = vec!["{}"; 65].join(",");
    assert!(matches!(read(&format!("{{\"keys\":[{many}]}}")), Err(BundleError::TooLarge(_))));
    assert!(matches!(read(r#"{"keys":[],"keys":[]}"#), Err(BundleError::Json(_))));
    assert!(matches!(read("{}"), Err(BundleError::Json(_))));
    let deep = "[".repeat(10_000);
    assert!(matches!(read(&deep), Err(BundleError::Json(_))));
}

#[test]
fn a_leaf_is_no_root() {
    let a = Member::new("a");
    let leaf = a.identity(&gateway()).chain()[0].clone();
    let refused = hansa_identity::bundle::Root::parse(&domain("a"), &leaf);
    assert_eq!(refused, Err("it is not a certificate authority"));
}

#[test]
fn newer_bundles_are_taken_and_older_refused() {
    let mut a = Member::new("a");
    let first = a.bundle();
    assert_eq!(accept(None, &first), Ok(Accepted::First));
    assert_eq!(accept(Some(&first), &first), Ok(Accepted::Unchanged));
    a.ca.prepare_next(now()).unwrap();
    let second = a.bundle();
    assert_eq!(accept(Some(&first), &second), Ok(Accepted::Newer));
    let held = second.sequence;
    let older = Refusal::Older { held, offered: first.sequence };
    assert_eq!(accept(Some(&second), &first), Err(older));
}

#[test]
fn another_content_under_the_same_sequence_is_refused() {
    let (mut a, held) = (Member::new("a"), Member::new("a").bundle());
    a.ca.prepare_next(now()).unwrap();
    let mut offered = a.bundle();
    offered.sequence = held.sequence;
    let refused = accept(Some(&held), &offered);
    assert_eq!(refused, Err(Refusal::SameSequence(held.sequence)));
    assert_eq!(accept_forced(Some(&held), &offered), Ok(Accepted::Newer));
}

#[test]
fn an_empty_bundle_counts_only_when_newer() {
    let held = Member::new("a").bundle();
    let mut empty = held.clone();
    empty.roots.clear();
    assert_eq!(accept(None, &empty), Err(Refusal::EmptyFirst));
    assert_eq!(accept(Some(&held), &empty), Err(Refusal::SameSequence(held.sequence)));
    empty.sequence += 1;
    assert_eq!(accept(Some(&held), &empty), Ok(Accepted::Revoked));
    // After that nothing vouches for new roots but an operator.
    let mut back = held.clone();
    back.sequence += 2;
    assert_eq!(accept(Some(&empty), &back), Err(Refusal::NoOverlap));
    assert_eq!(accept_forced(Some(&empty), &back), Ok(Accepted::Newer));
}

#[test]
fn changed_roots_without_overlap_are_refused() {
    let held = Member::new("a").bundle();
    let mut other = Member::new("a").bundle();
    other.sequence = held.sequence + 1;
    assert_eq!(accept(Some(&held), &other), Err(Refusal::NoOverlap));
    assert_eq!(accept_forced(Some(&held), &other), Ok(Accepted::Newer));
    let foreign = Member::new("b").bundle();
    assert!(matches!(accept_forced(Some(&held), &foreign), Err(Refusal::OtherDomain { .. })));
}
