//! DNS messages on the wire: questions in, answers out.
//!
//! Called for every packet. Reads the little that decides an answer and refuses the rest by response
//! code; no packet whatever makes it panic (RFC 1035, 6891, 2181, 8482).

pub mod query;
pub mod reply;
pub mod why;

pub use query::{Edns, Query, Refused, parse};
pub use reply::{Head, refuse, write};
pub use why::Why;

/// Most bytes of a UDP answer, whatever the client offers: fits every path (DNS flag day 2020).
pub const UDP_LIMIT: usize = 1_232;
/// Most bytes of a UDP answer to a client without EDNS (RFC 1035 4.2.1).
pub const PLAIN_LIMIT: usize = 512;
/// Most bytes of a TCP answer.
pub const TCP_LIMIT: usize = 65_535;

/// Response codes in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rcode {
    /// No error.
    NoError,
    /// The question cannot be read.
    FormErr,
    /// The server cannot answer now.
    ServFail,
    /// The name does not exist.
    NxDomain,
    /// The operation is not known here.
    NotImp,
    /// The server does not want to answer.
    Refused,
    /// The EDNS version is not known here.
    BadVers,
}

impl Rcode {
    /// All of them.
    pub const ALL: [Rcode; 7] = [
        Rcode::NoError,
        Rcode::FormErr,
        Rcode::ServFail,
        Rcode::NxDomain,
        Rcode::NotImp,
        Rcode::Refused,
        Rcode::BadVers,
    ];

    /// The number (RFC 6895).
    pub fn number(self) -> u16 {
        match self {
            Self::NoError => 0,
            Self::FormErr => 1,
            Self::ServFail => 2,
            Self::NxDomain => 3,
            Self::NotImp => 4,
            Self::Refused => 5,
            Self::BadVers => 16,
        }
    }

    /// The name, as tools print it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoError => "NOERROR",
            Self::FormErr => "FORMERR",
            Self::ServFail => "SERVFAIL",
            Self::NxDomain => "NXDOMAIN",
            Self::NotImp => "NOTIMP",
            Self::Refused => "REFUSED",
            Self::BadVers => "BADVERS",
        }
    }

    /// The code of a finished answer, as far as its header says it.
    pub fn of(answer: &[u8]) -> Self {
        let low = answer.get(3).map_or(2, |byte| u16::from(byte & 15));
        Self::ALL.into_iter().find(|code| code.number() == low).unwrap_or(Self::ServFail)
    }
}
