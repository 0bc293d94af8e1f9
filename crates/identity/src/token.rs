//! Enrolment and invitation tokens, and the proof that a secret is known without sending it.
//!
//! Made by the controller (`hansa enroll` tokens, `hansa peer invite`), read by the server or member
//! that joins. Never prints a secret: `Debug` redacts, only the token text itself holds it.

use std::time::SystemTime;

use hansa_core::code::{Code, trust};
use hansa_core::name::ClusterId;
use hansa_core::spiffe::{SpiffeId, TrustDomain};
use serde::{Deserialize, Serialize};

use crate::bundle::{Bundle, BundleError};
use crate::cert::{self, Fingerprint};

mod secret;
mod text;

pub use secret::{BINDING_LABEL, PROOF_LEN, Secret, channel_binding, prove, verify_proof};

/// Longest token in bytes.
pub const MAX_TOKEN: usize = 64 * 1024;
/// Most addresses of a token.
pub const MAX_ADDRESSES: usize = 32;
/// How long an invitation or enrolment token lives by default, in seconds.
pub const DEFAULT_LIFE: std::time::Duration = std::time::Duration::from_secs(900);

/// Why a token is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a hansa token at all.
    #[error("this is not a hansa token; it begins with hansa1.")]
    NotAToken,
    /// Made by another version.
    #[error("the token has version {0}, this hansa reads version 1")]
    Version(String),
    /// Cut, or changed on the way: the checksum does not match.
    #[error("the token was cut or altered; copy it again, whole")]
    Altered,
    /// Whole, but its content cannot be understood.
    #[error("the token cannot be read: {0}")]
    Content(String),
    /// For something else.
    #[error("this is a token to {found}, expected one to {expected}")]
    Kind {
        /// What it is for.
        found: String,
        /// What was expected.
        expected: &'static str,
    },
    /// Too old.
    #[error("the token expired {0} s ago; make a new one")]
    Expired(u64),
}

impl TokenError {
    /// The code for messages.
    pub fn code(&self) -> Code {
        match self {
            Self::Expired(_) => trust::TOKEN_EXPIRED,
            _ => trust::TOKEN_INVALID,
        }
    }
}

/// Lets one server enrol under one id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnrollToken {
    /// Where the controller listens, `host:port`.
    pub controllers: Vec<String>,
    /// The cluster.
    pub cluster: ClusterId,
    /// The root that must have signed the controller's certificate.
    pub root_sha256: Fingerprint,
    /// The one id that will be signed; it names trust domain, role and id.
    pub id: SpiffeId,
    /// Which secret this is, for the controller to find it.
    pub secret_id: String,
    /// The secret to prove.
    pub secret: Secret,
    /// Last moment, Unix seconds.
    pub expires: u64,
}

/// Lets one member join ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InviteToken {
    /// The cluster that invites.
    pub cluster: ClusterId,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// Where its gateways listen, `host:port`.
    pub gateways: Vec<String>,
    /// Its bundle as SPIFFE JSON.
    pub bundle: String,
    /// Which secret this is, for the controller to find it.
    pub secret_id: String,
    /// The secret to prove.
    pub secret: Secret,
    /// Last moment, Unix seconds.
    pub expires: u64,
}

const ENROLL: &str = "enroll";
const INVITE: &str = "join";

impl EnrollToken {
    /// The token as text, to be handed over once.
    pub fn to_text(&self) -> String {
        text::write(ENROLL, self)
    }

    /// Reads a token and checks that it has not expired at `now`.
    pub fn parse(text: &str, now: SystemTime) -> Result<Self, TokenError> {
        let token: Self = text::read(ENROLL, text)?;
        check_addresses(&token.controllers)?;
        check_secret_id(&token.secret_id)?;
        check_expiry(token.expires, now)?;
        if token.id.role().is_none() {
            return Err(TokenError::Content(format!("{} is no hansa server", token.id)));
        }
        Ok(token)
    }

    /// The trust domain of the id.
    pub fn trust_domain(&self) -> &TrustDomain {
        self.id.trust_domain()
    }
}

impl InviteToken {
    /// The token as text, to be handed over once.
    pub fn to_text(&self) -> String {
        text::write(INVITE, self)
    }

    /// Reads a token and checks its bundle and that it has not expired at `now`.
    pub fn parse(text: &str, now: SystemTime) -> Result<Self, TokenError> {
        let token: Self = text::read(INVITE, text)?;
        check_addresses(&token.gateways)?;
        check_secret_id(&token.secret_id)?;
        token.bundle().map_err(|e| TokenError::Content(e.to_string()))?;
        check_expiry(token.expires, now)?;
        Ok(token)
    }

    /// The bundle of the inviting member.
    pub fn bundle(&self) -> Result<Bundle, BundleError> {
        Bundle::from_json(&self.trust_domain, self.bundle.as_bytes())
    }
}

/// A random id by which the controller finds a secret: 16 hexadecimal digits, not secret.
pub fn new_secret_id() -> String {
    let mut bytes = [0_u8; 8];
    // Without randomness no secret could be made either; `Secret::generate` says so.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    cert::hex(&bytes)
}

fn check_addresses(addresses: &[String]) -> Result<(), TokenError> {
    let good = |address: &String| {
        let port = address
            .rsplit_once(':')
            .and_then(|(host, port)| port.parse::<u16>().ok().filter(|port| *port != 0 && !host.is_empty()));
        address.len() <= 300 && address.bytes().all(|byte| byte.is_ascii_graphic()) && port.is_some()
    };
    if addresses.is_empty() || addresses.len() > MAX_ADDRESSES || !addresses.iter().all(good) {
        return Err(TokenError::Content("the addresses must be 1 to 32 of host:port".to_owned()));
    }
    Ok(())
}

fn check_secret_id(id: &str) -> Result<(), TokenError> {
    if id.is_empty() || id.len() > 64 || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(TokenError::Content("the secret id is not valid".to_owned()));
    }
    Ok(())
}

fn check_expiry(expires: u64, now: SystemTime) -> Result<(), TokenError> {
    match cert::unix(now).checked_sub(expires) {
        Some(late) if late > 0 => Err(TokenError::Expired(late)),
        _ => Ok(()),
    }
}
