//! Laws of `route`: shares, tiers, panic, order.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::{BTreeMap, BTreeSet};

use hansa_core::catalog::{Affinity, EndpointCount, Port, Protocol, ServiceType};
use hansa_core::locality::Locality;
use hansa_core::mesh::{Candidate, ServiceRoute};
use hansa_core::name::ClusterId;
use hansa_core::route::{self, Reason, Spread, Standing};
use proptest::prelude::*;

const PORT: (Protocol, u16) = (Protocol::Tcp, 80);
const PLACES: [&str; 5] = ["aws/eu/a", "aws/eu/b", "aws/us/a", "gcp/eu/a", ""];

/// One candidate: place, ready, unready, factor in percent, proven.
type Spec = (usize, u32, u32, u8, bool);

fn service(specs: &[Spec]) -> ServiceRoute {
    let count = |(place, ready, unready, ..): &Spec| EndpointCount {
        locality: PLACES[*place].parse().unwrap(),
        ready: *ready,
        total: ready + unready,
    };
    let ports = BTreeSet::from([PORT]);
    let clusters = specs.iter().enumerate().map(|(i, s)| Candidate::new(id(i), &ports, [count(s)]));
    ServiceRoute {
        service: "shop/checkout".parse().unwrap(),
        kind: ServiceType::ClusterSetIP,
        ports: vec![Port { name: None, protocol: Protocol::Tcp, app_protocol: None, port: 80 }],
        affinity: Affinity::None,
        vips: BTreeMap::new(),
        clusters: clusters.collect(),
        hosts: vec![],
        local: None,
    }
}

fn id(i: usize) -> ClusterId {
    format!("c{i}").parse().unwrap()
}

fn standing(spec: &Spec) -> Standing {
    let factor = f64::from(spec.3.min(100)) / 100.0;
    let reason = if factor > 0.0 { Reason::Healthy } else { Reason::Down };
    Standing { factor, reason, proven: spec.4 || factor > 0.0 }
}

fn spread(specs: &[Spec]) -> Spread {
    let here: Locality = "aws/eu/a".parse().unwrap();
    let number = |c: &ClusterId| c.as_str()[1..].parse::<usize>().unwrap();
    route::spread(&service(specs), PORT, &here, |c| standing(&specs[number(c)]))
}

fn specs() -> impl Strategy<Value = Vec<Spec>> {
    let factor = prop_oneof![Just(0u8), Just(100u8), 1u8..100];
    proptest::collection::vec((0usize..5, 0u32..6, 0u32..4, factor, any::<bool>()), 0..6)
}

proptest! {
    #[test]
    fn shares_sum_to_one_or_there_is_nothing(specs in specs()) {
        let spread = spread(&specs);
        let sum: f64 = spread.shares().values().sum();
        let any_ready = specs.iter().any(|s| s.1 > 0);
        prop_assert!((sum - f64::from(u8::from(any_ready))).abs() < 1e-9, "{} {:?}", sum, spread);
        let tiers: f64 = spread.tiers.iter().map(|t| t.share).sum();
        prop_assert!((tiers - sum).abs() < 1e-9);
    }

    #[test]
    fn nothing_goes_to_what_is_down_unless_everything_is(specs in specs(), draw in 0.0f64..1.0) {
        let spread = spread(&specs);
        let up = specs.iter().any(|s| s.1 > 0 && s.3 > 0);
        for cluster in spread.order(draw) {
            let spec = &specs[cluster.as_str()[1..].parse::<usize>().unwrap()];
            prop_assert!(spec.1 > 0, "no ready endpoint was chosen");
            if up { prop_assert!(spec.3 > 0, "{} is down", cluster); }
        }
        let proven = specs.iter().any(|s| s.1 > 0 && standing(s).proven);
        prop_assert_eq!(spread.panic, !up && !proven);
    }

    #[test]
    fn every_draw_gives_each_candidate_once(specs in specs(), draw in 0.0f64..=1.0) {
        let spread = spread(&specs);
        let order = spread.order(draw);
        let distinct: BTreeSet<_> = order.iter().collect();
        prop_assert_eq!(distinct.len(), order.len());
        let eligible: BTreeSet<_> = spread.shares().into_iter().filter(|s| s.1 > 0.0).map(|s| s.0.clone()).collect();
        prop_assert!(eligible.iter().all(|c| order.contains(c)), "{:?} {:?}", eligible, order);
        prop_assert_eq!(order.is_empty(), specs.iter().all(|s| s.1 == 0));
    }

    #[test]
    fn the_first_of_the_order_follows_the_shares(specs in specs()) {
        let spread = spread(&specs);
        let mut seen: BTreeMap<ClusterId, f64> = BTreeMap::new();
        const DRAWS: u32 = 1000;
        for i in 0..DRAWS {
            if let Some(first) = spread.order((f64::from(i) + 0.5) / f64::from(DRAWS)).first() {
                *seen.entry(first.clone()).or_default() += 1.0 / f64::from(DRAWS);
            }
        }
        for (cluster, share) in spread.shares() {
            let got = seen.get(cluster).copied().unwrap_or(0.0);
            prop_assert!((got - share).abs() < 0.01, "{} {} {}", cluster, got, share);
        }
    }

    #[test]
    fn a_better_tier_never_gets_less_because_a_worse_one_improved(
        specs in specs(), worse in 0usize..6, more in 1u32..5,
    ) {
        let Some(victim) = specs.get(worse).copied() else { return Ok(()) };
        let (before, mut improved) = (spread(&specs), specs.clone());
        if !specs.iter().any(|s| s.1 > 0 && s.3 > 0) || victim.1 == 0 { return Ok(()) }
        improved[worse].1 += more;
        improved[worse].3 = 100;
        let after = spread(&improved);
        let tier_of = |s: &Spread| s.tiers.iter().find(|t| t.candidates.iter().any(|c| c.cluster == id(worse))).map(|t| t.name);
        let Some(changed) = tier_of(&before) else { return Ok(()) };
        // What no tier could carry is given back in proportion; the law is about what tiers can carry.
        let capacity = |s: &Spread| s.tiers.iter().map(|t| (t.name, t.capacity)).collect::<BTreeMap<_, _>>();
        for (tier, old) in capacity(&before) {
            if tier < changed { prop_assert!(capacity(&after)[&tier] >= old - 1e-9); }
        }
    }

    #[test]
    fn removing_an_endpoint_moves_no_more_than_its_share(specs in specs(), index in 0usize..6) {
        let healthy: Vec<Spec> = specs.iter().map(|s| (0, s.1, 0, 100, true)).collect();
        if healthy.get(index).is_none_or(|s| s.1 == 0) { return Ok(()) }
        let total: u32 = healthy.iter().map(|s| s.1).sum();
        if total < 2 { return Ok(()) }
        let before = spread(&healthy);
        let mut fewer = healthy.clone();
        fewer[index].1 -= 1;
        let after = spread(&fewer);
        let lost = 1.0 / f64::from(total);
        for (cluster, old) in before.shares() {
            let new = after.shares().get(cluster).copied().unwrap_or(0.0);
            prop_assert!((new - old).abs() <= lost + 1e-9, "{} moved from {} to {}", cluster, old, new);
        }
    }
}

#[test]
fn the_missing_share_spills_and_not_everything() {
    // Near tier 2 of 4 healthy: 2 / (0.7 × 4) = 0.714… stay.
    let shares = spread(&[(0, 2, 2, 100, true), (3, 4, 0, 100, true)]);
    let near = shares.shares()[&id(0)];
    assert!((near - 2.0 / 2.8).abs() < 1e-9, "{near}");
    // At 3 of 4 the threshold is passed: everything stays.
    assert_eq!(spread(&[(0, 3, 1, 100, true), (3, 4, 0, 100, true)]).shares()[&id(0)], 1.0);
}

#[test]
fn the_only_path_left_knows_no_hold_down() {
    let held = spread(&[(0, 1, 0, 0, true), (3, 1, 0, 0, false)]);
    assert_eq!(held.order(0.5), [id(0)]);
    assert!(!held.panic);
}
