//! What a secret proof speaks about, the same on both sides of enrolment and join.
//!
//! Called by the link (proves) and the controller (verifies). Holds no secret.

use crate::wire::join::v1::Introduction;

/// The context of an enrolment proof: secret id, the SPIFFE id asked for, and the signing request.
pub fn enroll<'a>(secret_id: &'a str, id: &'a str, csr: &'a [u8]) -> [&'a [u8]; 4] {
    [b"hansa-enroll", secret_id.as_bytes(), id.as_bytes(), csr]
}

/// The context of a join proof: secret id, and who introduces itself with which bundle.
pub fn join<'a>(secret_id: &'a str, who: &'a Introduction) -> [&'a [u8]; 5] {
    [
        b"hansa-join",
        secret_id.as_bytes(),
        who.cluster.as_bytes(),
        who.trust_domain.as_bytes(),
        who.bundle.as_bytes(),
    ]
}
