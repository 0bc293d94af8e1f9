//! One-use secrets and their proof over a TLS channel.
//!
//! The one who joins sends HMAC-SHA256(secret, channel binding, context), so that neither a gateway
//! in between nor a recording learns or reuses anything. Never compares byte by byte.

use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::ConnectionCommon;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Length of a proof in bytes.
pub const PROOF_LEN: usize = 32;
/// The label under which the channel binding is exported (RFC 8446 7.5).
pub const BINDING_LABEL: &[u8] = b"EXPORTER-hansa-secret-proof";

/// 32 secret bytes. Shown only inside a token's text.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// A new random secret.
    ///
    /// Errors: the system has no randomness.
    pub fn generate() -> Result<Self, rustls::Error> {
        let mut bytes = [0; 32];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| rustls::Error::FailedToGetRandomBytes)?;
        Ok(Self(bytes))
    }

    /// The secret kept by the controller.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the controller's own store.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        let bytes = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        // The text itself stays out of the message.
        bytes.map(Self).ok_or_else(|| serde::de::Error::custom("a secret has 32 bytes in base64url"))
    }
}

/// What is the same on both ends of one TLS connection and nowhere else.
pub fn channel_binding<D>(connection: &ConnectionCommon<D>) -> Result<[u8; 32], rustls::Error> {
    connection.export_keying_material([0; 32], BINDING_LABEL, None)
}

/// The proof that `secret` is known on the channel with this binding, for exactly this context
/// (for example secret id, id and signing request), whose parts cannot run into each other.
pub fn prove(secret: &Secret, binding: &[u8; 32], context: &[&[u8]]) -> [u8; PROOF_LEN] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &secret.0);
    let tag = hmac::sign(&key, &message(binding, context));
    let mut proof = [0; PROOF_LEN];
    proof.copy_from_slice(tag.as_ref());
    proof
}

/// Whether `proof` is right, in constant time.
pub fn verify_proof(secret: &Secret, binding: &[u8; 32], context: &[&[u8]], proof: &[u8]) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &secret.0);
    hmac::verify(&key, &message(binding, context), proof).is_ok()
}

fn message(binding: &[u8; 32], context: &[&[u8]]) -> Vec<u8> {
    let mut message = binding.to_vec();
    for part in context {
        message.extend_from_slice(&(part.len() as u64).to_be_bytes());
        message.extend_from_slice(part);
    }
    message
}
