//! The first contact with a cluster to be joined: TCP to one of its gateways, TLS with the bundle of
//! the invitation, and no certificate of ours.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hansa_core::spiffe::TrustDomain;
use hansa_identity::bundle::Bundle;
use hansa_identity::tls::{self, ALPN_JOIN, Pin, pinned_client};
use hansa_identity::verify::RoleKind;
use http::HeaderMap;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Connect and handshake together.
const LIMIT: Duration = Duration::from_secs(5);

/// Dials the gateway that the headers name.
pub(super) async fn dial(headers: &HeaderMap) -> Result<TlsStream<TcpStream>, String> {
    let text = |name: &str| {
        let value = headers.get(name).and_then(|v| v.to_str().ok());
        value.ok_or_else(|| format!("the header {name} is missing"))
    };
    let address = text("hansa-join-address")?;
    let json = URL_SAFE_NO_PAD.decode(text("hansa-join-bundle")?).map_err(|e| format!("bundle: {e}"))?;
    let domain = domain_of(&json).ok_or("bundle: no SPIFFE trust domain in it")?;
    let bundle = Bundle::from_json(&domain, &json).map_err(|e| format!("bundle: {e}"))?;
    let config = pinned_client(Pin::Bundle(bundle), &[RoleKind::Gateway], &[ALPN_JOIN]);
    let connect = async {
        let stream = TcpStream::connect(address).await.map_err(|e| format!("{address}: {e}"))?;
        let _ = stream.set_nodelay(true);
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(tls::server_name(), stream).await.map_err(|e| format!("{address}: {e}"))
    };
    let connected = tokio::time::timeout(LIMIT, connect).await;
    connected.map_err(|_| format!("{address}: no answer within {LIMIT:?}"))?
}

/// The trust domain that the first root of a bundle names in its URI. [`Bundle::from_json`] then
/// holds every root to it, so a wrong guess is an error and never another domain.
fn domain_of(json: &[u8]) -> Option<TrustDomain> {
    const SCHEME: &[u8] = b"spiffe://";
    let bundle: serde_json::Value = serde_json::from_slice(json).ok()?;
    let keys = bundle.get("keys")?.as_array()?;
    let first = keys.iter().find_map(|key| key.get("x5c")?.get(0)?.as_str())?;
    let der = STANDARD.decode(first).ok()?;
    let at = der.windows(SCHEME.len()).position(|window| window == SCHEME)?;
    // The byte before a short DER string is its length.
    let length = usize::from(*der.get(at.checked_sub(1)?)?);
    let uri = std::str::from_utf8(der.get(at..at.checked_add(length)?)?).ok()?;
    uri.strip_prefix("spiffe://")?.trim_end_matches('/').parse().ok()
}

/// For [`crate::fuzzing`]: whatever a guess at a domain is, a bundle that is taken is of that domain.
pub(crate) fn fuzz(data: &[u8]) {
    let Some(domain) = domain_of(data) else { return };
    if let Ok(bundle) = Bundle::from_json(&domain, data) {
        assert_eq!(bundle.trust_domain, domain);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hansa_identity::ca::{Ca, CaOptions};

    #[test]
    fn the_domain_is_read_from_the_roots() {
        let domain: TrustDomain = "gcp-eu.example.org".parse().unwrap();
        let ca = Ca::create(domain.clone(), CaOptions::default(), std::time::SystemTime::now()).unwrap();
        assert_eq!(domain_of(ca.bundle().to_json().as_bytes()), Some(domain));
        assert_eq!(domain_of(b"{}"), None);
        assert_eq!(domain_of(b"\xff"), None);
    }
}
