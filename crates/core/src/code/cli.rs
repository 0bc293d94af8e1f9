//! Codes HNS-7000-7099: command line.

use super::Code;

macro_rules! codes {
    ($($name:ident = $number:literal, $title:literal, $cause:literal, $next:literal;)*) => {
        $(#[doc = $title] pub const $name: Code = Code::new($number, $title, $cause, $next);)*
        /// The codes of this part.
        pub const ALL: &[Code] = &[$($name),*];
    };
}

codes! {
    SOCKET_UNREACHABLE = 7001, "controller socket cannot be reached", "the controller is not running or the path is wrong", "hansa status --socket PATH";
    TIMED_OUT = 7002, "no answer in time", "the deadline passed", "try --timeout 30s";
    CHECK_FAILED = 7003, "a hop of the path is broken", "see the first hop that is not ok", "hansa explain NAME";
    USAGE = 7004, "wrong usage", "an argument is missing or not valid", "hansa --help";
    NOT_FOUND = 7005, "no such object", "the name is not known here", "hansa services; hansa peer list";
}
