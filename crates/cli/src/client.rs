//! Client of the controller's control socket: one request per connection, always with a deadline.
//!
//! Used by every verb that asks. It retries nothing.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use hansa_api::view;
use hansa_core::code::cli;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::exit::{Exit, Failure};

/// Larger answers are refused; ten thousand services make about two megabytes.
const MOST_BYTES: usize = 64 << 20;

/// Asks one controller.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) socket: PathBuf,
    pub(crate) timeout: Duration,
}

impl Client {
    /// `GET`. The values must consist of characters that a query may hold.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        route: &str,
        query: &[(&str, &str)],
    ) -> Result<T, Failure> {
        let pairs: Vec<String> = query.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let mark = if pairs.is_empty() { "" } else { "?" };
        let body = self.call(Method::GET, &format!("{route}{mark}{}", pairs.join("&")), Bytes::new()).await?;
        self.read(&body)
    }

    /// `POST` with a JSON body.
    pub(crate) async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        route: &str,
        body: &B,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).map_err(|e| {
            Failure::new(Exit::Internal, cli::ANSWER_UNREADABLE, "the question", e.to_string())
        })?;
        let body = self.call(Method::POST, route, body.into()).await?;
        self.read(&body)
    }

    /// `DELETE`; the answer's body says nothing.
    pub(crate) async fn delete(&self, route: &str) -> Result<(), Failure> {
        self.call(Method::DELETE, route, Bytes::new()).await.map(drop)
    }

    async fn call(&self, method: Method, target: &str, body: Bytes) -> Result<Bytes, Failure> {
        let exchange = self.exchange(method, target, body);
        let (status, body) = match tokio::time::timeout(self.timeout, exchange).await {
            Ok(answer) => answer?,
            Err(_) => {
                let cause = format!("no answer within {:?}", self.timeout);
                return Err(Failure::new(Exit::TimedOut, cli::TIMED_OUT, self.object(), cause));
            }
        };
        if status.is_success() {
            return Ok(body);
        }
        match serde_json::from_slice::<view::Error>(&body) {
            Ok(error) => Err(Failure::answered(status, error)),
            Err(_) if status == StatusCode::NOT_FOUND => {
                let cause = format!("{target}: the controller does not know this question");
                Err(Failure::new(Exit::Internal, cli::ANSWER_UNREADABLE, self.object(), cause))
            }
            Err(_) => Err(self.unreadable(format!("status {status} without a reason"))),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| self.unreachable(&e))?;
        let broken = |e: hyper::Error| {
            Failure::new(Exit::Unreachable, cli::SOCKET_UNREACHABLE, self.object(), e.to_string())
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header(http::header::HOST, "controller")
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|e| Failure::usage(target, e.to_string()))?;
        let answer = async move {
            let response = sender.send_request(request).await.map_err(broken)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MOST_BYTES).collect().await;
            let body = body.map_err(|e| self.unreadable(e.to_string()))?;
            Ok((status, body.to_bytes()))
        };
        // The connection ends once the answer is read and the sender is gone.
        let (answer, _) = tokio::join!(answer, connection);
        answer
    }

    fn read<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, Failure> {
        serde_json::from_slice(body).map_err(|e| self.unreadable(e.to_string()))
    }

    fn object(&self) -> String {
        format!("controller at {}", self.socket.display())
    }

    fn unreadable(&self, cause: String) -> Failure {
        Failure::new(Exit::Internal, cli::ANSWER_UNREADABLE, self.object(), cause)
    }

    fn unreachable(&self, error: &std::io::Error) -> Failure {
        let exit = match error.kind() {
            ErrorKind::PermissionDenied => Exit::Refused,
            _ => Exit::Unreachable,
        };
        Failure::new(exit, cli::SOCKET_UNREACHABLE, self.object(), error.to_string())
    }
}
