//! Feeds every fuzz target seeds and bounded random input, so that the laws
//! the fuzzers search with hold in every test run too.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use hansa_http3::capsule;
use hansa_http3::fuzzing::{TARGETS, run};
use hansa_http3::{RequestHead, Settings, frame};
use proptest::prelude::*;

fn seeds() -> Vec<Vec<u8>> {
    let head = RequestHead::connect("checkout.shop.svc.clusterset.local:80");
    let block = head.encode().unwrap().finish();
    let settings = Settings {
        max_field_section: Some(65_536),
        extended_connect: true,
        datagrams: true,
        ..Settings::default()
    };
    let mut capsules = Vec::new();
    capsule::encode(0x29, b"unknown", &mut capsules);
    capsule::encode(capsule::DATAGRAM, b"\0payload", &mut capsules);
    let mut request = frame::encode(frame::kind::HEADERS, &block).to_vec();
    request.extend(frame::encode(0x21, b"grease"));
    request.extend(frame::encode(frame::kind::DATA, b"hello"));
    vec![
        vec![],
        vec![0],
        vec![0xff; 64],
        vec![0x40],
        block,
        request,
        settings.encode().to_vec(),
        [&settings.encode()[..], &[0x07, 1, 4, 0x07, 1, 0]].concat(),
        capsules,
        vec![0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff],
    ]
}

#[test]
fn seeds_and_their_cuts_hold() {
    for seed in seeds() {
        for end in 0..=seed.len() {
            for (name, _) in TARGETS {
                assert!(run(name, &seed[..end]));
            }
        }
    }
}

#[test]
fn every_target_has_a_name_of_its_own() {
    let mut names: Vec<_> = TARGETS.iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), TARGETS.len());
    assert!(!run("no such target", b""));
}

proptest! {
    #[test]
    fn random_input_holds(data in prop::collection::vec(any::<u8>(), 0..300)) {
        for (name, _) in TARGETS {
            run(name, &data);
        }
    }

    /// Small values reach further into the parsers than plain noise.
    #[test]
    fn low_bytes_hold(data in prop::collection::vec(0u8..48, 0..100)) {
        for (name, _) in TARGETS {
            run(name, &data);
        }
    }

    #[test]
    fn flipped_seeds_hold(
        which in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let all = seeds();
        let mut seed = all[which.index(all.len())].clone();
        for (at, byte) in flips {
            if !seed.is_empty() {
                let at = at.index(seed.len());
                seed[at] ^= byte;
            }
        }
        for (name, _) in TARGETS {
            run(name, &seed);
        }
    }
}
