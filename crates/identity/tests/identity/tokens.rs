//! Tokens: round trip, tampering, age, and that no secret is printed.

use std::time::{Duration, UNIX_EPOCH};

use hansa_identity::token::{
    EnrollToken, InviteToken, Secret, TokenError, new_secret_id, prove, verify_proof,
};
use proptest::prelude::*;

use crate::fixture::*;

const EXPIRES: u64 = 1_800_000_000;

fn secret() -> Secret {
    Secret::from_bytes([0xa5; 32])
}

fn enroll() -> EnrollToken {
    EnrollToken {
        controllers: vec!["10.0.0.1:15012".to_owned(), "[fd00::1]:15012".to_owned()],
        cluster: "a".parse().unwrap(),
        root_sha256: Member::new("a").ca.active_root().fingerprint(),
        id: id("spiffe://a/hansa/gateway/g-1"),
        secret_id: new_secret_id(),
        secret: secret(),
        expires: EXPIRES,
    }
}

fn invite() -> InviteToken {
    let a = Member::new("a");
    InviteToken {
        cluster: "a".parse().unwrap(),
        trust_domain: a.domain().clone(),
        gateways: vec!["gw.example:15443".to_owned()],
        bundle: a.bundle().to_json(),
        secret_id: new_secret_id(),
        secret: secret(),
        expires: EXPIRES,
    }
}

fn at(unix: u64) -> std::time::SystemTime {
    UNIX_EPOCH + Duration::from_secs(unix)
}

#[test]
fn tokens_round_trip() {
    let token = enroll();
    assert_eq!(EnrollToken::parse(&token.to_text(), at(EXPIRES)), Ok(token.clone()));
    assert_eq!(EnrollToken::parse(&format!("  {}\n", token.to_text()), at(0)), Ok(token));
    let token = invite();
    let read = InviteToken::parse(&token.to_text(), at(EXPIRES)).unwrap();
    assert_eq!(read, token);
    assert_eq!(read.bundle().unwrap().roots.len(), 1);
    assert!(token.to_text().starts_with("hansa1."));
}

#[test]
fn what_is_wrong_is_said() {
    let text = enroll().to_text();
    let parse = |text: &str| EnrollToken::parse(text, at(EXPIRES)).unwrap_err();
    assert_eq!(EnrollToken::parse(&text, at(EXPIRES + 9)), Err(TokenError::Expired(9)));
    assert_eq!(parse("hello"), TokenError::NotAToken);
    assert_eq!(parse(&text.replacen("hansa1", "hansa2", 1)), TokenError::Version("2".to_owned()));
    assert_eq!(parse(&text[..text.len() - 3]), TokenError::Altered);
    assert_eq!(parse(&text[..40]), TokenError::Altered);
    let other = parse(&invite().to_text());
    assert!(matches!(other, TokenError::Kind { .. }), "{other}");
    assert_eq!(parse("hello").code().to_string(), "HNS-3009");
    assert_eq!(TokenError::Expired(1).code().to_string(), "HNS-3007");
}

#[test]
fn content_is_checked_too() {
    let parse = |token: EnrollToken| EnrollToken::parse(&token.to_text(), at(0));
    for bad in [
        vec![],
        vec!["x".to_owned()],
        vec![":1".to_owned()],
        vec!["a:0".to_owned()],
        vec!["a:1".to_owned(); 33],
    ] {
        assert!(parse(EnrollToken { controllers: bad, ..enroll() }).is_err());
    }
    assert!(parse(EnrollToken { id: id("spiffe://a/ns/x/sa/y"), ..enroll() }).is_err());
    assert!(parse(EnrollToken { secret_id: String::new(), ..enroll() }).is_err());
    let foreign = InviteToken { trust_domain: domain("b"), ..invite() };
    assert!(InviteToken::parse(&foreign.to_text(), at(0)).is_err());
}

#[test]
fn no_secret_is_printed() {
    let shown = format!("{:?}{:?}{:?}", enroll(), invite(), secret());
    assert!(shown.contains("redacted"));
    // Long enough that no fingerprint or id has it by chance.
    for part in ["165, 165, 165", "a5a5a5a5a5a5", "paWlpaWl"] {
        assert!(!shown.contains(part), "{shown}");
    }
}

#[test]
fn a_proof_holds_for_its_secret_binding_and_context_alone() {
    let binding = [1; 32];
    let proof = prove(&secret(), &binding, &[b"a", b"b"]);
    assert!(verify_proof(&secret(), &binding, &[b"a", b"b"], &proof));
    assert!(!verify_proof(&Secret::generate().unwrap(), &binding, &[b"a", b"b"], &proof));
    assert!(!verify_proof(&secret(), &[2; 32], &[b"a", b"b"], &proof));
    assert!(!verify_proof(&secret(), &binding, &[b"ab"], &proof));
    assert!(!verify_proof(&secret(), &binding, &[b"a", b"b"], &proof[..31]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn any_altered_token_is_refused(place in 0_usize..4096, letter in "[A-Za-z0-9._ -]") {
        let text = enroll().to_text();
        let mut altered: Vec<char> = text.chars().collect();
        let place = place % altered.len();
        altered[place] = letter.chars().next().unwrap();
        let altered: String = altered.into_iter().collect();
        // A blank at either end is no alteration; the token is then cut by one character.
        prop_assume!(altered != text);
        prop_assert!(EnrollToken::parse(&altered, at(0)).is_err());
    }
}
