//! Gives a tunnel the windows it needs: more when the other side is held up by them, still more
//! when readers stall, so that a stalled reader stalls itself alone. Where the peer's purse is
//! empty, the reader that stalled longest ends.
//!
//! Called by the watch over each live tunnel, several times a second. It never shrinks a window.

use std::collections::BTreeMap;

use hansa_core::Millis;
use hansa_core::code::gateway::LIMIT_REACHED;

use super::config::Config;
use super::inuse::Full;
use super::link::{Link, Wire};

/// A reader that took nothing for so long is stalled.
const STALLED: Millis = 500;
/// A stalled reader may be ended after so long, if others need the room.
const PATIENCE: Millis = 2_000;
/// Readers ended in one look.
const AT_ONCE: usize = 4;

/// What stalled readers must leave to the others of an HTTP/2 tunnel, in bytes, or half of a smaller window.
const ROOM: u64 = 1 << 20;

/// A reader that took nothing for a while.
#[derive(Debug, Clone, Copy)]
struct Stalled {
    id: u64,
    since: Millis,
    /// Bytes that wait for it.
    held: u64,
}

/// The memory of one tunnel.
#[derive(Debug, Default)]
pub(crate) struct Tender {
    /// How often the other side said that our window holds it up, and how often we gave it more.
    told: (u64, u64),
    /// It is held up: it says so only once for each window.
    held_up: bool,
    /// Readers that hold something: what they had been given, and since when.
    full: BTreeMap<u64, (u32, Millis)>,
    looked: Millis,
}

/// Half of its streams are taken: there may soon be more.
fn streams(link: &Link, config: &Config) {
    let (Some(share), most) = (link.share(), u64::from(config.limits.streams_per_tunnel)) else { return };
    let (room, taken) = (share.streams(), link.streams() as u64);
    if 2 * taken >= room && room < most && share.grow_streams((2 * room).min(most)) {
        link.apply_windows();
    }
}

/// Ends those that stalled longest.
fn evict(link: &Link, stalled: &[Stalled], now: Millis) {
    let peer = &link.facts.peer.cluster;
    for reader in stalled.iter().filter(|reader| now - reader.since >= PATIENCE).take(AT_ONCE) {
        tracing::warn!(code = %LIMIT_REACHED, %peer, next = LIMIT_REACHED.next,
            "bytes: a reader that stalls ends, for the others of its tunnel");
        link.roster.evict(reader.id);
    }
}

impl Tender {
    /// Looks once.
    pub(crate) fn look(&mut self, link: &Link, config: &Config, now: Millis) {
        match &link.wire {
            Wire::H3(connection) => {
                let stats = connection.quic().stats();
                let told = (stats.frame_rx.data_blocked, stats.frame_tx.max_data);
                let before = std::mem::replace(&mut self.told, told);
                let (blocked, gave) = (told.0 > before.0, told.1 > before.1);
                self.held_up = blocked || (self.held_up && !gave);
                self.sending(link, config, stats.path.cwnd);
                streams(link, config);
                if self.held_up {
                    self.receiving(link, config, (now, gave));
                }
            }
            // HTTP/2 does not say that a window holds it up: the readers are looked at instead.
            Wire::H2(_) if now.saturating_sub(self.looked) >= STALLED => {
                self.looked = now;
                self.readers(link, config, now);
            }
            Wire::H2(_) => {}
        }
    }

    /// What is in flight must fit, twice.
    fn sending(&self, link: &Link, config: &Config, flight: u64) {
        let Some(share) = link.share() else { return };
        let wanted = (2 * flight).min(u64::from(config.connection_window));
        if wanted > share.send() && share.grow_send(wanted.max(share.send() + share.send() / 2)) {
            link.apply_windows();
        }
    }

    /// The other side is held up by our window, or was until we gave it more just now.
    fn receiving(&mut self, link: &Link, config: &Config, (now, gave): (Millis, bool)) {
        let Some(share) = link.share() else { return };
        let (most, window) = (u64::from(config.connection_window), share.receive());
        if window < most && share.grow_receive((2 * window).min(most)) {
            return link.apply_windows();
        }
        let stalled = self.stalled(link, now);
        if stalled.is_empty() {
            return;
        }
        // What they hold is not room for the others.
        let wanted = most + stalled.len() as u64 * u64::from(config.stream_window);
        if window < wanted && share.grow_receive(wanted.min(window + u64::from(config.stream_window))) {
            return link.apply_windows();
        }
        if !gave {
            evict(link, &stalled, now);
        }
    }

    /// What the stalled readers of HTTP/2 hold is no room for the others: the tunnel gets that much more, and
    /// where there is no more, some end.
    fn readers(&mut self, link: &Link, config: &Config, now: Millis) {
        let stalled = self.stalled(link, now);
        let Some(share) = link.share() else { return };
        let held: u64 = stalled.iter().map(|reader| reader.held).sum();
        if share.grow_receive(u64::from(config.connection_window) + held) {
            return link.apply_windows();
        }
        let window = share.receive();
        if window.saturating_sub(held) < ROOM.min(window / 2) {
            // To end one for which nothing waits would give room to nobody.
            let holding: Vec<_> = stalled.into_iter().filter(|reader| reader.held > 0).collect();
            evict(link, &holding, now);
        }
    }

    /// The readers that took nothing for a while, the longest first.
    fn stalled(&mut self, link: &Link, now: Millis) -> Vec<Stalled> {
        let full = link.roster.full();
        let before = std::mem::take(&mut self.full);
        let since = |now_full: &Full| match before.get(&now_full.id) {
            Some((given, since)) if *given == now_full.given => *since,
            _ => now,
        };
        self.full = full.iter().map(|full| (full.id, (full.given, since(full)))).collect();
        let stalled = full.iter().map(|full| Stalled { id: full.id, since: since(full), held: full.held });
        let mut stalled: Vec<_> = stalled.filter(|reader| now - reader.since >= STALLED).collect();
        stalled.sort_by_key(|reader| reader.since);
        stalled
    }
}
