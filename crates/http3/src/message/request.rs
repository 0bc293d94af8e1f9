//! The head of a request: CONNECT (RFC 9114 4.4), extended CONNECT with any
//! `:protocol` (RFC 9220) and ordinary requests, with the rules that make one
//! malformed (RFC 9114 4.3.1). Pure.

use http::header::HOST;
use http::{HeaderMap, Method};

use super::{Malformed, decode_headers, encode_headers};
use crate::qpack::{Encoder, Field};

/// The head of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHead {
    /// `:method`.
    pub method: Method,
    /// `:scheme`; absent for plain CONNECT.
    pub scheme: Option<String>,
    /// `:authority`, `host:port` for CONNECT.
    pub authority: Option<String>,
    /// `:path`; absent for plain CONNECT.
    pub path: Option<String>,
    /// `:protocol` of an extended CONNECT.
    pub protocol: Option<String>,
    /// The other fields.
    pub headers: HeaderMap,
}

impl RequestHead {
    /// A plain CONNECT to `host:port`.
    pub fn connect(authority: impl Into<String>) -> Self {
        Self {
            method: Method::CONNECT,
            scheme: None,
            authority: Some(authority.into()),
            path: None,
            protocol: None,
            headers: HeaderMap::new(),
        }
    }

    /// An ordinary `https` request.
    pub fn new(method: Method, authority: impl Into<String>, path: impl Into<String>) -> Self {
        Self {
            method,
            scheme: Some("https".to_owned()),
            authority: Some(authority.into()),
            path: Some(path.into()),
            protocol: None,
            headers: HeaderMap::new(),
        }
    }

    /// An extended CONNECT, for instance with `connect-udp`.
    pub fn extended_connect(
        protocol: impl Into<String>,
        authority: impl Into<String>,
        path: impl Into<String>,
    ) -> Self {
        Self { protocol: Some(protocol.into()), ..Self::new(Method::CONNECT, authority, path) }
    }

    /// Whether a 2xx turns the stream into a tunnel.
    pub fn is_connect(&self) -> bool {
        self.method == Method::CONNECT
    }

    /// Checks the head and encodes its field section.
    pub fn encode(&self) -> Result<Encoder, Malformed> {
        self.check()?;
        let mut encoder = Encoder::default();
        let mut put = |name, value: Option<&String>| {
            if let Some(value) = value {
                encoder.field(name, value.as_bytes(), false);
            }
        };
        let method = self.method.as_str().to_owned();
        put(":method", Some(&method));
        put(":scheme", self.scheme.as_ref());
        put(":authority", self.authority.as_ref());
        put(":path", self.path.as_ref());
        put(":protocol", self.protocol.as_ref());
        encode_headers(&self.headers, &mut encoder)?;
        Ok(encoder)
    }

    /// Reads and checks a field section.
    pub fn decode(fields: &[Field<'_>]) -> Result<Self, Malformed> {
        let mut method = None;
        let (mut scheme, mut authority, mut path, mut protocol) = (None, None, None, None);
        let headers = decode_headers(fields, |name, value| {
            let slot = match name {
                ":method" => &mut method,
                ":scheme" => &mut scheme,
                ":authority" => &mut authority,
                ":path" => &mut path,
                ":protocol" => &mut protocol,
                _ => return Err("unknown pseudo-header in a request"),
            };
            match slot.replace(value.to_owned()) {
                None => Ok(()),
                Some(_) => Err("pseudo-header given twice"),
            }
        })?;
        let method = method.ok_or("request without :method")?;
        let head = Self {
            method: Method::from_bytes(method.as_bytes()).map_err(|_| "bad :method")?,
            scheme,
            authority,
            path,
            protocol,
            headers,
        };
        head.check()?;
        Ok(head)
    }

    /// The rules for sent and received heads alike.
    fn check(&self) -> Result<(), Malformed> {
        let parts = [&self.scheme, &self.authority, &self.path, &self.protocol];
        if parts.into_iter().flatten().any(|value| !is_plain(value)) {
            return Err("bad character in a pseudo-header");
        }
        if self.protocol.is_some() && !self.is_connect() {
            return Err(":protocol without CONNECT");
        }
        if self.is_connect() && self.protocol.is_none() {
            return self.check_plain_connect();
        }
        let scheme = self.scheme.as_deref().ok_or("request without :scheme")?;
        let path = self.path.as_deref().ok_or("request without :path")?;
        if matches!(scheme, "http" | "https") {
            let star = path == "*" && self.method == Method::OPTIONS;
            if !path.starts_with('/') && !star {
                return Err("bad :path");
            }
            self.check_authority()?;
        }
        Ok(())
    }

    fn check_plain_connect(&self) -> Result<(), Malformed> {
        if self.scheme.is_some() || self.path.is_some() {
            return Err(":scheme or :path in CONNECT");
        }
        let authority = self.authority.as_deref().unwrap_or_default();
        let (host, port) = authority.rsplit_once(':').ok_or("CONNECT without a port")?;
        if host.is_empty() || host.contains('@') || port.parse::<u16>().is_err() {
            return Err("bad :authority in CONNECT");
        }
        Ok(())
    }

    fn check_authority(&self) -> Result<(), Malformed> {
        let mut hosts = self.headers.get_all(HOST).iter();
        let host = hosts.next().map(|value| value.as_bytes());
        if hosts.next().is_some() {
            return Err("host given twice");
        }
        let authority = self.authority.as_deref().map(str::as_bytes);
        match (authority, host) {
            (None, None) => Err("request without :authority"),
            (Some(a), Some(b)) if a != b => Err(":authority and host differ"),
            (Some(name), _) | (None, Some(name)) if name.is_empty() || name.contains(&b'@') => {
                Err("bad :authority")
            }
            _ => Ok(()),
        }
    }
}

/// Pseudo-header values are never empty here and hold visible ASCII only.
fn is_plain(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic())
}
