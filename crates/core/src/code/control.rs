//! Codes HNS-4000-4099: controller and feed.

use super::Code;

macro_rules! codes {
    ($($name:ident = $number:literal, $title:literal, $cause:literal, $next:literal;)*) => {
        $(#[doc = $title] pub const $name: Code = Code::new($number, $title, $cause, $next);)*
        /// The codes of this part.
        pub const ALL: &[Code] = &[$($name),*];
    };
}

codes! {
    JOIN_SELF = 4001, "a cluster cannot join itself", "the token was made by this cluster", "use a token of another cluster";
    JOIN_KNOWN = 4002, "peer is already known", "its cluster id or trust domain is taken", "hansa peer list; hansa peer remove";
    PEER_UNREACHABLE = 4003, "peer cannot be reached", "no gateway of it answers", "hansa check --peer PEER";
    ROW_REFUSED = 4004, "row of a peer refused", "it is malformed, or not acceptable by our rules", "hansa peer describe PEER";
    FEED_DIGEST = 4005, "feed digest differs", "the copy differs from the publisher; a snapshot was asked for", "none; repeated lines point at a fault";
    FEED_FROM_THE_FUTURE = 4006, "feed version not understood", "the other side is newer than N+2 or lies", "upgrade the older side";
    ROWS_TOO_MANY = 4007, "peer announces too many rows", "the limit of ClusterPeer.spec.accept.maxRows, or more than 64 MiB", "raise the limit, or ask the peer";
    IDENTITY_CLASH = 4008, "two members with one identity", "two peers use one cluster id or trust domain", "rename one of them";
    NO_GATEWAY = 4009, "no gateway is connected", "no gateway of this cluster follows its controller", "start a gateway; hansa status";
    VIPS_EXHAUSTED = 4010, "no virtual address left", "the VIP prefix is too small", "configure a larger vip prefix";
    WITHDRAW_UNCONFIRMED = 4011, "withdrawal not acknowledged by all", "a follower did not answer within 2 s", "hansa status";
    CONTROLLER_LOST = 4013, "own controller cannot be reached", "it is not running, or the way to it is cut; the last value stays in force", "hansa status; look at the controller's log";
    CLOCK_AHEAD = 4012, "creation timestamp from the future", "a clock is wrong in that member", "compare clocks";
}
