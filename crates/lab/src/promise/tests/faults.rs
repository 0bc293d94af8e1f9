//! The steps that break something, with made-up observations. Each fault is confirmed at 20 s and undone at 30 s.

use super::{SECOND, broken, fail, kept, load, one_failure};
use crate::access::{Ends, Line};
use crate::judge::Records;
use crate::load::{ConnKind, Outcome};
use crate::promise::drain::{Drain, Held};
use crate::promise::kills::{ControllerKill, EndpointKill, GatewayKill};
use crate::promise::links::{Ended, OnlyCopy, TwoCopies, UdpBlock, UdpReturn, Unreachable};

const AT: u64 = 20 * SECOND;
const UNTIL: u64 = 30 * SECOND;

fn all_good() -> Records {
    load("gcp-eu", |_| {})
}

/// A kept connection begun before the fault fails at 20.5 s and is over `late` nanoseconds after the fault.
fn dead_path(late: u64) -> impl Fn(&mut Outcome) {
    move |o| {
        if o.kind == ConnKind::Kept && o.intended_ns == AT + SECOND / 2 {
            fail(o, "answer: connection reset");
            o.begun_ns = AT - SECOND;
            o.ended_ns = AT + late;
        }
    }
}

fn two_failures_of_one_connection() -> Records {
    load("gcp-eu", |o| {
        if o.kind == ConnKind::Kept && (o.intended_ns == AT || o.intended_ns == AT + SECOND / 50) {
            fail(o, "answer: closed");
        }
    })
}

fn served_twice() -> Records {
    load("gcp-eu", |o| {
        if o.kind == ConnKind::Kept && o.intended_ns == AT {
            fail(o, "served 2 times");
        }
    })
}

fn line(outcome: &str, code: &str) -> Line {
    serde_json::from_value(serde_json::json!({"outcome": outcome, "code": code, "target": "access"})).unwrap()
}

fn coded(outcome: &str, code: &str) -> Ends {
    Ends::of(&[line(outcome, code)])
}

/// All of them within five seconds.
fn soon(ends: Ends) -> Ended {
    Ended { soon: ends.clone(), all: ends }
}

#[test]
fn endpoint_kill() {
    let with = |records| EndpointKill {
        victim: "aws-eu".into(),
        other: "gcp-eu".into(),
        at: AT,
        until: UNTIL,
        records,
    };
    kept(|v| with(all_good()).judge(v));
    // Not one may fail, from the very moment of the death on.
    broken("after the kill of aws-eu: 1 of 500 failed", |v| with(one_failure("gcp-eu", 20)).judge(v));
    broken("answered by [(\"aws-eu\", 500)]", |v| with(load("aws-eu", |_| {})).judge(v));
    broken("failed 2 time(s)", |v| with(two_failures_of_one_connection()).judge(v));
    broken("1 requests served twice", |v| with(served_twice()).judge(v));
    broken("0 of 0 failed", |v| with(Records::default()).judge(v));
}

#[test]
fn gateway_kill() {
    let with = |records| GatewayKill { who: "local".into(), at: AT, until: UNTIL, records };
    kept(|v| with(all_good()).judge(v));
    kept(|v| with(one_failure("gcp-eu", 20)).judge(v));
    broken("local: new from 1 s on 1 of 450 failed", |v| with(one_failure("gcp-eu", 21)).judge(v));
    broken("failed 2 time(s)", |v| with(two_failures_of_one_connection()).judge(v));
    broken("served twice", |v| with(served_twice()).judge(v));
}

fn held(last_good: u64, ended: Option<(u64, &str)>) -> Held {
    let ended = ended.map(|(at, how)| (at, how.to_owned()));
    Held { address: "10.97.16.1".into(), answers: 100, last_good, ended }
}

#[test]
fn gateway_drain() {
    // Ten seconds here, so that the load covers it.
    let with = |records| Drain {
        who: "local (rack-1/gateway-2)".into(),
        deadline: 10.0,
        at: AT,
        confirmed: AT + SECOND / 10,
        ended: Some(UNTIL + SECOND / 2),
        until: 35 * SECOND,
        records,
        held: vec![
            held(UNTIL - SECOND / 5, Some((UNTIL, "answer: connection reset"))),
            held(35 * SECOND, None),
        ],
        coded: 1,
    };
    let good = with(all_good());
    kept(|v| good.judge(v));
    broken("new 1 of 750 failed", |v| with(one_failure("gcp-eu", 20)).judge(v));
    broken("did not end", |v| Drain { ended: None, ..good.clone() }.judge(v));
    let early = vec![held(AT + SECOND, Some((AT + 2 * SECOND, "answer: closed")))];
    broken("served for 1.0 s at least", |v| Drain { held: early, ..good.clone() }.judge(v));
    let hung = vec![held(UNTIL, Some((UNTIL + 5 * SECOND, "answer: timeout")))];
    broken("(answer: timeout)", |v| Drain { held: hung, ..good.clone() }.judge(v));
    let none = vec![held(35 * SECOND, None)];
    broken("none of 1 long connections", |v| Drain { held: none, ..good.clone() }.judge(v));
    broken("0 ended with code", |v| Drain { coded: 0, ..good.clone() }.judge(v));
}

#[test]
fn controller_kill() {
    let with = |records: Records| ControllerKill {
        victim: "aws-eu".into(),
        at: 11 * SECOND,
        restarted: 31 * SECOND,
        ready: 31 * SECOND + SECOND / 10,
        known: Some(32 * SECOND),
        views: vec![("rack-1".into(), all_good()), ("aws-eu".into(), records)],
    };
    let good = with(all_good());
    kept(|v| good.judge(v));
    broken("aws-eu: every connection by name, new 1 of 1000", |v| with(one_failure("aws-eu", 25)).judge(v));
    broken("kept 2 of 1000", |v| with(two_failures_of_one_connection()).judge(v));
    broken("serves elsewhere 2.00 s after the restart", |v| {
        ControllerKill { known: Some(33 * SECOND), ..good.clone() }.judge(v);
    });
    broken("not while watched", |v| ControllerKill { known: None, ..good.clone() }.judge(v));
    broken("away for 19.0 s", |v| ControllerKill { at: 12 * SECOND, ..good.clone() }.judge(v));
}

fn said(seconds: Option<f64>, age: Option<f64>) -> Unreachable {
    let reach = if seconds.is_some() { "unreachable" } else { "reachable" };
    Unreachable { from: "rack-1".into(), peer: "aws-eu".into(), seconds, age, reach: reach.into() }
}

#[test]
fn member_cut_with_another_copy() {
    let with = |records| TwoCopies {
        status: said(Some(2.5), Some(2.4)),
        at: AT,
        until: UNTIL,
        records,
        ends: soon(coded("path_lost", "HNS-5005")),
    };
    let good = with(load("gcp-eu", dead_path(4 * SECOND)));
    kept(|v| good.judge(v));
    kept(|v| with(one_failure("gcp-eu", 21)).judge(v));
    broken("new from 2 s on 1 of 400 failed", |v| with(one_failure("gcp-eu", 22)).judge(v));
    broken("dead path ended after 6.00 s", |v| with(load("gcp-eu", dead_path(6 * SECOND))).judge(v));
    let status = |status| TwoCopies { status, ..good.clone() };
    broken("aws-eu reachable, unreachable never", |v| status(said(None, None)).judge(v));
    broken("unreachable after 5.20 s", |v| status(said(Some(5.2), Some(5.0))).judge(v));
    broken("age none", |v| status(said(Some(2.5), None)).judge(v));
    broken("age 60.00 s", |v| status(said(Some(2.5), Some(60.0))).judge(v));
    broken("as path_lost ×1", |v| TwoCopies { ends: soon(coded("path_lost", "")), ..good.clone() }.judge(v));
    broken("as none", |v| TwoCopies { ends: Ended::default(), ..good.clone() }.judge(v));
}

#[test]
fn member_cut_of_the_only_copy() {
    let dead = || {
        load("redis", |o| {
            if o.intended_ns >= AT && o.intended_ns < UNTIL {
                fail(o, "answer: connection reset");
            }
        })
    };
    let good = OnlyCopy {
        status: said(Some(2.5), Some(2.4)),
        at: AT,
        until: UNTIL,
        records: dead(),
        ends: soon(coded("path_lost", "HNS-5005")),
    };
    kept(|v| good.judge(v));
    // Were it answered, it would not be cut off.
    broken("meanwhile 0 of 400 failed", |v| OnlyCopy { records: all_good(), ..good.clone() }.judge(v));
    broken("unreachable never", |v| OnlyCopy { status: said(None, None), ..good.clone() }.judge(v));
    let twice = load("redis", |o| {
        fail(o, if o.intended_ns == AT { "served 2 times" } else { "connect: timeout" });
    });
    broken("2 requests served twice", |v| OnlyCopy { records: twice, ..good.clone() }.judge(v));
}

#[test]
fn udp_block() {
    let with = |records| UdpBlock {
        on_quic: true,
        passed: 0,
        over: vec!["http2".into(), "http2".into()],
        at: AT,
        until: UNTIL,
        records,
        ends: soon(coded("path_lost", "HNS-5005")),
    };
    let good = with(load("gcp-eu", dead_path(SECOND)));
    kept(|v| good.judge(v));
    broken("new from 1 s on 1 of 450 failed", |v| with(one_failure("gcp-eu", 21)).judge(v));
    broken("dead path ended after 5.00 s", |v| with(load("gcp-eu", dead_path(5 * SECOND))).judge(v));
    broken("9 packets of UDP passed", |v| UdpBlock { passed: 9, ..good.clone() }.judge(v));
    broken("not on QUIC", |v| UdpBlock { on_quic: false, ..good.clone() }.judge(v));
    broken("then over quic", |v| UdpBlock { over: vec!["quic".into()], ..good.clone() }.judge(v));
    broken("then over", |v| UdpBlock { over: Vec::new(), ..good.clone() }.judge(v));
    broken("as none", |v| UdpBlock { ends: Ended::default(), ..good.clone() }.judge(v));
    let lost = || line("path_lost", "HNS-5005");
    let late = Ended { soon: Ends::of(&[lost()]), all: Ends::of(&[lost(), lost()]) };
    broken("1 path_lost later", |v| UdpBlock { ends: late, ..good.clone() }.judge(v));
}

#[test]
fn udp_return() {
    let with = |records| UdpReturn {
        on_http2: true,
        dropped: 100,
        healed: AT,
        seconds: Some(5.0),
        passed: 100,
        records,
    };
    let good = with(all_good());
    kept(|v| good.judge(v));
    broken("on QUIC again never", |v| UdpReturn { seconds: None, ..good.clone() }.judge(v));
    broken("on QUIC again after 30.00 s", |v| UdpReturn { seconds: Some(30.0), ..good.clone() }.judge(v));
    // Status alone is no proof that packets pass.
    broken("0 packets of UDP passed", |v| UdpReturn { passed: 0, ..good.clone() }.judge(v));
    broken("before: not on HTTP/2", |v| UdpReturn { on_http2: false, ..good.clone() }.judge(v));
    broken("0 packets dropped", |v| UdpReturn { dropped: 0, ..good.clone() }.judge(v));
    broken("new 1 of 1000 failed", |v| with(one_failure("gcp-eu", 20)).judge(v));
    broken("kept 2 of 1000 failed", |v| with(two_failures_of_one_connection()).judge(v));
}
