//! Random and mutated bytes into every parser: none may panic.

use std::sync::LazyLock;

use hansa_identity::fuzzing;
use hansa_identity::store::KeyRequest;
use proptest::prelude::*;

use crate::fixture::*;

static LEAF: LazyLock<Vec<u8>> = LazyLock::new(|| Member::new("a").identity(&gateway()).chain()[0].to_vec());
static REQUEST: LazyLock<Vec<u8>> =
    LazyLock::new(|| KeyRequest::new(id("spiffe://fuzz.example/hansa/gateway/g")).unwrap().csr().to_vec());
static BUNDLE: LazyLock<Vec<u8>> =
    LazyLock::new(|| Member::new("fuzz.example").bundle().to_json().into_bytes());

fn mutated(seed: &[u8], changes: &[(usize, u8)]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for (place, value) in changes {
        let place = place % bytes.len();
        bytes[place] = *value;
    }
    bytes
}

proptest! {
    #[test]
    fn random_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        fuzzing::bundle(&bytes);
        fuzzing::token(&bytes);
        fuzzing::leaf(&bytes);
        fuzzing::signing_request(&bytes);
    }

    #[test]
    fn mutated_values(changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..6)) {
        fuzzing::leaf(&mutated(&LEAF, &changes));
        fuzzing::bundle(&mutated(&BUNDLE, &changes));
        fuzzing::signing_request(&mutated(&REQUEST, &changes));
    }

    #[test]
    fn random_text(text in "(hansa1\\.|hansa|sha256:|serial:)?[\\PC]{0,200}") {
        fuzzing::token(text.as_bytes());
        fuzzing::bundle(text.as_bytes());
    }
}
