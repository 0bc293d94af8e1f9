//! Codes HNS-6000-6099: mesh DNS.

use super::Code;

macro_rules! codes {
    ($($name:ident = $number:literal, $title:literal, $cause:literal, $next:literal;)*) => {
        $(#[doc = $title] pub const $name: Code = Code::new($number, $title, $cause, $next);)*
        /// The codes of this part.
        pub const ALL: &[Code] = &[$($name),*];
    };
}

codes! {
    ZONE_MISSING = 6001, "no zone yet", "the server has not heard from its controller and has no saved zone", "hansa status";
    FORWARD_REFUSED = 6002, "forwarding refused", "the client is not in forward.allowFrom", "add its prefix";
    FORWARD_LOOP = 6003, "forwarding loop", "an upstream leads back to this server", "mend forward.upstreams";
    FORWARD_FAILED = 6004, "no upstream answers", "every upstream timed out or failed", "check forward.upstreams";
    FORWARD_OFF = 6005, "forwarding is off", "the name is outside clusterset.local, and forward.upstreams is empty", "ask another server, or name upstreams";
    FORWARD_LIMIT = 6006, "too many questions to forward", "one client asks above forward.rateLimit, or 1,024 questions are under way", "look at who asks; raise forward.rateLimit";
}
