//! `heal` broken with made-up observations. Each thing is back at 20 s and carries traffic from 23 s on.

use super::{SECOND, broken, fail, kept, load, one_failure};
use crate::load::ConnKind;
use crate::promise::back::{Back, Reserve, sum};

const REMOVED: u64 = 20 * SECOND;
const FIRST: u64 = 23 * SECOND;

/// With another candidate, from 3 s after the healing on.
fn reserved(served: Vec<u64>) -> Back {
    Back {
        what: "endpoint".into(),
        removed: REMOVED,
        ready: REMOVED + SECOND / 10,
        first_good: Some(FIRST),
        only_path: false,
        reserve: Some(Reserve { hold_down: 2 * SECOND, served }),
        loads: vec![load("aws-eu", |_| {})],
    }
}

/// The only way, half a second after the healing.
fn only() -> Back {
    let first_good = Some(REMOVED + SECOND / 2);
    Back { what: "only".into(), first_good, only_path: true, reserve: None, ..reserved(Vec::new()) }
}

fn judge(back: &Back, verdict: &mut crate::report::Verdict) {
    sum(&[back.judge()], verdict);
}

#[test]
fn what_returns_waits_for_its_hold_down() {
    // What it served before it was broken says nothing.
    let good = reserved(vec![15 * SECOND, FIRST, FIRST + 1]);
    kept(|v| judge(&good, v));
    broken("after 1.50 s, 1 within the hold-down of 2 s", |v| {
        judge(&reserved(vec![REMOVED + 3 * SECOND / 2, FIRST]), v);
    });
    broken("after 0.00 s, 2 within", |v| judge(&reserved(vec![REMOVED, REMOVED + 1, FIRST]), v));
    broken("it served nothing", |v| judge(&reserved(vec![15 * SECOND]), v));
    broken("no traffic again", |v| judge(&Back { first_good: None, ..good.clone() }, v));
    broken("endpoint: ", |v| judge(&Back { first_good: None, ..good.clone() }, v));
}

#[test]
fn nothing_begun_after_the_first_good_answer_fails() {
    let with = |records| Back { loads: vec![records], ..reserved(vec![FIRST]) };
    broken("begun after it 1 of", |v| judge(&with(one_failure("aws-eu", 30)), v));
    // A kept connection counts from its own beginning.
    let young = load("aws-eu", |o| {
        if o.kind == ConnKind::Kept && o.intended_ns == 30 * SECOND + SECOND / 2 {
            fail(o, "answer: closed");
        }
    });
    broken("begun after it 1 of", |v| judge(&with(young.clone()), v));
    broken("begun after it 1 of", |v| judge(&Back { loads: vec![young], ..only() }, v));
    broken("begun after it 0 of 0", |v| judge(&with(crate::judge::Records::default()), v));
    // While another candidate is up there is no reason to fail before it either.
    broken("begun before it 1 of", |v| judge(&with(one_failure("aws-eu", 21)), v));
}

#[test]
fn an_only_path_answers_at_once() {
    kept(|v| judge(&only(), v));
    // Until its first good answer nobody could have done better.
    kept(|v| judge(&Back { loads: vec![one_failure("redis", 20)], ..only() }, v));
    let late = Some(REMOVED + SECOND / 10 + SECOND);
    broken("first good answer after 1.00 s", |v| judge(&Back { first_good: late, ..only() }, v));
    broken("no traffic again", |v| judge(&Back { first_good: None, ..only() }, v));
}

#[test]
fn nothing_broken_is_nothing_healed() {
    broken("nothing was broken", |v| sum(&[], v));
}
