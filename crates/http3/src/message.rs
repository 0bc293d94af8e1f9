//! Request and response heads and trailers: what a field section means (RFC
//! 9114 section 4) and which ones are malformed. Pure; used by the streams.
//! Cookie fields are left as they came (RFC 9114 4.2.1 joins them only for
//! HTTP/1.1).

use http::header::{AUTHORIZATION, CONTENT_LENGTH, COOKIE, PROXY_AUTHORIZATION, SET_COOKIE, TE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::qpack::{Encoder, Field};

mod request;

pub use request::RequestHead;

/// Why a message is malformed, in words.
pub type Malformed = &'static str;

/// The head of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHead {
    /// `:status`.
    pub status: StatusCode,
    /// The other fields.
    pub headers: HeaderMap,
}

impl ResponseHead {
    /// A head without fields.
    pub fn new(status: StatusCode) -> Self {
        let headers = HeaderMap::new();
        Self { status, headers }
    }

    /// Encodes the field section.
    pub fn encode(&self) -> Result<Encoder, Malformed> {
        let mut encoder = Encoder::default();
        encoder.field(":status", self.status.as_str().as_bytes(), false);
        encode_headers(&self.headers, &mut encoder)?;
        Ok(encoder)
    }

    /// Reads a field section. 101 does not exist in HTTP/3.
    pub fn decode(fields: &[Field<'_>]) -> Result<Self, Malformed> {
        let mut status = None;
        let headers = decode_headers(fields, |name, value| match name {
            ":status" if status.is_none() && value.len() == 3 => {
                let code = StatusCode::from_bytes(value.as_bytes());
                status = Some(code.map_err(|_| "bad :status")?);
                Ok(())
            }
            _ => Err("unexpected pseudo-header in a response"),
        })?;
        let status = status.ok_or("response without :status")?;
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return Err("status 101 in HTTP/3");
        }
        Ok(Self { status, headers })
    }
}

/// Encodes trailers.
pub fn encode_trailers(trailers: &HeaderMap) -> Result<Encoder, Malformed> {
    let mut encoder = Encoder::default();
    encode_headers(trailers, &mut encoder)?;
    Ok(encoder)
}

/// Reads trailers, which have no pseudo-headers.
pub fn decode_trailers(fields: &[Field<'_>]) -> Result<HeaderMap, Malformed> {
    decode_headers(fields, |_, _| Err("pseudo-header in trailers"))
}

/// The announced length of the content; several fields must agree.
pub fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut length = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        let digits = value.as_bytes();
        let text = std::str::from_utf8(digits)
            .ok()
            .filter(|_| (1..=19).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit));
        let parsed: Option<u64> = text.and_then(|text| text.parse().ok());
        let parsed = parsed.ok_or("bad content-length")?;
        if length.is_some_and(|other| other != parsed) {
            return Err("content-length given twice");
        }
        length = Some(parsed);
    }
    Ok(length)
}

fn encode_headers(headers: &HeaderMap, encoder: &mut Encoder) -> Result<(), Malformed> {
    for (name, value) in headers {
        if is_connection_specific(name.as_str(), value.as_bytes()) {
            return Err("connection-specific field");
        }
        let secret = value.is_sensitive() || is_secret(name);
        encoder.field(name.as_str(), value.as_bytes(), secret);
    }
    Ok(())
}

/// Checks every field; pseudo-headers come first and go to `pseudo`.
fn decode_headers(
    fields: &[Field<'_>],
    mut pseudo: impl FnMut(&str, &str) -> Result<(), Malformed>,
) -> Result<HeaderMap, Malformed> {
    let mut headers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        if field.name.starts_with(b":") {
            if !headers.is_empty() {
                return Err("pseudo-header after a field");
            }
            let name = std::str::from_utf8(&field.name).map_err(|_| "bad pseudo-header")?;
            let value = std::str::from_utf8(&field.value).map_err(|_| "bad pseudo-header")?;
            pseudo(name, value)?;
            continue;
        }
        // `from_lowercase` refuses upper case, as RFC 9114 4.2 demands.
        let name = HeaderName::from_lowercase(&field.name).map_err(|_| "bad field name")?;
        if is_connection_specific(name.as_str(), &field.value) {
            return Err("connection-specific field");
        }
        let mut value = HeaderValue::from_bytes(&field.value).map_err(|_| "bad field value")?;
        value.set_sensitive(field.secret || is_secret(&name));
        let appended = headers.try_append(name, value);
        appended.map_err(|_| "too many fields")?;
    }
    Ok(headers)
}

/// RFC 9114 4.2: what HTTP/1.1 uses to manage its connections.
fn is_connection_specific(name: &str, value: &[u8]) -> bool {
    match name {
        "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade" => true,
        _ => name == TE.as_str() && value != b"trailers",
    }
}

/// Fields whose values never belong in a log or a compression table.
fn is_secret(name: &HeaderName) -> bool {
    [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE, SET_COOKIE].contains(name)
}

#[cfg(test)]
mod tests;
