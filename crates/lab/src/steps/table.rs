//! The demo's promises: id, text and limit of each step, in the order in which they are judged.
//! The ids are a contract with whoever reads the report.

/// A step's fixed part.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Its id, part of the report's contract.
    pub id: &'static str,
    /// What is promised.
    pub promise: &'static str,
    /// The limit.
    pub limit: &'static str,
}

/// All steps, in the order in which they are judged.
pub const STEPS: &[Step] = &[
    Step {
        id: "up",
        promise: "three members, each with a controller, two gateways and DNS, are ready",
        limit: "10 s",
    },
    Step {
        id: "join",
        promise: "all pairs join by invitation; first cross-member request answered, counted from the start of up",
        limit: "10 s",
    },
    Step {
        id: "names",
        promise: "a new export answers by name and serves in both other members; 1,000 at once; a removed one is NXDOMAIN",
        limit: "1 s; 5 s; 1 s",
    },
    Step {
        id: "http",
        promise: "500 requests/s by name from every member: none fails, the nearest copy answers",
        limit: "0 failed",
    },
    Step {
        id: "tcp",
        promise: "Redis with its stock client by name from every member, values of 1 MiB unchanged",
        limit: "0 failed",
    },
    Step {
        id: "udp",
        promise: "1,000 datagrams at 200/s of 1, 512, 1,200 bytes and the tunnel's maximum, 50 clients, echoed unchanged to the right port; larger ones dropped and counted; over HTTP/2 up to 65,507 bytes",
        limit: "all",
    },
    Step {
        id: "headless",
        promise: "each named pod of a headless service answers by its own name in every member",
        limit: "all",
    },
    Step { id: "explain", promise: "explain names the member that then answers", limit: "all members" },
    Step {
        id: "endpoint-kill",
        promise: "a sample server is killed while another member has the service: no connection begun after it fails",
        limit: "0 failed",
    },
    Step {
        id: "gateway-kill",
        promise: "a gateway is killed, a local one, then a peer's: kept connections through it fail once, new ones are good",
        limit: "1 s",
    },
    Step {
        id: "gateway-drain",
        promise: "a gateway drains with a deadline of 30 s: shorter connections do not fail, longer ones are served until then and end with a code",
        limit: "0 failed",
    },
    Step {
        id: "controller-kill",
        promise: "a controller is gone for 20 s: nothing fails, names answer, an export made meanwhile is known after its return",
        limit: "0 failed; 2 s",
    },
    Step {
        id: "member-cut",
        promise: "a member is cut off silently: new connections are good where another copy is; status says unreachable and its age",
        limit: "2 s; 5 s",
    },
    Step {
        id: "udp-block",
        promise: "UDP is blocked: new connections are good over TCP, streams on the dead path end",
        limit: "1 s; 5 s",
    },
    Step {
        id: "udp-return",
        promise: "UDP passes again: new streams go over QUIC, nothing fails",
        limit: "30 s; 0 failed",
    },
    Step {
        id: "heal",
        promise: "what was killed or cut came back under the load without a failure; an only path answers at once; where there is another, nothing gets traffic within its hold-down",
        limit: "0 failed; 1 s; 2 s",
    },
];
