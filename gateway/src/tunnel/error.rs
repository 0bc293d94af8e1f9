//! What can go wrong with a tunnel, by operation.
//!
//! Callers ask an [`OpenError`] or [`StreamError`] one thing above all: was anything sent? Only what
//! was certainly not sent may be sent again elsewhere.

use std::io;
use std::net::SocketAddr;

use hansa_core::code::{Code as Message, gateway};
use hansa_core::name::ClusterId;
use hansa_http3 as http3;
use hansa_http3::Code;

/// Why the tunnels cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is taken or not ours.
    #[error("cannot listen on {lane} {address}: {source}")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// `udp` or `tcp`.
        lane: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// No UDP socket for dialling.
    #[error("cannot open a socket for dialling: {0}")]
    Dial(io::Error),
    /// The TLS configuration does not fit QUIC.
    #[error("the TLS configuration cannot be used for QUIC: {0}")]
    Tls(String),
}

/// Why a request could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// No usable tunnel to that peer (or to the gateway asked for).
    #[error("no usable tunnel to {0}")]
    NotConnected(ClusterId),
    /// The peer said it took nothing of it.
    #[error("rejected unprocessed by the peer")]
    Rejected,
    /// The request cannot be expressed, or is larger than the peer takes.
    #[error("the request cannot be sent: {0}")]
    Invalid(String),
    /// The path was lost while it was being sent.
    #[error(transparent)]
    Stream(#[from] StreamError),
}

impl OpenError {
    /// Nothing of the request reached anybody: it may be sent elsewhere.
    pub fn sent_nothing(&self) -> bool {
        match self {
            Self::NotConnected(_) | Self::Rejected | Self::Invalid(_) => true,
            Self::Stream(error) => error.sent_nothing(),
        }
    }
}

/// Why a stream ended early.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The peer vouches that it processed nothing of this request: it may be sent elsewhere.
    #[error("rejected unprocessed by the peer")]
    Rejected,
    /// The tunnel below ended.
    #[error("{0}")]
    Lost(Cut),
    /// The peer ended this stream with a code.
    #[error("reset by the peer: {0}")]
    Reset(Code),
    /// The peer broke the protocol on this stream, or we misused it.
    #[error("{0}")]
    Protocol(String),
}

impl StreamError {
    /// Nothing of the request was processed: it may be sent elsewhere.
    pub fn sent_nothing(&self) -> bool {
        matches!(self, Self::Rejected)
    }

    /// The code to pass on to whoever is behind us.
    pub fn code(&self) -> Code {
        match self {
            Self::Rejected => Code::H3_REQUEST_REJECTED,
            Self::Lost(_) => Code::H3_CONNECT_ERROR,
            Self::Reset(code) => *code,
            Self::Protocol(_) => Code::H3_MESSAGE_ERROR,
        }
    }
}

/// Why a whole tunnel ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cut {
    /// Nothing came from the other side any more, or its process died.
    #[error("{code} path lost: {0}", code = gateway::PATH_LOST)]
    Path(String),
    /// The drain deadline of either side passed.
    #[error("{code} drain deadline", code = gateway::DRAIN_DEADLINE)]
    Drain,
    /// The peer was removed, or its certificate is no longer good.
    #[error("{code} peer removed: {0}", code = gateway::PEER_REMOVED)]
    Removed(String),
    /// The other side did not take our certificate, and read nothing that came behind it.
    #[error("{code} refused by the peer: {0}", code = gateway::PEER_REMOVED)]
    Refused(String),
    /// One side broke the protocol.
    #[error("{code} {0}", code = gateway::PROTOCOL_VIOLATION)]
    Protocol(String),
    /// A limit was reached.
    #[error("{code} {0}", code = gateway::LIMIT_REACHED)]
    Limit(String),
}

impl Cut {
    /// The message code.
    pub fn message(&self) -> Message {
        match self {
            Self::Path(_) => gateway::PATH_LOST,
            Self::Drain => gateway::DRAIN_DEADLINE,
            Self::Removed(_) | Self::Refused(_) => gateway::PEER_REMOVED,
            Self::Protocol(_) => gateway::PROTOCOL_VIOLATION,
            Self::Limit(_) => gateway::LIMIT_REACHED,
        }
    }

    /// The code that closes the connection.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Path(_) => Code::H3_INTERNAL_ERROR,
            Self::Drain => Code::H3_NO_ERROR,
            Self::Removed(_) => Code::H3_CONNECT_ERROR,
            Self::Refused(_) => Code::H3_REQUEST_REJECTED,
            Self::Protocol(_) => Code::H3_GENERAL_PROTOCOL_ERROR,
            Self::Limit(_) => Code::H3_EXCESSIVE_LOAD,
        }
    }

    /// What the other side says it closed for; its words begin with the message code.
    fn told(code: Code, reason: &str) -> Self {
        let says = |message: Message| reason.starts_with(&message.to_string());
        match () {
            () if code == Code::H3_REQUEST_REJECTED => Self::Refused(plain(reason)),
            () if says(gateway::DRAIN_DEADLINE) => Self::Drain,
            () if says(gateway::PEER_REMOVED) => Self::Removed("said by the peer".to_owned()),
            () if says(gateway::LIMIT_REACHED) => Self::Limit("said by the peer".to_owned()),
            () => Self::Path(format!("closed by the peer: {code} {}", plain(reason))),
        }
    }
}

/// QUIC's error codes for alerts of TLS (RFC 9001 4.8): the handshake did not succeed.
const CRYPTO: std::ops::RangeInclusive<u64> = 0x100..=0x1ff;

/// Words that the other side may have chosen: shortened, and without control characters.
pub(crate) fn plain(words: &str) -> String {
    words.chars().take(200).flat_map(char::escape_debug).collect()
}

impl From<http3::ConnectionError> for Cut {
    fn from(error: http3::ConnectionError) -> Self {
        match error {
            http3::ConnectionError::Violation(violation) => Self::Protocol(violation.to_string()),
            http3::ConnectionError::Closed { code, reason } => Self::told(code, &reason),
            http3::ConnectionError::Quic(quinn::ConnectionError::ConnectionClosed(close))
                if CRYPTO.contains(&u64::from(close.error_code)) =>
            {
                Self::Refused(plain(&close.to_string()))
            }
            http3::ConnectionError::Quic(error) => Self::Path(plain(&error.to_string())),
        }
    }
}

impl From<http3::StreamError> for StreamError {
    fn from(error: http3::StreamError) -> Self {
        match error {
            http3::StreamError::Reset(code) | http3::StreamError::Stopped(code) => Self::Reset(code),
            http3::StreamError::Rejected => Self::Rejected,
            http3::StreamError::Connection(error) => Self::Lost(error.into()),
            other => Self::Protocol(other.to_string()),
        }
    }
}

impl From<h2::Error> for StreamError {
    fn from(error: h2::Error) -> Self {
        let reason = error.reason();
        match reason {
            Some(h2::Reason::REFUSED_STREAM) if error.is_reset() => Self::Rejected,
            Some(reason) if error.is_reset() => Self::Reset(from_h2(reason)),
            // An orderly GOAWAY touches only the streams that the peer did not take.
            Some(h2::Reason::NO_ERROR) if error.is_go_away() && error.is_remote() => Self::Rejected,
            _ if error.is_library() => Self::Lost(Cut::Protocol(plain(&error.to_string()))),
            _ => Self::Lost(Cut::Path(plain(&error.to_string()))),
        }
    }
}

/// The HTTP/2 code that means the same.
pub(crate) fn to_h2(code: Code) -> h2::Reason {
    match code {
        Code::H3_NO_ERROR => h2::Reason::NO_ERROR,
        Code::H3_REQUEST_REJECTED => h2::Reason::REFUSED_STREAM,
        Code::H3_REQUEST_CANCELLED | Code::H3_REQUEST_INCOMPLETE => h2::Reason::CANCEL,
        Code::H3_CONNECT_ERROR => h2::Reason::CONNECT_ERROR,
        Code::H3_EXCESSIVE_LOAD => h2::Reason::ENHANCE_YOUR_CALM,
        Code::H3_INTERNAL_ERROR => h2::Reason::INTERNAL_ERROR,
        Code::H3_MESSAGE_ERROR | Code::H3_GENERAL_PROTOCOL_ERROR => h2::Reason::PROTOCOL_ERROR,
        _ => h2::Reason::CANCEL,
    }
}

/// The HTTP/3 code that means the same.
pub(crate) fn from_h2(reason: h2::Reason) -> Code {
    match reason {
        h2::Reason::NO_ERROR => Code::H3_NO_ERROR,
        h2::Reason::REFUSED_STREAM => Code::H3_REQUEST_REJECTED,
        h2::Reason::CANCEL | h2::Reason::STREAM_CLOSED => Code::H3_REQUEST_CANCELLED,
        h2::Reason::CONNECT_ERROR => Code::H3_CONNECT_ERROR,
        h2::Reason::ENHANCE_YOUR_CALM => Code::H3_EXCESSIVE_LOAD,
        h2::Reason::PROTOCOL_ERROR => Code::H3_MESSAGE_ERROR,
        _ => Code::H3_INTERNAL_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_keep_their_meaning_over_both_lanes() {
        let codes = [
            Code::H3_NO_ERROR,
            Code::H3_REQUEST_REJECTED,
            Code::H3_REQUEST_CANCELLED,
            Code::H3_CONNECT_ERROR,
            Code::H3_EXCESSIVE_LOAD,
            Code::H3_INTERNAL_ERROR,
            Code::H3_MESSAGE_ERROR,
        ];
        for code in codes {
            assert_eq!(from_h2(to_h2(code)), code);
        }
    }

    #[test]
    fn what_the_peer_says_in_closing_is_understood() {
        for cut in [Cut::Drain, Cut::Removed("x".into()), Cut::Limit("y".into())] {
            assert_eq!(Cut::told(cut.code(), &cut.to_string()).message(), cut.message());
        }
        let cut = Cut::told(Code::H3_NO_ERROR, "\u{1b}[31m");
        assert!(!cut.to_string().contains('\u{1b}'));
    }
}
