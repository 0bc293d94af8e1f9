//! Codes HNS-3000-3099: identity and trust.

use super::Code;

macro_rules! codes {
    ($($name:ident = $number:literal, $title:literal, $cause:literal, $next:literal;)*) => {
        $(#[doc = $title] pub const $name: Code = Code::new($number, $title, $cause, $next);)*
        /// The codes of this part.
        pub const ALL: &[Code] = &[$($name),*];
    };
}

codes! {
    CERT_DOMAIN_UNKNOWN = 3001, "certificate of an unknown trust domain", "no bundle is held for that domain", "hansa peer list; hansa trust list";
    CERT_NOT_VALID_NOW = 3002, "certificate is not valid at this time", "it expired, or a clock is wrong", "compare the clock of both machines; hansa trust show";
    CERT_REFUSED = 3003, "certificate refused", "it breaks the rules of an X.509-SVID or its chain does not verify", "hansa trust list";
    CERT_WRONG_ROLE = 3004, "certificate of the wrong role", "the SPIFFE id is valid but may not do this", "check which server presented it";
    CERT_DENIED = 3005, "certificate is on the deny list", "it was revoked", "enrol the server again";
    KEY_PERMISSIONS = 3006, "key file is readable by others", "its mode is not 0600", "chmod 600 FILE";
    TOKEN_EXPIRED = 3007, "token has expired", "tokens live for 15 minutes", "make a new one";
    TOKEN_SPENT = 3008, "token was used before", "each token works once", "make a new one";
    TOKEN_INVALID = 3009, "token cannot be read", "it was cut or altered", "copy it again, whole";
    BUNDLE_REFUSED = 3010, "trust bundle refused", "its sequence went back or its roots changed without overlap", "hansa trust show PEER; re-seed by joining again";
    ENROL_REFUSED = 3011, "enrolment refused", "role, id or trust domain differ from what was enrolled", "hansa enroll --role ROLE --id ID, where the controller runs: it makes a token for this server";
    DENY_LIST_FULL = 3013, "deny list is full", "128 entries are on it", "hansa trust allow ENTRY; or replace the root: hansa trust rotate publish";
    DENY_ENTRY_UNREADABLE = 3014, "entry of a deny list is not in force", "it cannot be read, or speaks of what its owner may not deny", "deny the server by its SPIFFE id; hansa trust show";
    AUTHORITY_DAMAGED = 3015, "the file of the certificate authority is damaged", "it was cut or altered; it is left as it is, and the controller does not start", "restore it from a backup; without one, move it away: a new root is made, and every server and peer joins anew";
    ROTATION_REFUSED = 3012, "rotation step refused", "servers or peers have not yet acknowledged the new bundle", "wait; hansa forget --role ROLE --id ID for a server that is gone for good; or use --force";
}
