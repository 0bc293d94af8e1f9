//! Why a server could not start or connect, with the code and the next step where there is one.
//!
//! Shown by the products; holds no secret.

use std::io;
use std::time::Duration;

use hansa_core::code::{Code, trust};
use hansa_core::name::ClusterId;
use hansa_core::spiffe::SpiffeId;
use hansa_identity::store::IdentityError;
use hansa_identity::token::TokenError;
use hansa_runtime::files::FileError;

/// Why no link could be made. Every one is final: trying again changes nothing.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Not enrolled, and nothing to enrol with.
    #[error("this server is not enrolled and has no enrolment token")]
    NoCredential,
    /// The token cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The token is for another server.
    #[error("the token is for {token}, this server is {own}")]
    OtherToken {
        /// In the token.
        token: SpiffeId,
        /// This server.
        own: SpiffeId,
    },
    /// The token is for another cluster.
    #[error("the token is for cluster {token}, this server belongs to {own}")]
    OtherCluster {
        /// In the token.
        token: ClusterId,
        /// Configured.
        own: ClusterId,
    },
    /// The folder holds another server's identity.
    #[error("the state folder holds the identity of {found}, expected {expected}")]
    OtherIdentity {
        /// On disk.
        found: SpiffeId,
        /// This server.
        expected: SpiffeId,
    },
    /// The controller refused for good.
    #[error("enrolment refused by the controller: {0}")]
    Refused(String),
    /// The answer of the controller breaks a rule.
    #[error("the controller's answer cannot be used: {0}")]
    Answer(String),
    /// No controller address.
    #[error("no controller address: set `controller`")]
    NoController,
    /// An address is not `host:port`.
    #[error("controller address \"{0}\" is not host:port")]
    Address(String),
    /// Disk.
    #[error(transparent)]
    Store(IdentityError),
    /// Disk.
    #[error(transparent)]
    File(#[from] FileError),
    /// Shut down before the enrolment succeeded.
    #[error("shut down before the enrolment succeeded")]
    Cancelled,
}

impl StartError {
    /// The code for messages, where there is one.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Token(error) => Some(error.code()),
            Self::NoCredential | Self::OtherToken { .. } | Self::OtherCluster { .. } | Self::Refused(_) => {
                Some(trust::ENROL_REFUSED)
            }
            Self::Store(IdentityError::Store(error)) => Some(error.code()),
            _ => None,
        }
    }
}

/// Why a connection to a controller failed. The last address tried speaks for all.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name does not resolve.
    #[error("{address}: {source}")]
    Resolve {
        /// Configured.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// No TCP connection.
    #[error("{address}: {source}")]
    Dial {
        /// Configured.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// TLS refused, with the verifier's reason.
    #[error("{address}: {reason}")]
    Tls {
        /// Configured.
        address: String,
        /// Why.
        reason: String,
    },
    /// Too late.
    #[error("{address}: no connection within {limit:?}")]
    Timeout {
        /// Configured.
        address: String,
        /// The limit.
        limit: Duration,
    },
}
