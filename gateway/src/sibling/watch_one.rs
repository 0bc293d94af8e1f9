//! The watch over one sibling: connect, ask for our addresses, ping, notice the end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hansa_core::name::NodeId;
use hansa_core::spiffe::{Role, SpiffeId};
use hansa_identity::tls::{self, ALPN_H2, Tls};
use http::{Method, Request};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Seen;
use crate::relay::SIBLING;

/// Between two pings.
const PING: Duration = Duration::from_millis(250);
/// A ping unanswered for so long is death.
const SILENCE: Duration = Duration::from_millis(750);
/// For connecting and both handshakes.
const CONNECT: Duration = Duration::from_millis(400);
/// Between two tries.
const AGAIN: Duration = Duration::from_millis(200);

/// How a connection ended.
enum End {
    /// The other side closed it: dead, or only restarting its relay; one try tells.
    Closed,
    /// It says nothing any more.
    Silent,
}

/// Watches for ever.
pub(super) async fn run(tls: Tls, id: NodeId, relay: SocketAddr, seen: mpsc::Sender<Seen>) {
    let domain = tls.keys().id().trust_domain().clone();
    let role = SpiffeId::of(&domain, &Role::Gateway(id.clone()));
    let connector = TlsConnector::from(Arc::new(tls.client_to(role, &[ALPN_H2])));
    loop {
        match timeout(CONNECT, connect(&connector, relay)).await {
            Ok(Ok(stream)) => {
                if matches!(stay(stream, &id, &seen).await, End::Closed) {
                    continue;
                }
            }
            Ok(Err(error)) => tracing::debug!(sibling = %id, %error, "no answer"),
            Err(_) => tracing::debug!(sibling = %id, "no answer in time"),
        }
        if seen.send(Seen::Dead(id.clone())).await.is_err() {
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn connect(connector: &TlsConnector, relay: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(relay).await?;
    stream.set_nodelay(true)?;
    connector.connect(tls::server_name(), stream).await
}

async fn stay(stream: TlsStream<TcpStream>, id: &NodeId, seen: &mpsc::Sender<Seen>) -> End {
    let Ok(Ok((mut client, mut connection))) = timeout(CONNECT, h2::client::handshake(stream)).await else {
        return End::Silent;
    };
    let Some(mut pings) = connection.ping_pong() else { return End::Closed };
    let alive = async {
        let ping = pings.ping(h2::Ping::opaque());
        if !matches!(timeout(SILENCE, ping).await, Ok(Ok(_))) {
            return End::Silent;
        }
        // Only what answers counts: a full accept queue connects too.
        let _ = seen.send(Seen::Up(id.clone())).await;
        loop {
            tokio::time::sleep(PING).await;
            match timeout(SILENCE, pings.ping(h2::Ping::opaque())).await {
                Ok(Ok(_)) => {}
                Ok(Err(_)) => return End::Closed,
                Err(_) => return End::Silent,
            }
        }
    };
    let ask = async {
        if granted(&mut client).await {
            let _ = seen.send(Seen::Granted(id.clone())).await;
        }
        // The connection stays for the pings.
        std::future::pending::<End>().await
    };
    tokio::select! {
        _ = &mut connection => End::Closed,
        end = alive => end,
        end = ask => end,
    }
}

/// Asks for our addresses; the answer comes when they are free, however long that takes.
async fn granted(client: &mut h2::client::SendRequest<Bytes>) -> bool {
    let request = Request::builder().method(Method::CONNECT).uri(SIBLING).body(());
    let Ok(request) = request else { return false };
    let Ok((response, _stream)) = client.send_request(request, false) else { return false };
    matches!(response.await, Ok(response) if response.status().is_success())
}
