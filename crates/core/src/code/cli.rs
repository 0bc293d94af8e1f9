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
    ANSWER_UNREADABLE = 7006, "answer cannot be read", "command line and controller are of different versions", "hansa version; hansa status";
    FILE_UNWRITABLE = 7007, "file cannot be read or written", "the path is wrong, not permitted, or the disk is full", "check the path and its permissions";
    DNS_SILENT = 7008, "DNS server does not answer", "it is not running, or the address is wrong", "hansa status; hansa dns query NAME --server ADDRESS";
    DNS_NO_NAME = 7009, "name has no address", "nothing exports the service, or no gateway is ready", "hansa services; hansa status";
    DNS_OTHER_ADDRESS = 7010, "name does not lead to this gateway", "the gateway is not ready, or the DNS server is behind", "hansa status";
    VIP_SILENT = 7011, "virtual address does not accept connections", "the gateway is down, or no route leads to it", "hansa status; ip route get ADDRESS";
    HTTP_SILENT = 7012, "no HTTP answer through the whole path", "the endpoint accepts connections and does not answer HTTP", "look at the endpoint's own log";
    STILL_CONNECTED = 7014, "server is still connected", "only servers that are gone can be forgotten", "stop it, or hansa trust deny ID";
    DEMO_FAILED = 7015, "demo could not do what was asked", "see the cause", "hansa demo status; hansa demo down";
    SERVER_FAILED = 7013, "server could not start or go on", "see the cause", "look at its log; hansa config check FILE";
}
