//! Codes HNS-5000-5099: gateway and tunnel.

use super::Code;

macro_rules! codes {
    ($($name:ident = $number:literal, $title:literal, $cause:literal, $next:literal;)*) => {
        $(#[doc = $title] pub const $name: Code = Code::new($number, $title, $cause, $next);)*
        /// The codes of this part.
        pub const ALL: &[Code] = &[$($name),*];
    };
}

codes! {
    NO_SUCH_SERVICE = 5001, "service is not exported here", "the export does not exist or was removed", "hansa services";
    DENIED = 5002, "caller may not see this service", "the annotation hansa.dev/export-to does not name it", "hansa explain NAME";
    NO_ENDPOINT = 5003, "no healthy endpoint", "every endpoint refused or is down", "hansa check NAME";
    DIAL_TIMEOUT = 5004, "endpoint did not answer the dial", "the endpoint is silent", "hansa check NAME";
    PATH_LOST = 5005, "connection ended: its path was lost", "the tunnel it used is dead", "none if others answer; hansa status";
    DRAIN_DEADLINE = 5006, "connection ended by the drain deadline", "the gateway stopped and the deadline passed", "none";
    PEER_REMOVED = 5007, "connection ended: the peer was removed", "hansa peer remove", "none";
    LIMIT_REACHED = 5008, "limit per peer reached", "more tunnels, streams, handshakes or bytes than configured", "raise the limit or ask the peer";
    VIP_UNBINDABLE = 5009, "virtual address cannot be brought up", "CAP_NET_ADMIN is missing or the port is taken", "hansa check; grant CAP_NET_ADMIN";
    GSO_LOST = 5010, "segmentation offload switched off", "the network card refused it; QUIC costs more CPU", "none";
    RESOLVES_TO_SELF = 5011, "peer address leads to ourselves", "the address of a peer names this gateway", "mend the peer gateway addresses";
    PROTOCOL_VIOLATION = 5012, "peer broke the tunnel protocol", "malformed frames or headers", "upgrade the peer; look at its log";
    UDP_BLOCKED = 5013, "QUIC is blocked; using HTTP/2", "UDP to this port is dropped on the way", "open UDP on the tunnel port";
}
