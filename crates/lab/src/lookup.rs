//! One DNS question, one answer, no cache: what a stub resolver does for a name with a short TTL.
//! Used by the load generator and the probes; never retries and never follows a search list.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::net::UdpSocket;

/// How long one question may take.
pub const LIMIT: Duration = Duration::from_secs(2);

/// Why a name gave no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The name is not one.
    #[error("dns: bad name")]
    Name,
    /// No answer in time.
    #[error("dns: timeout")]
    Timeout,
    /// The socket failed, or the server refused the packet.
    #[error("dns: {0}")]
    Io(String),
    /// The answer could not be read, or answers another question.
    #[error("dns: bad answer")]
    Garbled,
    /// The server answered with an error code.
    #[error("dns: {0}")]
    Code(ResponseCode),
    /// The name exists and has no address.
    #[error("dns: no address")]
    Empty,
}

/// The addresses of a name.
///
/// # Errors
/// Each way in which there is none.
pub async fn addresses(server: SocketAddr, name: &str) -> Result<Vec<IpAddr>, LookupError> {
    let reply = ask(server, name, RecordType::A).await?;
    let list: Vec<IpAddr> = reply
        .answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            RData::AAAA(a) => Some(IpAddr::V6(a.0)),
            _ => None,
        })
        .collect();
    if list.is_empty() { Err(LookupError::Empty) } else { Ok(list) }
}

/// Asks one question over UDP; an answer with an error code is an error.
///
/// # Errors
/// Each way in which there is no good answer.
pub async fn ask(server: SocketAddr, name: &str, kind: RecordType) -> Result<Message, LookupError> {
    let mut name = Name::from_ascii(name).map_err(|_| LookupError::Name)?;
    name.set_fqdn(true);
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name, kind));
    let id = question.metadata.id;
    let bytes = question.to_vec().map_err(|_| LookupError::Name)?;
    let exchange = async {
        let io = |e: std::io::Error| LookupError::Io(e.kind().to_string());
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.map_err(io)?;
        socket.connect(server).await.map_err(io)?;
        socket.send(&bytes).await.map_err(io)?;
        let mut buffer = vec![0_u8; 4096];
        loop {
            let len = socket.recv(&mut buffer).await.map_err(io)?;
            let Some(packet) = buffer.get(..len) else { continue };
            let reply = Message::from_vec(packet).map_err(|_| LookupError::Garbled)?;
            if reply.metadata.id == id {
                return Ok(reply);
            }
        }
    };
    let reply: Message = tokio::time::timeout(LIMIT, exchange).await.map_err(|_| LookupError::Timeout)??;
    match reply.metadata.response_code {
        ResponseCode::NoError => Ok(reply),
        code => Err(LookupError::Code(code)),
    }
}
