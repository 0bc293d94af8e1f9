//! The sample servers: HTTP that names itself and logs each request id, and a UDP echo.
//! Run as `hansa lab serve-http` and `hansa lab serve-udp`; they know nothing of hansa.

use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UdpSocket};

use crate::clock;

/// Arguments of both servers.
#[derive(Debug, Clone)]
pub struct ServeArgs {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The member it stands for, named in every answer.
    pub member: String,
    /// Its pod name, named in every answer.
    pub pod: String,
    /// Takes one line per request.
    pub log: PathBuf,
}

/// What the HTTP server answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answer {
    /// The member.
    pub member: String,
    /// The pod.
    pub pod: String,
    /// The request's `x-request-id`, empty if it had none.
    pub id: String,
    /// The path asked for.
    pub path: String,
}

/// One line of a server's log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Served {
    /// The request's id.
    pub id: String,
    /// Monotonic nanoseconds.
    pub at: u64,
}

/// Serves HTTP/1.1 until killed.
///
/// # Errors
/// When the address or the log cannot be opened.
pub async fn http(args: ServeArgs) -> Result<()> {
    let listener = TcpListener::bind(args.listen).await.with_context(|| args.listen.to_string())?;
    let log = Arc::new(open(&args.log)?);
    let args = Arc::new(args);
    loop {
        // Out of descriptors or a peer gone before accept: the next one may do better.
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            continue;
        };
        let (args, log) = (Arc::clone(&args), Arc::clone(&log));
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&args), Arc::clone(&log), request));
            // How a client leaves is its own affair.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(
    args: Arc<ServeArgs>,
    log: Arc<File>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let id = request
        .headers()
        .get("x-request-id")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    if !id.is_empty() {
        // Before the answer: a request that was answered is always in the log.
        record(&log, &id);
    }
    let path = request.uri().path().to_owned();
    let answer = Answer { member: args.member.clone(), pod: args.pod.clone(), id, path };
    let mut body = serde_json::to_vec(&answer).unwrap_or_default();
    body.push(b'\n');
    let mut response = Response::new(Full::new(Bytes::from(body)));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    Ok(response)
}

/// Echoes every datagram to where it came from, until killed.
///
/// # Errors
/// When the address or the log cannot be opened.
pub async fn udp(args: ServeArgs) -> Result<()> {
    let socket = UdpSocket::bind(args.listen).await.with_context(|| args.listen.to_string())?;
    let log = open(&args.log)?;
    let mut buffer = vec![0_u8; 65_536];
    loop {
        let Ok((len, from)) = socket.recv_from(&mut buffer).await else { continue };
        record(&log, &format!("{from} {len}"));
        if let Some(packet) = buffer.get(..len) {
            // A sender that is gone is no reason to stop.
            let _ = socket.send_to(packet, from).await;
        }
    }
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new().create(true).append(true).open(path).with_context(|| path.display().to_string())
}

/// One write per line: lines of concurrent requests do not mix, and a SIGKILL loses none.
fn record(mut log: &File, id: &str) {
    let line = Served { id: id.to_owned(), at: clock::now() };
    if let Ok(mut text) = serde_json::to_vec(&line) {
        text.push(b'\n');
        // A full disk shows as a request that is in no log.
        let _ = log.write_all(&text);
    }
}
