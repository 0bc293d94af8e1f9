//! The names of a peer's gateway, looked up again while a tunnel stands: where a name leads elsewhere for
//! good, the tunnel is replaced by one to where it leads now.
//!
//! Asked by `slot`, once for every tunnel it keeps. The system's resolver tells no time to live, so a name
//! is looked up at a fixed pace; and since some names answer with a part of their addresses each time, an
//! address counts as gone only when it was missing several times in a row. It never dials.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::dial;

/// An address that was missing so often in a row is gone.
const MISSED: u32 = 3;

/// What the looks at one tunnel's names have shown.
#[derive(Debug)]
pub(crate) struct Names {
    pace: Duration,
    due: Instant,
    missed: u32,
    gone: bool,
}

/// What one look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// The tunnel's address is among those of its names.
    Here,
    /// It is not.
    Elsewhere,
    /// The resolver did not answer: that says nothing.
    Unknown,
}

impl Names {
    /// A tunnel was made just now; there is a look every `pace`.
    pub(crate) fn new(now: Instant, pace: Duration) -> Self {
        Self { pace, due: now + pace, missed: 0, gone: false }
    }

    /// When the next look is due.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// Takes what a look found. True if the tunnel's address is gone.
    pub(crate) fn looked(&mut self, found: Found, now: Instant) -> bool {
        self.due = now + self.pace;
        self.missed = match found {
            Found::Here => 0,
            Found::Elsewhere => self.missed + 1,
            Found::Unknown => self.missed,
        };
        let gone = self.missed >= MISSED;
        if gone {
            (self.missed, self.gone) = (0, true);
        }
        gone
    }

    /// The tunnel is one that its names no longer lead to, and waits to be replaced.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone
    }
}

/// Looks at `due` whether `remote` is still an address of `names`. Pending for ever where they are no
/// names but addresses.
pub(crate) async fn look(due: Instant, names: &[String], remote: SocketAddr) -> Found {
    if names.iter().all(|name| name.parse::<SocketAddr>().is_ok()) {
        return std::future::pending().await;
    }
    sleep_until(due).await;
    let Ok(addresses) = dial::resolve(names).await else { return Found::Unknown };
    let plain = |ip: IpAddr| ip.to_canonical();
    let here = addresses
        .iter()
        .any(|address| (plain(address.ip()), address.port()) == (plain(remote.ip()), remote.port()));
    if here { Found::Here } else { Found::Elsewhere }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_is_gone_when_it_was_missing_three_times_in_a_row() {
        let now = Instant::now();
        let mut names = Names::new(now, Duration::from_secs(30));
        assert_eq!(names.due(), now + Duration::from_secs(30));
        let looks = [
            (Found::Elsewhere, false),
            (Found::Elsewhere, false),
            (Found::Here, false),
            (Found::Elsewhere, false),
            (Found::Unknown, false),
            (Found::Elsewhere, false),
            (Found::Elsewhere, true),
            (Found::Elsewhere, false),
        ];
        assert!(!names.is_gone());
        for (found, gone) in looks {
            assert_eq!(names.looked(found, now), gone, "{found:?}");
        }
        assert!(names.is_gone());
    }

    #[tokio::test]
    async fn a_name_is_looked_up_and_an_address_is_not() {
        let now = Instant::now();
        let of = |text: &str| text.parse::<SocketAddr>().unwrap();
        let local = ["localhost:15443".to_owned()];
        assert_eq!(look(now, &local, of("127.0.0.1:15443")).await, Found::Here);
        assert_eq!(look(now, &local, of("127.0.0.1:15444")).await, Found::Elsewhere);
        assert_eq!(look(now, &local, of("192.0.2.1:15443")).await, Found::Elsewhere);
        let plain = ["192.0.2.1:15443".to_owned()];
        let look = std::pin::pin!(look(now, &plain, of("192.0.2.2:15443")));
        assert!(futures::poll!(look).is_pending());
    }
}
