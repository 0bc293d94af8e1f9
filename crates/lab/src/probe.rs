//! Single questions a client would ask: one HTTP request by name, one address, one admin page.
//! Used by bring-up and steps, always from within a namespace; never retries by itself.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::load::request;
use crate::lookup;
use crate::serve::Answer;

/// Longest time of one probe.
const LIMIT: Duration = Duration::from_secs(3);

/// Resolves, connects and asks once; what the sample server said.
///
/// # Errors
/// When any of it fails, or the answer is not one of ours.
pub async fn http(dns: SocketAddr, name: &str, port: u16, id: &str) -> Result<Answer> {
    let list = lookup::addresses(dns, name).await?;
    let ip = list.first().copied().context("no address")?;
    http_at(ip, port, name, id).await
}

/// An id for one probe, unlike any other of the lab.
#[must_use]
pub fn fresh_id(purpose: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("probe-{purpose}-{:x}-{number}", crate::clock::now())
}

/// The same at a known address.
///
/// # Errors
/// When any of it fails, or the answer is not one of ours.
pub async fn http_at(ip: IpAddr, port: u16, name: &str, id: &str) -> Result<Answer> {
    let exchange = async {
        let mut stream =
            TcpStream::connect((ip, port)).await.with_context(|| format!("connect {ip}:{port}"))?;
        request(&mut stream, name, id, true).await.map_err(|e| anyhow!(e))
    };
    tokio::time::timeout(LIMIT, exchange).await.context("no answer in 3 s")?
}

/// Fetches a page of an admin endpoint: status and body.
///
/// # Errors
/// When there is no complete answer in time.
pub async fn page(at: SocketAddr, path: &str) -> Result<(u16, String)> {
    let exchange = async {
        let mut stream = TcpStream::connect(at).await?;
        let text = format!("GET {path} HTTP/1.1\r\nhost: {at}\r\nconnection: close\r\n\r\n");
        stream.write_all(text.as_bytes()).await?;
        let mut bytes = Vec::new();
        stream.take(64 << 20).read_to_end(&mut bytes).await?;
        Ok::<_, std::io::Error>(bytes)
    };
    let bytes = tokio::time::timeout(LIMIT, exchange).await.context("no answer in 3 s")??;
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").context("no HTTP answer")?;
    let Some(status) = head.split(' ').nth(1).and_then(|word| word.parse().ok()) else {
        bail!("no HTTP status in {:?}", head.lines().next());
    };
    Ok((status, body.to_owned()))
}
