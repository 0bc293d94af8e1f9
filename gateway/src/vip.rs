//! Brings virtual addresses up on this host: a local route for a whole block, and its announcement.
//!
//! Called by the keeper of sibling addresses. Loopback blocks need nothing. The route hangs on a
//! device that vanishes with this process, so that a killed gateway stops answering for its
//! addresses at once. It never touches a route that it did not make.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hansa_core::code::gateway as codes;
use hansa_core::name::NodeId;
use ipnet::IpNet;
use tokio_util::sync::CancellationToken;

use crate::config::{Manage, Vip};
use crate::plane::Plane;

mod announce;
mod neighbour;
mod route;

pub(crate) use neighbour::fuzz as fuzz_question;

/// When an announcement is repeated, after its beginning: neighbours ignore a change that comes
/// within a second of another one, and the dead may still answer for a moment.
const REPEATS: [u64; 8] = [0, 60, 150, 300, 600, 1_000, 1_700, 3_000];

/// Blocks that are up, by the gateway they belong to.
pub(crate) struct Addresses {
    manage: Manage,
    device: Option<String>,
    relay: Option<SocketAddr>,
    up: BTreeMap<NodeId, Up>,
}

struct Up {
    blocks: Vec<IpNet>,
    /// Why traffic may not arrive.
    problem: Option<String>,
    /// Held for its drop.
    _device: Option<route::Device>,
    announcing: CancellationToken,
}

impl Drop for Up {
    fn drop(&mut self) {
        self.announcing.cancel();
    }
}

impl Addresses {
    /// Nothing is up yet.
    pub(crate) fn new(config: &Vip, relay: Option<SocketAddr>) -> Self {
        let device = (config.device != "auto").then(|| config.device.clone());
        Self { manage: config.manage, device, relay, up: BTreeMap::new() }
    }

    /// Brings the blocks of `owner` up, once; `vips` are the addresses that neighbours may know.
    pub(crate) fn up(
        &mut self,
        plane: &Arc<Plane>,
        owner: &NodeId,
        blocks: &[IpNet],
        vips: impl FnOnce() -> Vec<IpAddr>,
    ) {
        if self.up.get(owner).is_some_and(|up| up.blocks == blocks) {
            return;
        }
        self.up.remove(owner);
        let announcing = CancellationToken::new();
        let outside = outside(blocks);
        let mut up = Up { blocks: blocks.to_vec(), problem: None, _device: None, announcing };
        if !outside.is_empty() && self.manage == Manage::Auto {
            match route::Device::new(&outside) {
                Ok(device) => {
                    up._device = Some(device);
                    self.announce(plane, &outside, vips(), up.announcing.clone());
                }
                Err(error) => {
                    let code = codes::VIP_UNBINDABLE;
                    let problem = format!("{code} block of {owner}: {error}");
                    tracing::error!(%code, %owner, %error, next = code.next, "block not brought up");
                    up.problem = Some(problem);
                }
            }
        }
        self.up.insert(owner.clone(), up);
    }

    /// Announces the blocks of `owner` once more, if they are up: somebody else had them meanwhile, who took a
    /// slow gateway for a dead one.
    pub(crate) fn again(&mut self, plane: &Arc<Plane>, owner: &NodeId, vips: impl FnOnce() -> Vec<IpAddr>) {
        let Some(up) = self.up.get_mut(owner).filter(|up| up._device.is_some()) else { return };
        up.announcing.cancel();
        up.announcing = CancellationToken::new();
        let (stop, blocks) = (up.announcing.clone(), outside(&up.blocks));
        self.announce(plane, &blocks, vips(), stop);
    }

    /// Takes the blocks of `owner` down.
    pub(crate) fn down(&mut self, owner: &NodeId) {
        self.up.remove(owner);
    }

    /// Why traffic for `owner` may not arrive here.
    pub(crate) fn problem(&self, owner: &NodeId) -> Option<&str> {
        self.up.get(owner)?.problem.as_deref()
    }

    fn announce(&self, plane: &Arc<Plane>, blocks: &[IpNet], vips: Vec<IpAddr>, stop: CancellationToken) {
        // The anchor comes first: clients that route a block by it need no other announcement.
        let anchors = blocks.iter().map(anchor);
        let inside = |vip: &IpAddr| blocks.iter().any(|block| block.contains(vip));
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for vip in anchors.chain(vips).filter(inside) {
            match vip {
                IpAddr::V4(vip) => v4.push(vip),
                IpAddr::V6(vip) => v6.push(vip),
            }
        }
        let near = self.relay.map(|relay| relay.ip()).into_iter().collect::<Vec<_>>();
        let device = match announce::device(self.device.as_deref(), &near) {
            Ok(device) => device,
            Err(error) => {
                tracing::warn!(%error, "addresses cannot be announced; neighbours learn them by asking");
                return;
            }
        };
        if !v4.is_empty() {
            announce_v4(plane, &device, v4, stop.clone());
        }
        if !v6.is_empty() {
            speak_v6(plane, &device, (blocks, v6), stop);
        }
    }
}

/// The blocks that neighbours must be told of.
fn outside(blocks: &[IpNet]) -> Vec<IpNet> {
    blocks.iter().filter(|block| !block.addr().is_loopback()).copied().collect()
}

/// Tells neighbours by gratuitous ARP; the kernel answers those who ask.
fn announce_v4(plane: &Arc<Plane>, device: &str, vips: Vec<Ipv4Addr>, stop: CancellationToken) {
    let announcer = match announce::Announcer::new(device) {
        Ok(announcer) => announcer,
        Err(error) => {
            tracing::warn!(%error, "addresses cannot be announced; neighbours learn them by asking");
            return;
        }
    };
    plane.tasks.spawn_until_shutdown("announce", async move {
        let begun = tokio::time::Instant::now();
        for after in REPEATS {
            let due = tokio::time::sleep_until(begun + Duration::from_millis(after));
            if stop.run_until_cancelled(due).await.is_none() {
                return;
            }
            for chunk in vips.chunks(64) {
                if let Err(error) = announcer.send(chunk) {
                    tracing::debug!(%error, "announcement");
                }
                tokio::task::yield_now().await;
            }
        }
    });
}

/// Tells neighbours by unsolicited advertisements, and answers those who ask.
fn speak_v6(
    plane: &Arc<Plane>,
    device: &str,
    (blocks, vips): (&[IpNet], Vec<Ipv6Addr>),
    stop: CancellationToken,
) {
    let neighbour = match neighbour::Neighbour::new(device, blocks, &vips) {
        Ok(neighbour) => neighbour,
        Err(error) => {
            let code = codes::VIP_UNBINDABLE;
            tracing::error!(%code, %error, next = code.next, "neighbours cannot find the IPv6 addresses");
            return;
        }
    };
    plane.tasks.spawn_until_shutdown("neighbour", async move {
        let begun = tokio::time::Instant::now();
        let tell = async {
            for after in REPEATS {
                tokio::time::sleep_until(begun + Duration::from_millis(after)).await;
                for chunk in vips.chunks(64) {
                    if let Err(error) = neighbour.announce(chunk) {
                        tracing::debug!(%error, "announcement");
                    }
                    tokio::task::yield_now().await;
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = tell => {}
            ended = neighbour.answer() => tracing::warn!(?ended, "neighbour discovery ended"),
        }
    });
}

/// The first host address of a block. Clients may route the block by it (`ip route add BLOCK via ANCHOR
/// dev DEV onlink`): then one neighbour entry stands for all its addresses.
fn anchor(block: &IpNet) -> IpAddr {
    match block {
        IpNet::V4(block) => block.hosts().next().unwrap_or_else(|| block.addr()).into(),
        // The address before it means any router of the subnet (RFC 4291 2.6.1).
        IpNet::V6(block) => block.hosts().nth(1).unwrap_or_else(|| block.addr()).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_anchor_is_the_first_address_of_a_host() {
        for (block, first) in [
            ("10.97.16.0/20", "10.97.16.1"),
            ("10.97.0.7/32", "10.97.0.7"),
            ("fd00:97::/64", "fd00:97::1"),
            ("fd00:97::7/128", "fd00:97::7"),
        ] {
            assert_eq!(anchor(&block.parse().unwrap()).to_string(), first);
        }
    }
}
