//! TCP and TLS to one of several controllers.
//!
//! Called by the link. Every step has a deadline; the address that answered last is tried first.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hansa_identity::tls::server_name;
use hansa_identity::verify::describe;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::Error as TlsError;

use crate::{ConnectError, DIAL, StartError};

/// Bytes that the controller does not acknowledge for so long end the connection.
const USER_TIMEOUT: Duration = Duration::from_secs(5);
/// Most addresses of one name that are tried.
const MAX_RESOLVED: usize = 8;

pub(crate) struct Dialer {
    addresses: Vec<String>,
    first: AtomicUsize,
}

impl Dialer {
    pub(crate) fn new(addresses: Vec<String>) -> Result<Self, StartError> {
        if addresses.is_empty() {
            return Err(StartError::NoController);
        }
        for address in &addresses {
            let good = address.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
            });
            if !good {
                return Err(StartError::Address(address.clone()));
            }
        }
        Ok(Self { addresses, first: AtomicUsize::new(0) })
    }

    pub(crate) async fn connect(&self, tls: &TlsConnector) -> Result<TlsStream<TcpStream>, ConnectError> {
        let first = self.first.load(Ordering::Relaxed);
        let count = self.addresses.len();
        let mut last = None;
        for step in 0..count {
            let at = (first + step) % count;
            match one(&self.addresses[at], tls).await {
                Ok(stream) => {
                    self.first.store(at, Ordering::Relaxed);
                    return Ok(stream);
                }
                Err(error) => last = Some(error),
            }
        }
        // The next try begins elsewhere, so that a slow address cannot use up every deadline.
        self.first.store((first + 1) % count, Ordering::Relaxed);
        let none = || io::Error::new(io::ErrorKind::NotFound, "no address");
        Err(last.unwrap_or_else(|| ConnectError::Resolve { address: String::new(), source: none() }))
    }
}

async fn one(address: &str, tls: &TlsConnector) -> Result<TlsStream<TcpStream>, ConnectError> {
    let late = || ConnectError::Timeout { address: address.to_owned(), limit: DIAL };
    let unresolved = |source| ConnectError::Resolve { address: address.to_owned(), source };
    let found = timeout(DIAL, lookup_host(address)).await.map_err(|_| late())?.map_err(unresolved)?;
    let mut last = unresolved(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    for resolved in found.take(MAX_RESOLVED) {
        match timeout(DIAL, handshake(address, resolved, tls)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = late(),
        }
    }
    Err(last)
}

async fn handshake(
    address: &str,
    resolved: SocketAddr,
    tls: &TlsConnector,
) -> Result<TlsStream<TcpStream>, ConnectError> {
    let dial = |source| ConnectError::Dial { address: address.to_owned(), source };
    let stream = TcpStream::connect(resolved).await.map_err(dial)?;
    stream.set_nodelay(true).map_err(dial)?;
    let socket = SockRef::from(&stream);
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(10));
    socket.set_tcp_keepalive(&keepalive).map_err(dial)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT)).map_err(dial)?;
    tls.connect(server_name(), stream).await.map_err(|error| {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
        let reason = inner.map_or_else(|| error.to_string(), describe);
        ConnectError::Tls { address: address.to_owned(), reason }
    })
}
