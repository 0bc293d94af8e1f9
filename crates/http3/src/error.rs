//! What can go wrong, by reach: a [`Violation`] is found by the parsers, a
//! [`StreamError`] ends one request, a [`ConnectionError`] ends all of them.

use crate::code::Code;

/// How far a broken rule reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Only the stream it was seen on.
    Stream,
    /// The whole connection.
    Connection,
}

/// A rule the peer broke, as found by a parser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {reason}")]
pub struct Violation {
    /// The code to tell the peer.
    pub code: Code,
    /// What was wrong, in words.
    pub reason: &'static str,
    /// What has to end.
    pub scope: Scope,
}

impl Violation {
    /// One that ends the connection.
    pub const fn connection(code: Code, reason: &'static str) -> Self {
        let scope = Scope::Connection;
        Self { code, reason, scope }
    }

    /// One that ends a single stream.
    pub const fn stream(code: Code, reason: &'static str) -> Self {
        let scope = Scope::Stream;
        Self { code, reason, scope }
    }
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionError {
    /// The peer broke a rule and was told so.
    #[error("peer broke the protocol: {0}")]
    Violation(Violation),
    /// The peer closed with this code.
    #[error("peer closed the connection: {code} {reason}")]
    Closed {
        /// Its code; [`Code::H3_NO_ERROR`] is an orderly end.
        code: Code,
        /// Its words, as they came.
        reason: String,
    },
    /// The QUIC connection ended by itself: timeout, reset, local close.
    #[error(transparent)]
    Quic(quinn::ConnectionError),
}

impl From<quinn::ConnectionError> for ConnectionError {
    fn from(error: quinn::ConnectionError) -> Self {
        match error {
            quinn::ConnectionError::ApplicationClosed(close) => Self::Closed {
                code: close.error_code.into(),
                reason: String::from_utf8_lossy(&close.reason).into_owned(),
            },
            other => Self::Quic(other),
        }
    }
}

/// Why a stream ended, or a step on it failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The peer reset its sending side.
    #[error("reset by peer: {0}")]
    Reset(Code),
    /// The peer reads no more of what we send.
    #[error("stopped by peer: {0}")]
    Stopped(Code),
    /// The peer vouches that it processed nothing of this request
    /// (`H3_REQUEST_REJECTED`, or beyond its GOAWAY): safe to send elsewhere.
    #[error("rejected unprocessed by peer")]
    Rejected,
    /// The peer's message is malformed or over a limit; the stream was reset.
    #[error("{0}")]
    Violation(Violation),
    /// What we were asked to send is not expressible.
    #[error("cannot be sent: {0}")]
    Unsendable(&'static str),
    /// Already finished, reset or stopped on this side.
    #[error("stream already closed on this side")]
    ClosedLocally,
    /// The whole connection is gone.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
}

impl StreamError {
    /// The error code that tells the peer's intent, if it gave one.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Reset(code) | Self::Stopped(code) => Some(*code),
            Self::Rejected => Some(Code::H3_REQUEST_REJECTED),
            Self::Violation(violation) => Some(violation.code),
            _ => None,
        }
    }
}

impl From<quinn::WriteError> for StreamError {
    fn from(error: quinn::WriteError) -> Self {
        match error {
            quinn::WriteError::Stopped(code) if Code::from(code) == Code::H3_REQUEST_REJECTED => {
                Self::Rejected
            }
            quinn::WriteError::Stopped(code) => Self::Stopped(code.into()),
            quinn::WriteError::ConnectionLost(error) => Self::Connection(error.into()),
            quinn::WriteError::ClosedStream | quinn::WriteError::ZeroRttRejected => Self::ClosedLocally,
        }
    }
}

impl From<quinn::ReadError> for StreamError {
    fn from(error: quinn::ReadError) -> Self {
        match error {
            quinn::ReadError::Reset(code) if Code::from(code) == Code::H3_REQUEST_REJECTED => Self::Rejected,
            quinn::ReadError::Reset(code) => Self::Reset(code.into()),
            quinn::ReadError::ConnectionLost(error) => Self::Connection(error.into()),
            _ => Self::ClosedLocally,
        }
    }
}

/// Why a request could not be opened. Nothing of it reached the peer, except
/// with [`OpenError::Stream`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The peer (or this side) sent GOAWAY: open elsewhere.
    #[error("connection is going away")]
    GoingAway,
    /// This side of the connection serves requests and makes none.
    #[error("this side of the connection makes no requests")]
    WrongRole,
    /// The peer does not do extended CONNECT (RFC 9220).
    #[error("peer does not support extended CONNECT")]
    NoExtendedConnect,
    /// The head is not a valid request.
    #[error("malformed request: {0}")]
    Malformed(&'static str),
    /// The head is larger than the peer accepts.
    #[error("request head of {size} bytes exceeds the peer's limit of {limit}")]
    TooLarge {
        /// Size by the rule of RFC 9114 4.2.2.
        size: u64,
        /// What the peer announced.
        limit: u64,
    },
    /// Failed while writing.
    #[error(transparent)]
    Stream(StreamError),
    /// The whole connection is gone.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
}

impl From<StreamError> for OpenError {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Connection(error) => Self::Connection(error),
            other => Self::Stream(other),
        }
    }
}
