//! Attacks by someone with a gateway's certificate, played by aioquic against a real gateway: it
//! stays small, serves others meanwhile, and serves the same peer afterwards.

use std::process::Stdio;

use serde_json::Value;

use crate::aioquic;
use crate::fabric::Fabric;
use crate::gateway::{CHECKOUT, dialler, services_answer};

/// What a gateway may use at most, in KiB.
const MOST: u64 = 256 * 1024;

/// Plays all attacks at once, each over a connection of its own; gives what each saw.
fn together(fabric: &Fabric, attacks: &[&[&str]]) -> Vec<Value> {
    let run = |attack: &&[&str]| {
        let mut command = dialler(fabric, "gcp-eu", Some(("gcp-eu", "gateway-1")), "aws-eu");
        command.args(*attack).stdout(Stdio::piped()).spawn().unwrap()
    };
    let running: Vec<_> = attacks.iter().map(run).collect();
    // Others are served while it lasts.
    let url = "http://checkout.shop.svc.clusterset.local/meanwhile";
    for member in ["aws-eu", "rack-1"] {
        let said = fabric.exec(member, &["curl", "-sS", "--fail", "--max-time", "5", url]);
        assert!(said.contains("/meanwhile"), "{member}: {said}");
    }
    let saw = |child: std::process::Child| {
        let out = child.wait_with_output().unwrap();
        aioquic::parse(String::from_utf8(out.stdout).unwrap().lines().last().unwrap())
    };
    running.into_iter().map(saw).collect()
}

#[test]
fn a_gateway_under_attack_stays_small_and_serves() {
    let fabric = Fabric::up();
    let saw = together(
        &fabric,
        &[
            &["resets_in_a_row", CHECKOUT, "3000"],
            &["heads_without_end", "500"],
            &["tunnels_that_say_nothing", CHECKOUT, "2000"],
            &["datagrams_for_nobody", "5000"],
            &["fields", "a.example", "/", "300", "200"],
        ],
    );
    println!("{saw:#?}");
    let peak = fabric.peak("aws-eu", "gateway-1");
    println!("peak {peak} KiB");
    assert!(peak < MOST, "{peak} KiB, at most {MOST}");
    services_answer(&fabric);
}
