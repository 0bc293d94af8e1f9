//! Entry point for fuzzers and the replay test: packets of clients. It takes any bytes, must not
//! panic, and states the law of questions and answers; hickory is the judge of what is written.
//! Never called in production.

use hansa_core::catalog::{Protocol, ServiceType};
use hansa_core::name::ServiceName;
use hansa_core::zone::{self, Answer, Qtype, Zone, ZoneHost, ZonePort, ZoneService};
use hickory_proto::op::Message;

use crate::forward;
use crate::message::{
    Head, PLAIN_LIMIT, Query, Rcode, Refused, TCP_LIMIT, UDP_LIMIT, Why, parse, refuse, reply,
};

/// A target: its name and what it does with the input.
pub type FuzzTarget = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[FuzzTarget] = &[("packet", packet_law), ("upstream", upstream_law)];

/// Whatever comes in, what goes out is a message that others can read, within its limit.
fn packet_law(data: &[u8]) {
    let mut out = Vec::new();
    let query = match parse(data) {
        Ok(query) => query,
        Err(Refused::Silence) => return,
        Err(Refused::Code(code)) => {
            refuse(data, code, &mut out);
            return judge(data, &out, PLAIN_LIMIT);
        }
    };
    for code in Rcode::ALL {
        reply::code(&query, code, true, &mut out);
        judge(data, &out, PLAIN_LIMIT);
    }
    for why in Why::ALL {
        reply::why(&query, why, true, &mut out);
        judge(data, &out, PLAIN_LIMIT);
    }
    let Some(zone) = sample() else { return };
    for qtype in [Qtype::A, Qtype::Aaaa, Qtype::Srv, Qtype::Txt, Qtype::Soa, Qtype::Ns, Qtype::Any] {
        let answer = zone::answer(&zone, query.text(), qtype);
        write(data, &query, &answer, &mut out);
    }
}

/// A question of a client, as it comes in: example.com A, with EDNS.
const QUESTION: &[u8] =
    b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01\x07example\x03com\x00\x00\x01\x00\x01\
    \x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00";

/// Whatever an upstream says, a client gets a message that others can read, within its limit.
fn upstream_law(data: &[u8]) {
    let (Ok(query), Ok(said)) = (parse(QUESTION), Message::from_vec(data)) else { return };
    for limit in [PLAIN_LIMIT, UDP_LIMIT, TCP_LIMIT] {
        let mut out = Vec::new();
        if forward::rewritten(&query, &said, limit, &mut out).is_some() {
            judge(QUESTION, &out, limit);
        }
    }
}

fn write(data: &[u8], query: &Query<'_>, answer: &Answer, out: &mut Vec<u8>) {
    for limit in [PLAIN_LIMIT, UDP_LIMIT, TCP_LIMIT] {
        let head = Head { limit, recursion: true, serial: 1, draw: 7 };
        let code = reply::write(query, answer, &head, out);
        judge(data, out, limit);
        if let Answer::Records { answers, .. } = answer {
            let cut = out[2] & 0x02 != 0;
            assert_eq!(code, Rcode::NoError);
            assert!(cut || out[6..8] != [0, 0] || answers.is_empty(), "records went missing without a word");
        }
    }
}

fn judge(data: &[u8], out: &[u8], limit: usize) {
    assert!(out.len() <= limit, "{} bytes, at most {limit}", out.len());
    let read = Message::from_vec(out);
    assert!(read.is_ok(), "hickory cannot read {out:02x?}: {read:?}");
    assert_eq!(out[..2], data[..2], "another id");
    assert!(out[2] & 0x80 != 0, "no answer");
}

/// One service of each kind, with names at their limits and more hosts than fit in one packet.
fn sample() -> Option<Zone> {
    let long = "l".repeat(63);
    let mut hosts = Vec::new();
    for number in 0..40u8 {
        let hostname = format!("h-{number}").parse().ok()?;
        let ips = vec![[10, 0, 0, number].into(), [0xfd00, 0, 0, 0, 0, 0, 0, number.into()].into()];
        hosts.push(ZoneHost { hostname, cluster: "c.d".parse().ok()?, ready: number != 3, ips });
    }
    let cluster = format!("{long}.{long}").parse().ok()?;
    let ips = vec![[10, 0, 1, 1].into()];
    hosts.push(ZoneHost { hostname: long.parse().ok()?, cluster, ready: true, ips });
    let port = ZonePort { name: Some("p".parse().ok()?), protocol: Protocol::Tcp, port: 80 };
    let mut zone = Zone::default();
    for (namespace, name, kind) in [
        ("n", "h", ServiceType::Headless),
        (long.as_str(), long.as_str(), ServiceType::Headless),
        ("n", "s", ServiceType::ClusterSetIP),
    ] {
        zone.insert(ZoneService {
            service: ServiceName::new(namespace, name).ok()?,
            kind,
            ports: vec![port.clone()],
            ips: vec![[10, 0, 2, 1].into(), [0xfd00, 0, 0, 0, 0, 0, 1, 1].into()],
            hosts: hosts.clone(),
        });
    }
    Some(zone)
}
