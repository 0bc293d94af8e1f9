//! The outer form of a token: `hansa1.` base64url(JSON) `.` checksum.
//!
//! The checksum (eight bytes of SHA-256) finds a token that was cut or altered in copying; it
//! protects against nobody. Never logs what it reads.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{MAX_TOKEN, TokenError};
use crate::cert::Fingerprint;

const PREFIX: &str = "hansa";
const VERSION: &str = "1";
const CHECKSUM: usize = 8;

pub(super) fn write<T: Serialize>(kind: &str, token: &T) -> String {
    let mut value = serde_json::to_value(token).unwrap_or_default();
    if let Value::Object(map) = &mut value {
        map.insert("kind".to_owned(), Value::from(kind));
    }
    let body = URL_SAFE_NO_PAD.encode(value.to_string());
    let sum = checksum(&body);
    format!("{PREFIX}{VERSION}.{body}.{sum}")
}

pub(super) fn read<T: DeserializeOwned>(kind: &'static str, text: &str) -> Result<T, TokenError> {
    let text = text.trim();
    let rest = text.strip_prefix(PREFIX).ok_or(TokenError::NotAToken)?;
    if rest.len() > MAX_TOKEN {
        return Err(TokenError::Altered);
    }
    let (version, rest) = rest.split_once('.').ok_or(TokenError::Altered)?;
    if version.is_empty() || version.len() > 4 || !version.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(TokenError::NotAToken);
    }
    if version != VERSION {
        return Err(TokenError::Version(version.to_owned()));
    }
    let (body, sum) = rest.split_once('.').ok_or(TokenError::Altered)?;
    if checksum(body) != sum {
        return Err(TokenError::Altered);
    }
    let json = URL_SAFE_NO_PAD.decode(body).map_err(|_| TokenError::Altered)?;
    let mut value: Value = serde_json::from_slice(&json).map_err(|e| content(&e))?;
    let found = match value.as_object_mut().and_then(|map| map.remove("kind")) {
        Some(Value::String(found)) => found,
        _ => return Err(TokenError::Content("its kind is missing".to_owned())),
    };
    if found != kind {
        let found = found.chars().take(20).flat_map(char::escape_debug).collect();
        return Err(TokenError::Kind { found, expected: kind });
    }
    serde_json::from_value(value).map_err(|e| content(&e))
}

fn content(error: &serde_json::Error) -> TokenError {
    // The category only: the words of the error may quote the secret.
    TokenError::Content(format!("{:?} error in its JSON", error.classify()))
}

fn checksum(body: &str) -> String {
    URL_SAFE_NO_PAD.encode(&Fingerprint::of(body.as_bytes()).as_bytes()[..CHECKSUM])
}
