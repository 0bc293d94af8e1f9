//! What a peer asks of us: one request, and the way to answer it.
//!
//! Made by `serve` from either lane, taken by the gateway's inbound side.

use std::sync::Arc;

use bytes::Bytes;
use hansa_http3::{Code, RequestHead, RespondStream, ResponseHead};
use http::{HeaderMap, Method, StatusCode};

use super::error::{StreamError, to_h2};
use super::inuse::InUse;
use super::link::PeerId;
use super::stream::{RecvHalf, SendHalf, Shared};

/// The `:protocol` of UDP over HTTP (RFC 9298).
pub const CONNECT_UDP: &str = "connect-udp";
/// The authority of requests whose target is in the path.
const GATEWAY: &str = "gateway.hansa.internal:443";
const UDP_PREFIX: &str = "/.well-known/masque/udp/";

/// A request of a peer's gateway.
#[derive(Debug)]
pub struct Request {
    /// Who asks, by its certificate.
    pub peer: PeerId,
    /// What is asked for: `host:port`.
    pub authority: String,
    /// `:protocol` of an extended CONNECT.
    pub protocol: Option<String>,
    /// The other fields.
    pub headers: HeaderMap,
    /// The way to answer.
    pub responder: Responder,
    /// What the peer sends.
    pub recv: RecvHalf,
}

#[derive(Debug)]
enum Answer {
    H3(RespondStream),
    H2(h2::server::SendResponse<Bytes>),
}

/// The way to answer one request. Dropped without an answer, the request is reset.
#[derive(Debug)]
pub struct Responder {
    inner: Option<Answer>,
    in_use: Arc<InUse>,
}

impl Responder {
    pub(crate) fn h3(stream: RespondStream, in_use: Arc<InUse>) -> Self {
        Self { inner: Some(Answer::H3(stream)), in_use }
    }

    pub(crate) fn h2(stream: h2::server::SendResponse<Bytes>, in_use: Arc<InUse>) -> Self {
        Self { inner: Some(Answer::H2(stream)), in_use }
    }

    /// Sends the answer's head; content may follow.
    pub async fn respond(self, status: StatusCode, headers: HeaderMap) -> Result<SendHalf, StreamError> {
        self.send(status, headers, false).await
    }

    /// Sends an answer without content: a refusal. What the peer still sends is not wanted, and
    /// that is no error of its (RFC 9114 4.1, RFC 9113 8.1).
    pub async fn refuse(
        self,
        status: StatusCode,
        headers: HeaderMap,
        mut recv: RecvHalf,
    ) -> Result<(), StreamError> {
        let mut half = self.send(status, headers, true).await?;
        let finished = half.finish().await;
        recv.stop(Code::H3_NO_ERROR);
        finished
    }

    async fn send(
        mut self,
        status: StatusCode,
        headers: HeaderMap,
        last: bool,
    ) -> Result<SendHalf, StreamError> {
        let in_use = self.in_use.clone();
        match self.inner.take() {
            Some(Answer::H3(stream)) => {
                let answered = stream.respond(&ResponseHead { status, headers }).await;
                Ok(SendHalf::h3(answered.map_err(|e| in_use.explain(e.into()))?, in_use))
            }
            Some(Answer::H2(mut stream)) => {
                let mut head = http::Response::new(());
                *head.status_mut() = status;
                *head.headers_mut() = headers;
                let sent = stream.send_response(head, last);
                let stream = sent.map_err(|e| in_use.explain(e.into()))?;
                Ok(SendHalf::h2(Shared::new(stream), in_use, last))
            }
            None => Err(StreamError::Protocol("answered twice".to_owned())),
        }
    }

    /// Vouches that nothing of the request was processed: the peer may send it elsewhere.
    pub fn reject(self) {
        self.reset(Code::H3_REQUEST_REJECTED);
    }

    /// Ends the request without an answer.
    pub fn reset(mut self, code: Code) {
        match self.inner.take() {
            Some(Answer::H3(stream)) => stream.reset(code),
            Some(Answer::H2(mut stream)) => stream.send_reset(to_h2(code)),
            None => {}
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        // The HTTP/3 half resets itself.
        if let Some(Answer::H2(stream)) = &mut self.inner {
            stream.send_reset(to_h2(Code::H3_INTERNAL_ERROR));
        }
    }
}

/// The head of a tunnel request to `authority`.
pub(crate) fn head(authority: String, protocol: Option<&str>, headers: HeaderMap) -> RequestHead {
    let mut head = match protocol {
        None => RequestHead::connect(authority),
        Some(CONNECT_UDP) => {
            let (host, port) = authority.rsplit_once(':').unwrap_or((authority.as_str(), "0"));
            RequestHead::extended_connect(CONNECT_UDP, GATEWAY, format!("{UDP_PREFIX}{host}/{port}/"))
        }
        Some(other) => RequestHead::extended_connect(other, authority, "/"),
    };
    head.headers = headers;
    head
}

/// What a received head asks for, or the status that refuses it.
pub(crate) fn target(
    method: &Method,
    protocol: Option<&str>,
    authority: Option<&str>,
    path: Option<&str>,
) -> Result<String, StatusCode> {
    if method != Method::CONNECT {
        return Err(StatusCode::NOT_IMPLEMENTED);
    }
    if protocol != Some(CONNECT_UDP) {
        return authority.map(str::to_owned).ok_or(StatusCode::BAD_REQUEST);
    }
    let rest = path.and_then(|path| path.strip_prefix(UDP_PREFIX));
    let target = rest.and_then(|rest| rest.strip_suffix('/').unwrap_or(rest).split_once('/'));
    match target {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(format!("{host}:{port}")),
        _ => Err(StatusCode::BAD_REQUEST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_travel_in_authority_or_path() {
        for protocol in [None, Some(CONNECT_UDP), Some("x")] {
            let head = head("web.shop.svc.clusterset.local:53".into(), protocol, HeaderMap::new());
            assert!(head.encode().is_ok());
            let (authority, path) = (head.authority.as_deref(), head.path.as_deref());
            let target = target(&head.method, head.protocol.as_deref(), authority, path);
            assert_eq!(target.unwrap(), "web.shop.svc.clusterset.local:53");
        }
    }

    #[test]
    fn bad_targets_are_refused() {
        let udp = |path| target(&Method::CONNECT, Some(CONNECT_UDP), Some("a:1"), path).is_err();
        for path in [None, Some("/"), Some("/.well-known/masque/udp/"), Some("/.well-known/masque/udp/a/b/")]
        {
            assert!(udp(path), "{path:?}");
        }
        assert_eq!(target(&Method::GET, None, Some("a"), Some("/")), Err(StatusCode::NOT_IMPLEMENTED));
    }
}
