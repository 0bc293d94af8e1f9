//! Virtual addresses: a number per service and headless host, a block per gateway.
//!
//! Held by `fuse`, which writes the changes to the store before it publishes them. The address of a
//! service on a gateway is the start of the gateway's block plus the service's number, so both are
//! stable across restarts. Numbers of what is gone are used again last, and not within the hour.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hansa_core::Millis;
use hansa_core::name::NodeId;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::config::Vip;
use crate::store::{Batch, Store};

const NUMBERS: &str = "vip/";
const SLOTS: &str = "slot/";
/// A stale cache must never lead to another service.
const QUARANTINE: Millis = 3_600_000;
/// Most numbers used, also where an IPv6 prefix has more.
const MOST: u32 = 1 << 24;

/// The number of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Number {
    number: u32,
    /// When its key was gone; `None` while in use.
    released: Option<Millis>,
}

/// All numbers and blocks.
#[derive(Debug, Default)]
pub struct Vips {
    prefixes: Vec<IpNet>,
    bits: u8,
    capacity: u32,
    numbers: BTreeMap<String, Number>,
    taken: BTreeSet<u32>,
    slots: BTreeMap<NodeId, u32>,
    changed: Batch,
}

impl Vips {
    /// Reads what was allocated before.
    pub fn load(config: &Vip, store: &Store) -> Self {
        let numbers: BTreeMap<String, Number> = store.scan_json(NUMBERS).into_iter().collect();
        let slots = store.scan_json::<u32>(SLOTS).into_iter();
        let slots = slots.filter_map(|(id, slot)| Some((id.parse().ok()?, slot)));
        let room = |prefix: &IpNet| {
            let bits = prefix.max_prefix_len().saturating_sub(prefix.prefix_len() + config.gateway_bits);
            1u32.checked_shl(u32::from(bits)).unwrap_or(MOST).min(MOST)
        };
        Self {
            capacity: config.prefixes.iter().map(room).min().unwrap_or(0),
            prefixes: config.prefixes.clone(),
            bits: config.gateway_bits,
            taken: numbers.values().map(|n| n.number).collect(),
            numbers,
            slots: slots.collect(),
            changed: Batch::default(),
        }
    }

    /// What must be written before the addresses are published.
    pub fn take_changes(&mut self) -> Batch {
        std::mem::take(&mut self.changed)
    }

    /// The number of `key`, made if it has none. `None`: the prefix is exhausted.
    pub fn number(&mut self, key: &str, now: Millis) -> Option<u32> {
        if let Some(known) = self.numbers.get(key).copied() {
            if known.number >= self.capacity {
                // The prefix was made smaller.
                self.forget(key, known.number);
            } else {
                if known.released.is_some() {
                    self.set(key, Number { released: None, ..known });
                }
                return Some(known.number);
            }
        }
        let number = self.free(now)?;
        self.set(key, Number { number, released: None });
        Some(number)
    }

    /// Frees the numbers of all keys that are not in `used`.
    pub fn release_others(&mut self, used: &BTreeSet<String>, now: Millis) {
        let gone = self.numbers.iter().filter(|(key, n)| n.released.is_none() && !used.contains(*key));
        let gone: Vec<(String, Number)> = gone.map(|(key, n)| (key.clone(), *n)).collect();
        for (key, number) in gone {
            self.set(&key, Number { released: Some(now), ..number });
        }
    }

    fn set(&mut self, key: &str, number: Number) {
        self.taken.insert(number.number);
        self.numbers.insert(key.to_owned(), number);
        self.changed.put_json(format!("{NUMBERS}{key}"), &number);
    }

    fn forget(&mut self, key: &str, number: u32) {
        self.numbers.remove(key);
        self.taken.remove(&number);
        self.changed.delete(format!("{NUMBERS}{key}"));
    }

    /// The lowest number never used; else the one that was free for the longest.
    fn free(&mut self, now: Millis) -> Option<u32> {
        // Number 0 of block 0 is the network's own address.
        let mut next = 1;
        for taken in self.taken.range(1..) {
            if *taken != next {
                break;
            }
            next += 1;
        }
        if next < self.capacity {
            return Some(next);
        }
        let rested = |n: &Number| n.released.is_some_and(|at| now.saturating_sub(at) >= QUARANTINE);
        let oldest = self.numbers.iter().filter(|(_, n)| rested(n)).min_by_key(|(_, n)| n.released);
        let (key, number) = oldest.map(|(key, n)| (key.clone(), n.number))?;
        self.forget(&key, number);
        Some(number)
    }

    /// The block of a gateway, made if it has none. `None`: all blocks are taken.
    pub fn slot(&mut self, gateway: &NodeId) -> Option<u32> {
        if let Some(slot) = self.slots.get(gateway) {
            return Some(*slot);
        }
        let used: BTreeSet<u32> = self.slots.values().copied().collect();
        let slot = (0..1u32 << self.bits).find(|slot| !used.contains(slot))?;
        self.slots.insert(gateway.clone(), slot);
        self.changed.put_json(format!("{SLOTS}{gateway}"), &slot);
        Some(slot)
    }

    /// Frees the block of a gateway that was forgotten.
    pub fn release_slot(&mut self, gateway: &NodeId) {
        if self.slots.remove(gateway).is_some() {
            self.changed.delete(format!("{SLOTS}{gateway}"));
        }
    }

    /// The address blocks of a slot, one per prefix.
    pub fn blocks(&self, slot: u32) -> Vec<IpNet> {
        let blocks = self.prefixes.iter().filter_map(|prefix| {
            let length = prefix.prefix_len() + self.bits;
            let start = self.address(prefix, slot, 0)?;
            Some(match start {
                IpAddr::V4(ip) => IpNet::V4(Ipv4Net::new(ip, length).ok()?),
                IpAddr::V6(ip) => IpNet::V6(Ipv6Net::new(ip, length).ok()?),
            })
        });
        blocks.collect()
    }

    /// The addresses of a number on the gateway of a slot, one per prefix.
    pub fn addresses(&self, slot: u32, number: u32) -> Vec<IpAddr> {
        self.prefixes.iter().filter_map(|prefix| self.address(prefix, slot, number)).collect()
    }

    fn address(&self, prefix: &IpNet, slot: u32, number: u32) -> Option<IpAddr> {
        let left =
            u32::from(prefix.max_prefix_len() - prefix.prefix_len()).checked_sub(u32::from(self.bits))?;
        match prefix.network() {
            IpAddr::V4(ip) => {
                let offset = slot.checked_shl(left)? | number;
                Some(IpAddr::V4(Ipv4Addr::from(u32::from(ip).checked_add(offset)?)))
            }
            IpAddr::V6(ip) => {
                let offset = u128::from(slot).checked_shl(left)? | u128::from(number);
                Some(IpAddr::V6(Ipv6Addr::from(u128::from(ip).checked_add(offset)?)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(prefixes: &[&str]) -> Vip {
        Vip { prefixes: prefixes.iter().map(|p| p.parse().unwrap()).collect(), gateway_bits: 2 }
    }

    fn gateway(n: u32) -> NodeId {
        format!("gateway-{n}").parse().unwrap()
    }

    #[test]
    fn addresses_are_block_plus_number_in_both_families_and_survive() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let config = config(&["127.9.0.0/20", "fd00:1::/64"]);
        let mut vips = Vips::load(&config, &store);
        assert_eq!((vips.slot(&gateway(1)), vips.slot(&gateway(2))), (Some(0), Some(1)));
        assert_eq!((vips.number("shop/a", 0), vips.number("shop/b", 0)), (Some(1), Some(2)));
        let texts = |ips: Vec<IpAddr>| ips.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts(vips.addresses(1, 2)), ["127.9.4.2", "fd00:1::4000:0:0:2"]);
        assert_eq!(vips.blocks(1)[0].to_string(), "127.9.4.0/22");
        assert!(store.commit_now(&vips.take_changes()));
        let mut again = Vips::load(&config, &store);
        assert_eq!((again.number("shop/b", 0), again.slot(&gateway(2))), (Some(2), Some(1)));
    }

    #[test]
    fn exhaustion_spares_the_others_and_rested_numbers_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        // Three bits are left for services: numbers 1 to 7.
        let mut vips = Vips::load(&config(&["10.0.0.0/27"]), &store);
        for n in 1..8 {
            assert_eq!(vips.number(&format!("s/{n}"), 0), Some(n));
        }
        assert_eq!(vips.number("s/new", 0), None);
        let used = (2..8).map(|n| format!("s/{n}")).collect();
        vips.release_others(&used, 1_000);
        assert_eq!(vips.number("s/new", 2_000), None);
        assert_eq!(vips.number("s/new", 1_000 + QUARANTINE), Some(1));
        assert_eq!(vips.number("s/2", 0), Some(2));
    }

    #[test]
    fn what_returns_gets_its_old_number() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut vips = Vips::load(&config(&["10.0.0.0/16"]), &store);
        assert_eq!(vips.number("s/a", 0), Some(1));
        vips.release_others(&BTreeSet::new(), 5);
        assert_eq!(vips.number("s/b", 6), Some(2));
        assert_eq!(vips.number("s/a", 7), Some(1));
    }
}
