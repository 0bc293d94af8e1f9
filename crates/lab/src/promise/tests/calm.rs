//! `up join names http tcp udp headless explain` broken with made-up observations.

use super::{SECOND, broken, fail, kept, load, one_failure};
use crate::judge::Records;
use crate::load::ConnKind;
use crate::promise::calm::{Explain, Headless, Http, Tcp, Udp};
use crate::promise::start::{Join, Named, Names, Up};

#[test]
fn up() {
    let good = Up { servers: 12, wanted: 12, ready: 12, seconds: 2.0 };
    kept(|v| good.judge(v));
    broken("9 of 12 servers started", |v| Up { servers: 9, ready: 9, ..good.clone() }.judge(v));
    broken("11 of 12 servers ready", |v| Up { ready: 11, ..good.clone() }.judge(v));
    broken("after 10.10 s", |v| Up { seconds: 10.1, ..good.clone() }.judge(v));
}

#[test]
fn join() {
    let good =
        Join { from: "rack-1".into(), answered: Some("aws-eu".into()), first: Some(3.0), all: Some(3.1) };
    kept(|v| good.judge(v));
    broken("after 12.00 s", |v| Join { first: Some(12.0), ..good.clone() }.judge(v));
    broken("from nobody", |v| Join { answered: None, first: None, ..good.clone() }.judge(v));
    // An answer from within is no answer across members.
    broken("from rack-1", |v| Join { answered: Some("rack-1".into()), ..good.clone() }.judge(v));
    broken("every member reaches", |v| Join { all: None, ..good.clone() }.judge(v));
}

fn named(seconds: Option<f64>, deaf: usize) -> Vec<Named> {
    ["gcp-eu", "rack-1"].map(|m| Named { member: m.into(), seconds, deaf, unserved: 0 }).to_vec()
}

#[test]
fn names() {
    let good = Names {
        many: 1000,
        one_serves: named(Some(0.1), 0),
        one_gone: named(Some(0.1), 0),
        many_serve: named(Some(1.5), 0),
        many_gone: named(Some(1.5), 0),
    };
    kept(|v| good.judge(v));
    let with = |change: fn(&mut Names)| {
        let mut seen = good.clone();
        change(&mut seen);
        seen
    };
    broken("one export serves in gcp-eu after 1.00 s", |v| {
        with(|n| n.one_serves = named(Some(1.0), 0)).judge(v);
    });
    broken("NXDOMAIN in rack-1 never", |v| with(|n| n.one_gone = named(None, 0)).judge(v));
    broken("1000 at once serve in rack-1", |v| with(|n| n.many_serve = named(Some(5.2), 0)).judge(v));
    broken("all removed", |v| with(|n| n.many_gone = named(Some(5.2), 0)).judge(v));
    broken("nobody listened, 3 times", |v| with(|n| n.one_serves = named(Some(0.1), 3)).judge(v));
    broken("nobody listened", |v| with(|n| n.one_gone = named(Some(0.1), 1)).judge(v));
    broken("2 answers in rack-1 are not exactly once", |v| {
        with(|n| n.many_serve[1].unserved = 2).judge(v);
    });
    broken("0 of 2 members watched", |v| with(|n| n.many_serve.clear()).judge(v));
}

fn http(records: &Records) -> Http {
    Http {
        from: "aws-eu".into(),
        nearest: Some("aws-eu".into()),
        curl: Some("{\"member\":\"aws-eu\"}".into()),
        nanos: 5 * SECOND,
        rate: 100,
        new: records.new_between(20 * SECOND, 25 * SECOND),
        kept: records.kept_between(20 * SECOND, 25 * SECOND),
    }
}

#[test]
fn http_by_name() {
    let good = http(&load("aws-eu", |_| {}));
    kept(|v| good.judge(v));
    broken("new 1 of 250 failed (answer: closed ×1)", |v| http(&one_failure("aws-eu", 22)).judge(v));
    let unkept = load("aws-eu", |o| {
        if o.kind == ConnKind::Kept && o.intended_ns == 22 * SECOND {
            fail(o, "served 0 times");
        }
    });
    broken("kept 1 of 250 failed (served 0 times", |v| http(&unkept).judge(v));
    broken("answered by [(\"gcp-eu\", 250)]", |v| http(&load("gcp-eu", |_| {})).judge(v));
    broken("curl in aws-eu: refused", |v| Http { curl: Some("refused".into()), ..good.clone() }.judge(v));
    // A generator that does not keep its rate proves nothing.
    broken("only 500 of 2500 requests", |v| Http { rate: 500, ..good.clone() }.judge(v));
    broken("0 of 0 failed", |v| http(&Records::default()).judge(v));
}

#[test]
fn tcp() {
    let good = Tcp { from: "gcp-eu".into(), incr: Ok("1\n".into()), set: Ok("OK\n".into()), same: Ok(true) };
    kept(|v| good.judge(v));
    broken("INCR 2", |v| Tcp { incr: Ok("2".into()), ..good.clone() }.judge(v));
    broken("INCR: refused", |v| Tcp { incr: Err("refused".into()), ..good.clone() }.judge(v));
    broken("read back changed", |v| Tcp { same: Ok(false), ..good.clone() }.judge(v));
    broken("read back changed", |v| Tcp { set: Ok("ERR".into()), ..good.clone() }.judge(v));
    broken("1 MiB: closed", |v| Tcp { same: Err("closed".into()), ..good.clone() }.judge(v));
}

#[test]
fn udp() {
    let over = Udp::SIZES.map(|size| (size, None)).to_vec();
    let good = Udp {
        largest: 1411,
        sent: 1000,
        echoed: 1000,
        beyond_lost: true,
        counted: 1,
        over_http2: over.clone(),
        passed: 0,
    };
    kept(|v| good.judge(v));
    broken("largest datagram through the tunnel: 1100", |v| Udp { largest: 1100, ..good.clone() }.judge(v));
    broken("999 of 1000 echoed", |v| Udp { echoed: 999, ..good.clone() }.judge(v));
    broken("100 of 100 echoed", |v| Udp { sent: 100, echoed: 100, ..good.clone() }.judge(v));
    broken("counted: 0", |v| Udp { counted: 0, ..good.clone() }.judge(v));
    broken("1419 bytes dropped: false", |v| Udp { beyond_lost: false, ..good.clone() }.judge(v));
    let mut late = over.clone();
    if let Some(last) = late.last_mut() {
        last.1 = Some("no echo".into());
    }
    broken("over HTTP/2: 65507 bytes: no echo", |v| Udp { over_http2: late, ..good.clone() }.judge(v));
    broken("over HTTP/2", |v| Udp { over_http2: Vec::new(), ..good.clone() }.judge(v));
    broken("7 packets of UDP passed", |v| Udp { passed: 7, ..good.clone() }.judge(v));
}

#[test]
fn headless() {
    let pods: Vec<_> = (0..3).map(|n| (format!("kafka-{n}"), Ok(format!("kafka-{n}")))).collect();
    let good = Headless { from: "rack-1".into(), addresses: Ok(6), pods: pods.clone() };
    kept(|v| good.judge(v));
    let mut wrong = pods.clone();
    wrong[1].1 = Ok("kafka-2".into());
    broken("2 of 3 pods by name, kafka-1 is answered by kafka-2", |v| {
        Headless { pods: wrong, ..good.clone() }.judge(v);
    });
    let mut dead = pods;
    dead[2].1 = Err("connection reset".into());
    broken("kafka-2: connection reset", |v| Headless { pods: dead, ..good.clone() }.judge(v));
    broken("0 of 3 pods", |v| Headless { pods: Vec::new(), ..good.clone() }.judge(v));
    broken("2 addresses", |v| Headless { addresses: Ok(2), ..good.clone() }.judge(v));
    broken("dns: timeout", |v| Headless { addresses: Err("dns: timeout".into()), ..good.clone() }.judge(v));
}

#[test]
fn explain() {
    let shares = vec!["aws-eu".to_owned()];
    let good = Explain {
        from: "aws-eu".into(),
        gateways: 2,
        explained: 2,
        shares: shares.clone(),
        answered: Ok(shares.clone()),
    };
    kept(|v| good.judge(v));
    let other = Ok(vec!["aws-eu".to_owned(), "gcp-eu".to_owned()]);
    broken("answered by [\"aws-eu\", \"gcp-eu\"]", |v| Explain { answered: other, ..good.clone() }.judge(v));
    broken("answered by []", |v| Explain { answered: Ok(Vec::new()), ..good.clone() }.judge(v));
    broken("nobody answered: closed", |v| {
        Explain { answered: Err("closed".into()), ..good.clone() }.judge(v);
    });
    broken("1 gateways answered", |v| Explain { explained: 1, ..good.clone() }.judge(v));
    broken("explain says []", |v| Explain { shares: Vec::new(), ..good.clone() }.judge(v));
}
