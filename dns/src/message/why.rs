//! Why there is no answer, for people: an extended DNS error (RFC 8914) beside the response code.
//!
//! Said by the responder and the forwarder; `dig` prints it. A client without EDNS gets the response code alone.

use hansa_core::code::{Code, dns};

use super::Rcode;

/// Why a question gets no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    /// No zone has come yet: nobody knows what exists.
    NoZone,
    /// Names outside the zone are not asked for.
    ForwardOff,
    /// They are not asked for on behalf of this client.
    ForwardRefused,
    /// This client asks for too many of them.
    TooOften,
    /// All clients together do.
    Full,
    /// An upstream leads back here.
    ForwardLoop,
    /// No upstream gave an answer in time.
    ForwardFailed,
}

impl Why {
    /// All of them.
    pub const ALL: [Why; 7] = [
        Why::NoZone,
        Why::ForwardOff,
        Why::ForwardRefused,
        Why::TooOften,
        Why::Full,
        Why::ForwardLoop,
        Why::ForwardFailed,
    ];

    /// The response code that goes with it.
    pub fn rcode(self) -> Rcode {
        match self {
            Self::NoZone | Self::Full | Self::ForwardLoop | Self::ForwardFailed => Rcode::ServFail,
            Self::ForwardOff | Self::ForwardRefused | Self::TooOften => Rcode::Refused,
        }
    }

    /// The registered number (RFC 8914 5.2).
    pub fn info(self) -> u16 {
        match self {
            // Other.
            Self::TooOften | Self::Full | Self::ForwardLoop => 0,
            // Not Ready.
            Self::NoZone => 14,
            // Prohibited.
            Self::ForwardRefused => 18,
            // Not Authoritative.
            Self::ForwardOff => 20,
            // No Reachable Authority.
            Self::ForwardFailed => 22,
        }
    }

    /// The message code.
    pub fn code(self) -> Code {
        match self {
            Self::NoZone => dns::ZONE_MISSING,
            Self::ForwardOff => dns::FORWARD_OFF,
            Self::ForwardRefused => dns::FORWARD_REFUSED,
            Self::TooOften | Self::Full => dns::FORWARD_LIMIT,
            Self::ForwardLoop => dns::FORWARD_LOOP,
            Self::ForwardFailed => dns::FORWARD_FAILED,
        }
    }

    /// The text beside the number: short, as an answer must not be much larger than its question.
    pub fn text(self) -> String {
        let code = self.code();
        format!("{code} {}", code.title)
    }
}
