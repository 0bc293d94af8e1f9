//! One request and its answer on an open connection: HTTP/1.1 or Redis, written by hand so that nothing
//! retries behind our back.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Conn, Shared};
use crate::serve::Answer;

/// Longest answer that is read.
const MOST: usize = 64 * 1024;

/// What the generator speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `GET /` with `x-request-id`, answered by `hansa lab serve-http`.
    Http,
    /// `INCR <id>`, whose answer 1 proves that it was done once.
    Redis,
}

impl std::str::FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "http" => Ok(Self::Http),
            "redis" => Ok(Self::Redis),
            other => Err(format!("unknown protocol {other:?}: http or redis")),
        }
    }
}

/// Sends one request and reads its answer; the member that answered, or why it is no good answer.
pub(crate) async fn once(shared: &Shared, conn: &mut Conn, id: &str, last: bool) -> Result<String, String> {
    let args = &shared.args;
    let work = async {
        match args.protocol {
            Protocol::Http => request(&mut conn.stream, &args.name, id, last).await.map(|a| a.member),
            Protocol::Redis => redis(&mut conn.stream, id).await,
        }
    };
    let member =
        tokio::time::timeout(args.answer_limit, work).await.map_err(|_| "answer: timeout".to_owned())??;
    if args.members.is_empty() || args.members.contains(&member) || args.protocol == Protocol::Redis {
        Ok(member)
    } else {
        Err(format!("answer: wrong member {member}"))
    }
}

/// Sends one `GET /` and reads its answer, which must be 200, whole, ours, and name the same id.
///
/// # Errors
/// What was wrong, beginning with `send` or `answer`.
pub async fn request(stream: &mut TcpStream, host: &str, id: &str, last: bool) -> Result<Answer, String> {
    let close = if last { "connection: close\r\n" } else { "" };
    let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nx-request-id: {id}\r\n{close}\r\n");
    send(stream, request.as_bytes()).await?;
    let mut bytes = Vec::with_capacity(512);
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end;
        }
        more(stream, &mut bytes).await?;
    };
    let text = String::from_utf8_lossy(bytes.get(..head).unwrap_or_default()).into_owned();
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or("none");
    if status != "200" {
        return Err(format!("answer: status {status}"));
    }
    let length: usize = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .filter(|length| *length <= MOST)
        .ok_or("answer: no length")?;
    while bytes.len() < head + 4 + length {
        more(stream, &mut bytes).await?;
    }
    let body = bytes.get(head + 4..).unwrap_or_default();
    let answer: Answer = serde_json::from_slice(body).map_err(|_| "answer: wrong body")?;
    if answer.id != id {
        return Err(format!("answer: wrong id {}", answer.id));
    }
    Ok(answer)
}

async fn redis(stream: &mut TcpStream, id: &str) -> Result<String, String> {
    let request = format!("*2\r\n$4\r\nINCR\r\n${}\r\n{id}\r\n", id.len());
    send(stream, request.as_bytes()).await?;
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n") {
        more(stream, &mut bytes).await?;
    }
    if bytes == b":1\r\n" {
        Ok(crate::ledger::REDIS.into())
    } else {
        Err(format!("answer: {}", String::from_utf8_lossy(&bytes).trim()))
    }
}

async fn send(stream: &mut TcpStream, bytes: &[u8]) -> Result<(), String> {
    stream.write_all(bytes).await.map_err(|e| format!("send: {}", e.kind()))
}

async fn more(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Result<(), String> {
    if bytes.len() > MOST {
        return Err("answer: too long".into());
    }
    match stream.read_buf(bytes).await {
        Ok(0) => Err("answer: closed".into()),
        Ok(_) => Ok(()),
        Err(e) => Err(format!("answer: {}", e.kind())),
    }
}
