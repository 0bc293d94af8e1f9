//! Connection ids of the listening endpoints. They name the shard that holds the connection, so that
//! its packets find it when its peer's address changes, and where an operator sets a server id also
//! that, so that a load balancer in front of several gateways finds the gateway.
//!
//! With a server id: the plaintext form of QUIC-LB (draft-ietf-quic-load-balancers 5.1): one octet of
//! configuration number and length, the server id, a nonce whose first octet is the shard. Without:
//! the shard's octet and a nonce. Neither is secret, and both are seen on the wire.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use quinn::{ConnectionId, ConnectionIdGenerator};
use rand::RngExt as _;
use serde::{Deserialize, Serialize};

/// The longest id QUIC version 1 allows.
const MOST: usize = 20;
/// The longest server id: one octet before it and the shortest nonce behind it.
const MOST_SERVER: usize = 15;
/// The nonce behind a server id where there is room for it; never less than four octets.
const NONCE: usize = 7;
/// Without a server id, ids are as long as those of the dialling side: then a datagram that fits one way
/// fits back.
const PLAIN: usize = 8;

/// A server id of 1 to 15 octets, written in hexadecimal.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerId(Vec<u8>);

/// Why a text is no server id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a server id is 1 to 15 octets in hexadecimal, such as 00000000000000a1")]
pub struct BadServerId;

impl FromStr for ServerId {
    type Err = BadServerId;

    fn from_str(text: &str) -> Result<Self, BadServerId> {
        let digits: Option<Vec<u8>> =
            text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
        let digits = digits.filter(|d| d.len().is_multiple_of(2)).ok_or(BadServerId)?;
        let octets: Vec<u8> = digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
        match octets.len() {
            1..=MOST_SERVER => Ok(Self(octets)),
            _ => Err(BadServerId),
        }
    }
}

impl TryFrom<String> for ServerId {
    type Error = BadServerId;

    fn try_from(text: String) -> Result<Self, BadServerId> {
        text.parse()
    }
}

impl From<ServerId> for String {
    fn from(id: ServerId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Makes the ids of one endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Generator {
    pub(crate) server: Option<ServerId>,
    pub(crate) shard: u8,
}

impl Generator {
    /// What stands before the shard's octet.
    fn before(&self) -> usize {
        self.server.as_ref().map_or(0, |server| 1 + server.0.len())
    }

    fn nonce(&self) -> usize {
        match self.server {
            Some(_) => NONCE.min(MOST - self.before()),
            None => PLAIN,
        }
    }

    /// Configuration number 0 in the upper three bits, the length behind this octet in the others.
    fn first(&self) -> u8 {
        u8::try_from(self.cid_len() - 1).unwrap_or(0)
    }

    /// The shard that a datagram's connection lives on, by its id. `None` where it is not known: the
    /// first packets of a connection carry an id that the other side drew.
    pub(crate) fn shard_of(&self, datagram: &[u8]) -> Option<usize> {
        let short = datagram.first()? & 0x80 == 0;
        // The id follows the first octet (RFC 9000 17.3).
        let octet = datagram.get(1 + self.before())?;
        short.then(|| usize::from(*octet))
    }
}

impl ConnectionIdGenerator for Generator {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; MOST];
        let (before, length) = (self.before(), self.cid_len());
        if let Some(server) = &self.server {
            id[0] = self.first();
            id[1..before].copy_from_slice(&server.0);
        }
        id[before] = self.shard;
        rand::rng().fill(&mut id[before + 1..length]);
        ConnectionId::new(&id[..length])
    }

    fn cid_len(&self) -> usize {
        self.before() + self.nonce()
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_its_length_the_server_and_a_fresh_nonce() {
        let server: ServerId = "00000000000000A1".parse().unwrap();
        assert_eq!(server.to_string(), "00000000000000a1");
        let mut generator = Generator { server: Some(server), shard: 3 };
        let (one, two) = (generator.generate_cid(), generator.generate_cid());
        assert_eq!(one.len(), 16);
        assert_eq!(one[..9], [15, 0, 0, 0, 0, 0, 0, 0, 0xa1]);
        assert_eq!((one[9], two[9]), (3, 3));
        assert_ne!(one[10..], two[10..]);
    }

    #[test]
    fn a_datagram_names_the_shard_of_its_connection() {
        let servers = [None, Some("a1".parse().unwrap()), Some("ab".repeat(15).parse().unwrap())];
        for server in servers {
            let mut generator = Generator { server, shard: 7 };
            let mut datagram = vec![0x40];
            datagram.extend_from_slice(&generator.generate_cid());
            assert_eq!(generator.shard_of(&datagram), Some(7));
            datagram[0] = 0xc0;
            assert_eq!(generator.shard_of(&datagram), None, "a long header");
            assert_eq!(generator.shard_of(&datagram[..1]), None);
        }
    }

    #[test]
    fn the_longest_server_id_leaves_four_octets_of_nonce() {
        let server = Some("ab".repeat(15).parse().unwrap());
        let mut generator = Generator { server, shard: 0 };
        assert_eq!((generator.generate_cid().len(), generator.nonce()), (20, 4));
    }

    #[test]
    fn what_is_no_server_id_is_refused() {
        for bad in ["", "a", "xyzz", "-1", &"00".repeat(16)] {
            assert_eq!(bad.parse::<ServerId>(), Err(BadServerId), "{bad}");
        }
    }
}
