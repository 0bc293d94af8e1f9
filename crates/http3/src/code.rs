//! Error codes of HTTP/3 (RFC 9114 8.1), QPACK (RFC 9204 6) and HTTP datagrams
//! (RFC 9297 5.2), as sent in resets and connection closes. Used everywhere in
//! this crate and by its callers; knows nothing about connections.

use std::fmt;

/// An HTTP/3 error code. Unknown codes are kept as they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(u64);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $value:expr;)*) => {
        impl Code {
            $($(#[$doc])* pub const $name: Self = Self($value);)*

            /// The registered name, if there is one.
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    /// Malformed HTTP datagram or capsule protocol misuse.
    H3_DATAGRAM_ERROR = 0x33;
    /// No error: closing without one, or the rest of a request is not needed.
    H3_NO_ERROR = 0x100;
    /// The peer broke the protocol in a way no other code names.
    H3_GENERAL_PROTOCOL_ERROR = 0x101;
    /// A failure inside this endpoint.
    H3_INTERNAL_ERROR = 0x102;
    /// The peer opened a stream it may not open.
    H3_STREAM_CREATION_ERROR = 0x103;
    /// A control or QPACK stream was closed.
    H3_CLOSED_CRITICAL_STREAM = 0x104;
    /// A frame came where it is not allowed.
    H3_FRAME_UNEXPECTED = 0x105;
    /// A frame's layout or size is wrong.
    H3_FRAME_ERROR = 0x106;
    /// The peer makes work beyond a limit.
    H3_EXCESSIVE_LOAD = 0x107;
    /// A stream or push id was used wrongly.
    H3_ID_ERROR = 0x108;
    /// A SETTINGS payload is wrong.
    H3_SETTINGS_ERROR = 0x109;
    /// The control stream did not begin with SETTINGS.
    H3_MISSING_SETTINGS = 0x10a;
    /// Not processed at all: safe to send again elsewhere.
    H3_REQUEST_REJECTED = 0x10b;
    /// Given up by either side.
    H3_REQUEST_CANCELLED = 0x10c;
    /// The stream ended before a whole request.
    H3_REQUEST_INCOMPLETE = 0x10d;
    /// Malformed request or response.
    H3_MESSAGE_ERROR = 0x10e;
    /// The TCP connection behind a CONNECT was reset or failed.
    H3_CONNECT_ERROR = 0x10f;
    /// To be served over HTTP/1.1 instead.
    H3_VERSION_FALLBACK = 0x110;
    /// A field section could not be decoded.
    QPACK_DECOMPRESSION_FAILED = 0x200;
    /// The peer's encoder stream used what was not granted.
    QPACK_ENCODER_STREAM_ERROR = 0x201;
    /// The peer's decoder stream acknowledged what was not sent.
    QPACK_DECODER_STREAM_ERROR = 0x202;
}

impl Code {
    /// The number on the wire.
    pub const fn value(self) -> u64 {
        self.0
    }

    /// For the QUIC layer.
    pub fn quic(self) -> quinn::VarInt {
        quinn::VarInt::from_u64(self.0).unwrap_or(quinn::VarInt::MAX)
    }
}

impl From<quinn::VarInt> for Code {
    fn from(value: quinn::VarInt) -> Self {
        Self(value.into_inner())
    }
}

impl From<u64> for Code {
    fn from(value: u64) -> Self {
        Self(value)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        assert_eq!(Code::H3_CONNECT_ERROR.to_string(), "H3_CONNECT_ERROR");
        assert_eq!(Code::from(0x10f), Code::H3_CONNECT_ERROR);
        assert_eq!(Code::from(0x4242).to_string(), "0x4242");
        assert_eq!(Code::H3_REQUEST_REJECTED.quic().into_inner(), 0x10b);
    }
}
