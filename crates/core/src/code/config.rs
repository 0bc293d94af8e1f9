//! Codes HNS-1000-1099: configuration and start-up.

use super::Code;

macro_rules! codes {
    ($($name:ident = $number:literal, $title:literal, $cause:literal, $next:literal;)*) => {
        $(#[doc = $title] pub const $name: Code = Code::new($number, $title, $cause, $next);)*
        /// The codes of this part.
        pub const ALL: &[Code] = &[$($name),*];
    };
}

codes! {
    CONFIG_UNREADABLE = 1001, "configuration file cannot be read", "the file is missing, too large or not permitted", "check the path and its permissions";
    CONFIG_INVALID = 1002, "configuration is not valid", "a key is unknown or a value has the wrong form", "hansa config check FILE";
    PORT_IN_USE = 1003, "address already in use", "another process listens on it", "ss -ltnup, or change the address in the configuration";
    STATE_CORRUPT = 1004, "state file was corrupt and has been set aside", "the file was cut or altered; it is kept beside with the ending .corrupt-N", "look at the set-aside file; the server went on without it";
    STATE_UNWRITABLE = 1005, "state cannot be written", "the disk is full or read-only; the server runs from memory", "free space or remount; df -h";
    STATE_IN_USE = 1007, "state folder is in use", "another server of the same kind runs on it", "stop the other one, or give this one a state folder of its own";
    FILES_EXHAUSTED = 1006, "no file descriptors left", "more connections than the open-files limit", "raise the limit (ulimit -n) or lower the limits per peer";
}
