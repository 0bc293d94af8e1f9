//! Where a connection goes: shares by tier, and the order in which candidates are tried.
//!
//! Called by the gateway for every connection and by `explain` (asked of the gateway): the same
//! function. [`spread`] computes the shares, [`Spread::order`] turns one random draw into an order.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Millis;
use crate::catalog::Protocol;
use crate::locality::{Locality, Tier};
use crate::mesh::{Failback, ServiceRoute};
use crate::name::ClusterId;
use crate::reach::{self, Reach, Track};

/// A tier gives what it cannot carry to the next one below this share of healthy endpoints.
pub const SPILL_THRESHOLD: f64 = 0.7;

/// Why a candidate gets what it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Nothing speaks against it.
    Healthy,
    /// Traffic grows after a failure.
    Ramp,
    /// A probe passed; waiting.
    HoldDown,
    /// It failed and no probe has passed.
    Down,
    /// The tunnel is silent.
    Suspect,
    /// No tunnel to the peer.
    Unreachable,
    /// No ready endpoint.
    NoEndpoints,
}

/// How a candidate stands, seen from this gateway.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Standing {
    /// The share of its endpoints that may get traffic, 0 to 1.
    pub factor: f64,
    /// Why.
    pub reason: Reason,
    /// A probe passed: as the only path left it gets everything at once.
    pub proven: bool,
}

impl Standing {
    /// Nothing speaks against it.
    pub const HEALTHY: Standing = Standing { factor: 1.0, reason: Reason::Healthy, proven: true };
}

/// Standing of a remote candidate from the reach of its peer and the tracks of peer and service.
pub fn standing(reach: Reach, tracks: [Track; 2], failback: &Failback, now: Millis) -> Standing {
    let no = |reason| Standing { factor: 0.0, reason, proven: false };
    match reach {
        Reach::Suspect => return no(Reason::Suspect),
        Reach::Unreachable | Reach::Unknown => return no(Reason::Unreachable),
        Reach::Reachable => {}
    }
    let tracks = tracks.map(|track| reach::age(track, failback, now));
    let factor = tracks.iter().map(|t| reach::weight(*t, failback, now)).fold(1.0, f64::min);
    let any = |f: fn(&Track) -> bool| tracks.iter().any(f);
    if any(|t| matches!(t, Track::Down { .. })) {
        no(Reason::Down)
    } else if any(|t| matches!(t, Track::HoldDown { .. })) {
        Standing { factor: 0.0, reason: Reason::HoldDown, proven: true }
    } else if any(|t| matches!(t, Track::Ramp { .. })) {
        Standing { factor, reason: Reason::Ramp, proven: true }
    } else {
        Standing::HEALTHY
    }
}

/// One candidate with its share.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Weighted {
    /// The cluster.
    pub cluster: ClusterId,
    /// Ready endpoints at this tier.
    pub endpoints: u32,
    /// Of these, how many count as healthy.
    pub healthy: f64,
    /// Share of all traffic, 0 to 1.
    pub share: f64,
    /// Why.
    pub reason: Reason,
}

/// One tier with its candidates.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TierSpread {
    /// The tier.
    pub name: Tier,
    /// What it can carry of what reaches it, 0 to 1.
    pub capacity: f64,
    /// Share of all traffic, 0 to 1.
    pub share: f64,
    /// Its candidates.
    pub candidates: Vec<Weighted>,
}

/// The decision for one service port, before the draw.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Spread {
    /// Nearest tier first; empty tiers are left out.
    pub tiers: Vec<TierSpread>,
    /// Nothing is healthy: everything is tried, and first bytes wait for the answer.
    pub panic: bool,
}

/// Computes the shares of all clusters that serve `port`.
pub fn spread(
    route: &ServiceRoute,
    port: (Protocol, u16),
    here: &Locality,
    standing: impl Fn(&ClusterId) -> Standing,
) -> Spread {
    let mut rows: Vec<(Tier, Weighted, u32, Standing)> = Vec::with_capacity(route.clusters.len());
    for candidate in &route.clusters {
        if !candidate.ports.contains(&port) {
            continue;
        }
        let stands = standing(&candidate.cluster);
        let mut by_tier: [(u32, u32); 4] = [(0, 0); 4];
        for count in &candidate.endpoints {
            let slot = &mut by_tier[Locality::tier(here, &count.locality) as usize];
            *slot = (slot.0.saturating_add(count.ready), slot.1.saturating_add(count.total));
        }
        for (tier, (ready, total)) in Tier::ALL.into_iter().zip(by_tier) {
            if total > 0 {
                let reason = if ready == 0 { Reason::NoEndpoints } else { stands.reason };
                let cluster = candidate.cluster.clone();
                let weighted = Weighted { cluster, endpoints: ready, healthy: 0.0, share: 0.0, reason };
                rows.push((tier, weighted, total, stands));
            }
        }
    }
    // What counts as healthy: normally; else those proven by a probe; else, in panic, all ready.
    let normal = rows.iter().any(|r| r.1.endpoints > 0 && r.3.factor > 0.0);
    let proven = rows.iter().any(|r| r.1.endpoints > 0 && r.3.proven);
    for (_, weighted, _, stands) in &mut rows {
        let factor = match (normal, proven) {
            (true, _) => stands.factor,
            (false, true) => f64::from(u8::from(stands.proven)),
            (false, false) => 1.0,
        };
        weighted.healthy = f64::from(weighted.endpoints) * factor;
    }
    Spread { tiers: share_out(rows), panic: !normal && !proven }
}

fn share_out(mut rows: Vec<(Tier, Weighted, u32, Standing)>) -> Vec<TierSpread> {
    rows.sort_by_key(|row| row.0);
    let mut tiers: Vec<(TierSpread, f64, f64)> = Vec::new();
    for (name, weighted, total, _) in rows {
        if tiers.last().is_none_or(|t| t.0.name != name) {
            tiers.push((TierSpread { name, capacity: 0.0, share: 0.0, candidates: Vec::new() }, 0.0, 0.0));
        }
        if let Some((tier, healthy, all)) = tiers.last_mut() {
            *healthy += weighted.healthy;
            *all += f64::from(total);
            tier.candidates.push(weighted);
        }
    }
    let mut left = 1.0;
    for (tier, healthy, all) in &mut tiers {
        tier.capacity = (*healthy / (SPILL_THRESHOLD * *all)).min(1.0);
        tier.share = left * tier.capacity;
        left -= tier.share;
    }
    // What no tier could carry goes back to those that carry something, in proportion.
    let carried = 1.0 - left;
    for (tier, healthy, _) in &mut tiers {
        if carried > 0.0 {
            tier.share /= carried;
        }
        for weighted in &mut tier.candidates {
            weighted.share = if *healthy > 0.0 { tier.share * weighted.healthy / *healthy } else { 0.0 };
        }
    }
    tiers.into_iter().map(|t| t.0).collect()
}

impl Spread {
    /// The clusters to try, best first, each once. `draw` in [0, 1) chooses the first by share; the
    /// others follow by tier, then by share.
    pub fn order(&self, draw: f64) -> Vec<ClusterId> {
        let mut rest = draw.clamp(0.0, 1.0);
        let with_share = || self.tiers.iter().flat_map(|t| &t.candidates).filter(|c| c.share > 0.0);
        let mut first = None;
        for candidate in with_share() {
            first = Some(&candidate.cluster);
            if rest < candidate.share {
                break;
            }
            rest -= candidate.share;
        }
        let mut order: Vec<ClusterId> = Vec::new();
        order.extend(first.cloned());
        for tier in &self.tiers {
            let mut candidates: Vec<&Weighted> = tier.candidates.iter().filter(|c| c.healthy > 0.0).collect();
            candidates.sort_by(|a, b| b.share.total_cmp(&a.share));
            for candidate in candidates {
                if !order.contains(&candidate.cluster) {
                    order.push(candidate.cluster.clone());
                }
            }
        }
        order
    }

    /// Share of each cluster over all tiers.
    pub fn shares(&self) -> BTreeMap<&ClusterId, f64> {
        let mut shares = BTreeMap::new();
        for candidate in self.tiers.iter().flat_map(|t| &t.candidates) {
            *shares.entry(&candidate.cluster).or_insert(0.0) += candidate.share;
        }
        shares
    }
}

/// A draw in [0, 1) that is the same for one client of one service: session affinity by client
/// address, best effort. `key` is a keyed hash of the client.
pub fn affine_draw(key: u64) -> f64 {
    // The upper 53 bits fill the mantissa exactly.
    (key >> 11) as f64 / (1u64 << 53) as f64
}
