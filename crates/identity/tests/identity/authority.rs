//! The CA: what it signs, what it refuses, its state, and the steps of a root rotation.

use std::time::Duration;

use hansa_core::spiffe::{Role, SpiffeId};
use hansa_identity::ca::{Ca, CaError, CaOptions};
use hansa_identity::cert::Leaf;
use hansa_identity::rotate::{Consent, RotateError, RotateRefusal};
use hansa_identity::store::{KeyRequest, Keys, renew_at};
use rcgen::{CertificateParams, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::fixture::*;

const ACKNOWLEDGED: Consent = Consent { acknowledged: true, force: false };
const FORCE: Consent = Consent { acknowledged: false, force: true };

#[test]
fn a_leaf_has_exactly_what_spiffe_asks_for() {
    let a = Member::new("a");
    let identity = a.identity(&gateway());
    let (rest, x509) = X509Certificate::from_der(&identity.chain()[0]).unwrap();
    assert!(rest.is_empty());
    assert!(!x509.is_ca());
    let names = &x509.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(names.len(), 1);
    let usage = x509.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature() && !usage.value.key_cert_sign());
    let extended = x509.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth);
    let life = identity.leaf().not_after.duration_since(identity.leaf().not_before).unwrap();
    assert_eq!(life, 25 * HOUR);
    assert_ne!(identity.leaf().serial, a.identity(&gateway()).leaf().serial);
}

#[test]
fn a_request_for_another_id_is_refused() {
    let a = Member::new("a");
    for other in
        ["spiffe://a/hansa/controller", "spiffe://b/hansa/gateway/g-1", "spiffe://a/hansa/gateway/g-2"]
    {
        let request = KeyRequest::new(id(other)).unwrap();
        let refused = a.ca.sign(&gateway(), request.csr(), now()).unwrap_err();
        assert!(matches!(refused, CaError::OtherId { .. }), "{refused}");
    }
}

#[test]
fn what_a_request_asks_for_beyond_its_key_is_ignored() {
    let a = Member::new("a");
    let mut params = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    params.is_ca = authority();
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let csr = params.serialize_request(&KeyPair::generate().unwrap()).unwrap();
    let leaf = Leaf::parse(&a.ca.sign(&gateway(), csr.der(), now()).unwrap()).unwrap();
    assert_eq!(leaf.id, SpiffeId::of(a.domain(), &gateway()));
}

#[test]
fn a_request_that_does_not_prove_a_p256_key_is_refused() {
    let a = Member::new("a");
    let mut csr = KeyRequest::new(id("spiffe://a/hansa/gateway/g-1")).unwrap().csr().to_vec();
    let last = csr.len() - 1;
    csr[last] ^= 1;
    a.ca.sign(&gateway(), &csr, now()).unwrap_err();
    for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let csr = CertificateParams::default().serialize_request(&key).unwrap();
        a.ca.sign(&gateway(), csr.der(), now()).unwrap_err();
    }
    a.ca.sign(&gateway(), &[0; 9000], now()).unwrap_err();
}

#[test]
fn state_and_pem_survive_writing_and_reading() {
    let mut a = Member::new("a");
    a.ca.prepare_next(now()).unwrap();
    a.ca.activate_next(now(), ACKNOWLEDGED).unwrap();
    a.ca.prepare_next(now()).unwrap();
    let again = Ca::from_state(&a.ca.to_state().unwrap()).unwrap();
    assert_eq!(again.bundle(), a.bundle());
    assert_eq!(again.rotation().active, a.ca.rotation().active);
    assert_eq!(again.bundle().roots.len(), 3);

    let (certificate, key) = a.ca.export_pem();
    let pem = (certificate.as_str(), key.as_str());
    let imported = Ca::import_pem(domain("a"), CaOptions::default(), pem, now()).unwrap();
    assert_eq!(imported.active_root(), a.ca.active_root());
    let (_, other) = Member::new("a").ca.export_pem();
    Ca::import_pem(domain("a"), CaOptions::default(), (&certificate, &other), now()).unwrap_err();
    Ca::import_pem(domain("b"), CaOptions::default(), pem, now()).unwrap_err();
    assert!(!format!("{:?}", a.ca).contains("PRIVATE"));
}

#[test]
fn a_next_root_signs_only_after_overlap() {
    let mut a = Member::new("a");
    let start = now();
    let first = a.ca.active_root().fingerprint();
    assert_eq!(a.ca.activate_next(start, FORCE), Err(RotateRefusal::NotPrepared));
    let sequence = a.bundle().sequence;
    let next = a.ca.prepare_next(start).unwrap();
    assert!(a.bundle().sequence > sequence);
    assert_eq!(a.bundle().roots.len(), 2);
    assert_eq!(a.ca.active_root().fingerprint(), first);
    let again = a.ca.prepare_next(start).unwrap_err();
    assert!(matches!(again, RotateError::Refused(RotateRefusal::AlreadyPrepared(_))));

    let hint = a.ca.options().refresh_hint;
    let early = a.ca.activate_next(start + hint, Consent::default());
    assert_eq!(early, Err(RotateRefusal::TooEarly(2 * hint)));
    let late = a.ca.activate_next(start + 4 * hint, Consent::default());
    assert_eq!(late, Err(RotateRefusal::NotAcknowledged));
    assert_eq!(a.ca.activate_next(start + hint, ACKNOWLEDGED), Ok(next));
    // A leaf of the old root and one of the new verify with the same bundle.
    assert_eq!(a.bundle().roots.len(), 2);
}

#[test]
fn an_old_root_stays_until_acknowledged_and_its_leaves_are_gone() {
    let mut a = Member::new("a");
    let start = now();
    let old = a.ca.active_root().fingerprint();
    a.ca.prepare_next(start).unwrap();
    a.ca.activate_next(start, ACKNOWLEDGED).unwrap();
    let unknown = a.ca.active_root().fingerprint();
    assert_eq!(a.ca.retire(unknown, start, FORCE), Err(RotateRefusal::Unknown(unknown)));
    let soon = a.ca.retire(old, start + HOUR, ACKNOWLEDGED);
    assert_eq!(soon, Err(RotateRefusal::LeavesLive(23 * HOUR)));
    let later = start + 25 * HOUR;
    assert_eq!(a.ca.retire(old, later, Consent::default()), Err(RotateRefusal::NotAcknowledged));
    let sequence = a.bundle().sequence;
    a.ca.retire(old, later, ACKNOWLEDGED).unwrap();
    assert_eq!(a.bundle().roots.len(), 1);
    assert!(a.bundle().sequence > sequence);
}

#[test]
fn an_old_root_stays_for_the_longest_life_it_ever_signed() {
    let mut a = Member::new("a");
    let old = a.ca.active_root().fingerprint();
    let life = |ca: &Ca, leaf_life| CaOptions { leaf_life, ..*ca.options() };
    assert!(a.ca.set_options(life(&a.ca, 720 * HOUR)), "longer than any before: to be saved");
    // Lowered, with a restart between.
    let mut ca = Ca::from_state(&a.ca.to_state().unwrap()).unwrap();
    assert!(!ca.set_options(life(&ca, HOUR)));
    let start = now();
    ca.prepare_next(start).unwrap();
    ca.activate_next(start, ACKNOWLEDGED).unwrap();
    let mut ca = Ca::from_state(&ca.to_state().unwrap()).unwrap();
    let early = ca.retire(old, start + 2 * HOUR, ACKNOWLEDGED);
    let Err(RotateRefusal::LeavesLive(left)) = early else { panic!("{early:?}") };
    assert!(left > 717 * HOUR && left <= 718 * HOUR, "{left:?}");
    // The new root has signed for an hour alone.
    let second = ca.active_root().fingerprint();
    ca.prepare_next(start).unwrap();
    ca.activate_next(start, ACKNOWLEDGED).unwrap();
    ca.retire(second, start + 2 * HOUR, ACKNOWLEDGED).unwrap();
    ca.retire(old, start + 721 * HOUR, ACKNOWLEDGED).unwrap();
}

#[test]
fn a_state_without_lives_counts_the_life_it_was_written_with() {
    let mut a = Member::new("a");
    a.ca.prepare_next(now()).unwrap();
    let old = a.ca.active_root().fingerprint();
    a.ca.activate_next(now(), ACKNOWLEDGED).unwrap();
    let mut state: serde_json::Value = serde_json::from_str(&a.ca.to_state().unwrap()).unwrap();
    let fields = state.as_object_mut().unwrap();
    fields.remove("longest_lives").unwrap();
    fields.remove("denied").unwrap();
    let mut ca = Ca::from_state(&state.to_string()).unwrap();
    ca.set_options(CaOptions { leaf_life: HOUR, ..*ca.options() });
    assert!(matches!(ca.retire(old, now() + 2 * HOUR, ACKNOWLEDGED), Err(RotateRefusal::LeavesLive(_))));
}

#[test]
fn the_deny_list_is_kept_with_the_keys_also_what_cannot_be_read() {
    let mut a = Member::new("a");
    let list: std::collections::BTreeSet<String> =
        ["spiffe://a/hansa/gateway/g-1", "later:x"].map(String::from).into();
    a.ca.set_denied(list.clone());
    assert_eq!(Ca::from_state(&a.ca.to_state().unwrap()).unwrap().denied(), &list);
}

#[test]
fn force_retires_a_compromised_root_at_once() {
    let mut a = Member::new("a");
    let old = a.ca.active_root().fingerprint();
    a.ca.prepare_next(now()).unwrap();
    a.ca.activate_next(now(), FORCE).unwrap();
    a.ca.retire(old, now(), FORCE).unwrap();
    assert!(a.bundle().roots.iter().all(|root| root.fingerprint() != old));
}

#[test]
fn leaves_are_renewed_around_half_of_their_life() {
    for life in [HOUR / 60, HOUR, 24 * HOUR] {
        let options = CaOptions { leaf_life: life, ..CaOptions::default() };
        let ca = Ca::create(domain("a"), options, now()).unwrap();
        let start = now();
        let member = Member { ca };
        let leaf = member.identity(&gateway()).leaf().clone();
        let slack = Duration::from_secs(2);
        let (first, last) = (renew_at(&leaf, 0.0), renew_at(&leaf, 1.0));
        assert!(first + slack >= start + life.mul_f64(0.4), "{life:?}");
        assert!(last <= start + life.mul_f64(0.6) + slack, "{life:?}");
        assert!(first < last);
        let odd = renew_at(&leaf, f64::NAN);
        assert!(first < odd && odd < last);
    }
}

#[test]
fn a_leaf_never_outlives_its_root() {
    let options = CaOptions { root_life: 2 * HOUR, ..CaOptions::default() };
    let ca = Ca::create(domain("a"), options, now()).unwrap();
    let member = Member { ca };
    let leaf = member.identity(&Role::Controller).leaf().clone();
    assert!(leaf.not_after <= member.ca.active_root().not_after());
    let request = KeyRequest::new(leaf.id).unwrap();
    let late = member.ca.sign(&Role::Controller, request.csr(), now() + 3 * HOUR);
    assert!(matches!(late, Err(CaError::RootExpired)));
}

#[test]
fn an_identity_is_not_replaced_by_another_id() {
    let a = Member::new("a");
    let keys = Keys::new(a.identity(&gateway()));
    keys.replace(a.identity(&Role::Controller)).unwrap_err();
    keys.replace(a.identity(&gateway())).unwrap();
    let request = KeyRequest::new(keys.id()).unwrap();
    let chain = a.identity(&gateway()).chain().to_vec();
    request.complete(chain).unwrap_err();
}
