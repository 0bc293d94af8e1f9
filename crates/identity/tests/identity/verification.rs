//! Each rule of verification, by a leaf that breaks it.

use hansa_core::code::trust as code;
use hansa_core::spiffe::Role;
use hansa_identity::cert::{Leaf, LeafError};
use hansa_identity::deny::{DenyEntry, DenyList};
use hansa_identity::verify::{Admit, Domains, RoleKind, Side, VerifyError, check};
use rcgen::{ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType};
use rustls_pki_types::CertificateDer;

use crate::fixture::*;

fn judge(members: &[&Member], leaf: CertificateDer<'static>) -> Result<Leaf, VerifyError> {
    check(&trust(members), &any_gateway(), &[leaf], Side::Server, now())
}

#[test]
fn a_good_leaf_is_admitted() {
    let a = Member::new("a");
    let leaf = judge(&[&a], a.identity(&gateway()).chain()[0].clone()).unwrap();
    assert_eq!(leaf.id, id("spiffe://a/hansa/gateway/g-1"));
}

#[test]
fn one_member_cannot_speak_for_another() {
    let (a, evil) = (Member::new("a"), Member::new("evil"));
    let spoofed = evil.odd_leaf(|params| {
        params.subject_alt_names = vec![uri("spiffe://a/hansa/gateway/g-1")];
    });
    // Both roots are held; only the one of the leaf's own domain may count.
    let refused = judge(&[&a, &evil], spoofed).unwrap_err();
    assert!(matches!(refused, VerifyError::Chain { .. }), "{refused}");
}

#[test]
fn a_foreign_root_is_refused_in_a_bundle() {
    let a = Member::new("a");
    let text = a.bundle().to_json();
    let stolen = hansa_identity::bundle::Bundle::from_json(&domain("evil"), text.as_bytes());
    assert!(stolen.is_err());
}

#[test]
fn two_uri_names_are_refused() {
    let a = Member::new("a");
    let two = a.odd_leaf(|params| params.subject_alt_names.push(uri("spiffe://a/hansa/controller")));
    assert_eq!(judge(&[&a], two), Err(VerifyError::Leaf(LeafError::UriNames(2))));
    let none = a.odd_leaf(|params| params.subject_alt_names.clear());
    assert_eq!(judge(&[&a], none), Err(VerifyError::Leaf(LeafError::UriNames(0))));
    // One URI beside a DNS name is what SPIFFE allows.
    let dns = |params: &mut rcgen::CertificateParams| {
        params.subject_alt_names.push(SanType::DnsName("x.example".try_into().unwrap()));
    };
    judge(&[&a], a.odd_leaf(dns)).unwrap();
}

#[test]
fn what_is_no_spiffe_id_is_refused() {
    let a = Member::new("a");
    for bad in ["https://a/x", "spiffe://a", "spiffe://a/x/", "spiffe://a/%41", "spiffe://A/x"] {
        let leaf = a.odd_leaf(|params| params.subject_alt_names = vec![uri(bad)]);
        let refused = judge(&[&a], leaf).unwrap_err();
        assert!(matches!(refused, VerifyError::Leaf(LeafError::Id(_))), "{bad}: {refused}");
    }
}

#[test]
fn an_authority_as_leaf_is_refused() {
    let a = Member::new("a");
    let ca = a.odd_leaf(|params| params.is_ca = authority());
    assert_eq!(judge(&[&a], ca), Err(VerifyError::Leaf(LeafError::IsCa)));
    let signs = a.odd_leaf(|params| params.key_usages.push(KeyUsagePurpose::KeyCertSign));
    assert_eq!(judge(&[&a], signs), Err(VerifyError::Leaf(LeafError::IsCa)));
    let root = a.ca.active_root().der().clone();
    assert_eq!(judge(&[&a], root), Err(VerifyError::Leaf(LeafError::IsCa)));
}

#[test]
fn key_usage_must_allow_signatures() {
    let a = Member::new("a");
    let none = a.odd_leaf(|params| params.key_usages.clear());
    assert_eq!(judge(&[&a], none), Err(VerifyError::Leaf(LeafError::KeyUsage)));
    let other = a.odd_leaf(|params| {
        params.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
    });
    assert_eq!(judge(&[&a], other), Err(VerifyError::Leaf(LeafError::KeyUsage)));
}

#[test]
fn an_extended_usage_for_the_other_side_only_is_refused() {
    let a = Member::new("a");
    let client = a.odd_leaf(|params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    let refused = judge(&[&a], client.clone()).unwrap_err();
    assert!(matches!(refused, VerifyError::Chain { .. }), "{refused}");
    check(&trust(&[&a]), &any_gateway(), &[client], Side::Client, now()).unwrap();
}

#[test]
fn expired_and_not_yet_valid_say_clock() {
    let a = Member::new("a");
    let leaf = a.identity(&gateway()).chain()[0].clone();
    for then in [now() + 25 * HOUR, now() - 2 * HOUR] {
        let refused = check(&trust(&[&a]), &any_gateway(), std::slice::from_ref(&leaf), Side::Server, then);
        let refused = refused.unwrap_err();
        assert!(matches!(refused, VerifyError::Clock { .. }), "{refused}");
        let text = refused.to_string();
        assert!(text.contains("clock") && text.starts_with("HNS-3002"), "{text}");
    }
    // A clock that is slow by less than the back-dating is borne.
    check(&trust(&[&a]), &any_gateway(), &[leaf], Side::Server, now() - HOUR / 2).unwrap();
}

#[test]
fn the_wrong_role_or_domain_is_refused() {
    let (a, b) = (Member::new("a"), Member::new("b"));
    let controller = a.identity(&Role::Controller).chain()[0].clone();
    let refused = judge(&[&a], controller.clone()).unwrap_err();
    assert!(matches!(refused, VerifyError::NotAdmitted(_)), "{refused}");

    let snapshot = trust(&[&a, &b]);
    let peers = Admit::roles(Domains::AnyBut(domain("a")), [RoleKind::Controller]);
    let own = Admit::roles(Domains::one(domain("a")), [RoleKind::Controller]);
    let ask = |admit: &Admit| check(&snapshot, admit, std::slice::from_ref(&controller), Side::Client, now());
    ask(&peers).unwrap_err();
    ask(&own).unwrap();
    ask(&peers.or(own)).unwrap();
    ask(&Admit::id(id("spiffe://a/hansa/controller"))).unwrap();
    ask(&Admit::id(id("spiffe://a/hansa/gateway/x"))).unwrap_err();
}

#[test]
fn the_deny_list_takes_one_leaf_out() {
    let a = Member::new("a");
    let (bad, good) = (a.identity(&gateway()), a.identity(&gateway()));
    let by_print = DenyEntry::Fingerprint(bad.leaf().fingerprint);
    let by_serial = DenyEntry::Serial(domain("a"), bad.leaf().serial.clone());
    for entry in [by_print, by_serial] {
        let mut snapshot = trust(&[&a]);
        snapshot.deny = [entry].into_iter().collect();
        let refused = check(&snapshot, &any_gateway(), bad.chain(), Side::Client, now());
        assert!(matches!(refused, Err(VerifyError::Denied(_))));
        check(&snapshot, &any_gateway(), good.chain(), Side::Client, now()).unwrap();
    }
    let mut snapshot = trust(&[&a]);
    snapshot.deny = [DenyEntry::Holder(bad.leaf().id.clone())].into_iter().collect();
    for leaf in [&bad, &good] {
        let refused = check(&snapshot, &any_gateway(), leaf.chain(), Side::Client, now()).unwrap_err();
        assert_eq!(refused.code(), code::CERT_DENIED, "every leaf of the holder");
    }
}

#[test]
fn a_domain_denies_its_own_certificates_and_nobody_elses() {
    let (a, b, c) = (Member::new("a"), Member::new("b"), Member::new("c"));
    let all = [&a, &b, &c].map(|member| member.identity(&gateway()));
    // b names every way to deny each of the three.
    let entries = all.iter().flat_map(|identity| {
        let leaf = identity.leaf();
        let serial = DenyEntry::Serial(leaf.trust_domain().clone(), leaf.serial.clone());
        [DenyEntry::Fingerprint(leaf.fingerprint), serial, DenyEntry::Holder(leaf.id.clone())]
    });
    for list in entries.map(|entry| DenyList::from_iter([entry])) {
        let mut snapshot = trust(&[&a, &b, &c]);
        snapshot.told.set(&domain("b"), list.clone().into());
        for identity in &all {
            let judged = check(&snapshot, &any_gateway(), identity.chain(), Side::Client, now());
            let own = identity.leaf().trust_domain() == &domain("b");
            let refused = matches!(judged, Err(VerifyError::Denied(_)));
            assert_eq!(refused, own && list.denies(identity.leaf()), "{list:?}: {:?}", identity.leaf().id);
            assert!(refused || judged.is_ok());
        }
    }
    let mut snapshot = trust(&[&b]);
    let holder = DenyList::from_iter([DenyEntry::Holder(all[1].leaf().id.clone())]);
    snapshot.told.set(&domain("b"), holder.into());
    snapshot.told.set(&domain("b"), DenyList::default().into());
    check(&snapshot, &any_gateway(), all[1].chain(), Side::Client, now()).unwrap();
    assert_eq!(snapshot, trust(&[&b]), "an empty list leaves nothing");
}

#[test]
fn every_refusal_has_its_code() {
    let (a, evil) = (Member::new("a"), Member::new("evil"));
    let good = a.identity(&gateway()).chain()[0].clone();
    let two = a.odd_leaf(|params| params.subject_alt_names.push(uri("spiffe://a/hansa/controller")));
    let authority = a.odd_leaf(|params| params.is_ca = authority());
    let spoofed =
        evil.odd_leaf(|params| params.subject_alt_names = vec![uri("spiffe://a/hansa/gateway/g-1")]);
    let controller = a.identity(&Role::Controller).chain()[0].clone();
    let foreign = evil.identity(&gateway()).chain()[0].clone();
    for (what, leaf, then, expected) in [
        ("expired", good.clone(), now() + 25 * HOUR, code::CERT_NOT_VALID_NOW),
        ("a slow clock", good.clone(), now() - 2 * HOUR, code::CERT_NOT_VALID_NOW),
        ("two names", two, now(), code::CERT_REFUSED),
        ("an authority as leaf", authority, now(), code::CERT_REFUSED),
        ("signed by another domain", spoofed, now(), code::CERT_REFUSED),
        ("the wrong role", controller, now(), code::CERT_WRONG_ROLE),
        ("of an unknown domain", foreign, now(), code::CERT_DOMAIN_UNKNOWN),
    ] {
        let refused = check(&trust(&[&a]), &any_gateway(), &[leaf], Side::Server, then).unwrap_err();
        assert_eq!(refused.code(), expected, "{what}: {refused}");
        assert!(refused.to_string().starts_with(&expected.to_string()), "{what}: {refused}");
    }
    check(&trust(&[&a]), &any_gateway(), &[good], Side::Server, now()).unwrap();
}

#[test]
fn an_empty_bundle_revokes_the_domain() {
    let a = Member::new("a");
    let mut bundle = a.bundle();
    bundle.roots.clear();
    let mut snapshot = trust(&[]);
    snapshot.bundles.insert(bundle.into());
    let identity = a.identity(&gateway());
    let refused = check(&snapshot, &any_gateway(), identity.chain(), Side::Client, now());
    assert_eq!(refused, Err(VerifyError::Revoked(domain("a"))));
}

#[test]
fn no_certificate_and_endless_chains_are_refused() {
    let a = Member::new("a");
    let refused = check(&trust(&[&a]), &any_gateway(), &[], Side::Client, now());
    assert_eq!(refused, Err(VerifyError::Leaf(LeafError::Missing)));
    let long = vec![a.identity(&gateway()).chain()[0].clone(); 50];
    let refused = check(&trust(&[&a]), &any_gateway(), &long, Side::Client, now());
    assert!(matches!(refused, Err(VerifyError::Chain { .. })));
}
