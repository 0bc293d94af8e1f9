//! What a client does by itself: one DNS question, one TCP connection, one HEAD request.
//!
//! Used by `check` and `dns query`, from where they are run. Nothing is cached or tried twice,
//! except that a truncated answer is asked for again over TCP, as resolvers do.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// The greatest UDP answer accepted; larger ones come truncated.
const UDP_BYTES: u16 = 4096;
/// The option that says why there is no answer (RFC 8914 2).
const EXTENDED_ERROR: EdnsCode = EdnsCode::Unknown(15);

/// Longest status line of an HTTP answer that is read.
const STATUS_LINE: usize = 512;

/// Why nothing came back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DialError {
    /// The name cannot be asked for.
    #[error("{0} is no DNS name")]
    Name(String),
    /// Nothing came in time.
    #[error("no answer within {0:?}")]
    Silent(Duration),
    /// The network said no.
    #[error("{0}")]
    Network(String),
    /// What came is no answer to the question.
    #[error("the answer cannot be read: {0}")]
    Garbled(String),
}

/// An answer, and how it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) message: Message,
    /// It was too large for UDP.
    pub(crate) over_tcp: bool,
}

impl Answer {
    /// The server's own words on why there is none, where it gives any.
    pub(crate) fn why(&self) -> Option<String> {
        let EdnsOption::Unknown(_, data) = self.message.edns.as_ref()?.option(EXTENDED_ERROR)? else {
            return None;
        };
        let text = String::from_utf8_lossy(data.get(2..)?);
        // It is shown on a terminal.
        let text: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
        (!text.is_empty()).then_some(text)
    }
}

/// Asks a DNS server one question.
pub(crate) async fn dns(
    server: SocketAddr,
    name: &str,
    kind: RecordType,
    limit: Duration,
) -> Result<Answer, DialError> {
    let mut asked = Name::from_ascii(name).map_err(|_| DialError::Name(name.to_owned()))?;
    asked.set_fqdn(true);
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(asked, kind));
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_BYTES);
    question.set_edns(edns);
    let exchange = async {
        let message = udp(server, &question).await?;
        if !message.metadata.truncation {
            return Ok(Answer { message, over_tcp: false });
        }
        Ok(Answer { message: tcp(server, &question).await?, over_tcp: true })
    };
    tokio::time::timeout(limit, exchange).await.map_err(|_| DialError::Silent(limit))?
}

async fn udp(server: SocketAddr, question: &Message) -> Result<Message, DialError> {
    let bytes = question.to_vec().map_err(|e| DialError::Name(e.to_string()))?;
    let local: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((local, 0)).await.map_err(network)?;
    socket.connect(server).await.map_err(network)?;
    socket.send(&bytes).await.map_err(network)?;
    let mut buffer = vec![0; usize::from(UDP_BYTES)];
    loop {
        let len = socket.recv(&mut buffer).await.map_err(network)?;
        let message = decode(buffer.get(..len).unwrap_or_default())?;
        // A late answer to somebody who had this port before is not ours.
        if message.metadata.id == question.metadata.id {
            return Ok(message);
        }
    }
}

async fn tcp(server: SocketAddr, question: &Message) -> Result<Message, DialError> {
    let bytes = question.to_vec().map_err(|e| DialError::Name(e.to_string()))?;
    let length = u16::try_from(bytes.len()).map_err(|e| DialError::Name(e.to_string()))?;
    let mut stream = TcpStream::connect(server).await.map_err(network)?;
    stream.write_all(&[&length.to_be_bytes(), bytes.as_slice()].concat()).await.map_err(network)?;
    let length = stream.read_u16().await.map_err(network)?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await.map_err(network)?;
    decode(&buffer)
}

fn decode(bytes: &[u8]) -> Result<Message, DialError> {
    Message::from_vec(bytes).map_err(|e| DialError::Garbled(e.to_string()))
}

/// Connects, and leaves at once.
pub(crate) async fn connect(to: SocketAddr, limit: Duration) -> Result<TcpStream, DialError> {
    let connecting = TcpStream::connect(to);
    let done = tokio::time::timeout(limit, connecting).await.map_err(|_| DialError::Silent(limit))?;
    done.map_err(network)
}

/// Asks for the head of `/` and returns the answer's status line.
pub(crate) async fn head(mut stream: TcpStream, host: &str, limit: Duration) -> Result<String, DialError> {
    let request =
        format!("HEAD / HTTP/1.1\r\nhost: {host}\r\nuser-agent: hansa-check\r\nconnection: close\r\n\r\n");
    let exchange = async {
        stream.write_all(request.as_bytes()).await.map_err(network)?;
        let mut line = Vec::new();
        while line.len() < STATUS_LINE && !line.ends_with(b"\r\n") {
            match stream.read_u8().await {
                Ok(byte) => line.push(byte),
                Err(e) => return Err(network(e)),
            }
        }
        let line = String::from_utf8_lossy(&line).trim().to_owned();
        if line.starts_with("HTTP/1.") { Ok(line) } else { Err(DialError::Garbled(line)) }
    };
    tokio::time::timeout(limit, exchange).await.map_err(|_| DialError::Silent(limit))?
}

fn network(error: std::io::Error) -> DialError {
    DialError::Network(error.to_string())
}

/// A server that listens everywhere is asked on this host.
pub(crate) fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        let local: IpAddr =
            if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        address.set_ip(local);
    }
    address
}
