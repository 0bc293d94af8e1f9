//! The other side: tunnels of a peer's gateway that keeps no rules, and services that misbehave.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hansa_core::spiffe::{Role, SpiffeId};
use hansa_http3::{self as http3, RequestHead};
use hansa_identity::tls::{ALPN_H3, SERVER_NAME};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{TransportConfig, VarInt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::member::{Domain, LONG};
use super::victim::{PORT, Victim};

/// A tunnel into the victim, raw.
pub(crate) async fn quic(from: &Domain, victim: &Victim) -> quinn::Connection {
    let tls = from.tls(&Role::Gateway("g".parse().unwrap()), &[&victim.domain]);
    let server = SpiffeId::of(&victim.domain.trust_domain, &Role::Gateway("v".parse().unwrap()));
    let crypto = QuicClientConfig::try_from(tls.client_to(server, &[ALPN_H3])).unwrap();
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    let mut transport = TransportConfig::default();
    // As greedy as the protocol lets anybody be.
    transport.receive_window(VarInt::MAX).stream_receive_window(VarInt::MAX).send_window(1 << 40);
    transport.keep_alive_interval(Some(Duration::from_millis(200)));
    config.transport_config(Arc::new(transport));
    let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(config);
    let connecting = endpoint.connect(victim.tunnel, SERVER_NAME).unwrap();
    tokio::time::timeout(LONG, connecting).await.unwrap().unwrap()
}

/// The same with HTTP/3 on it, driven until the connection ends.
pub(crate) async fn tunnel(from: &Domain, victim: &Victim) -> http3::Connection {
    let quic = quic(from, victim).await;
    let (connection, driver, _) = http3::start(quic, http3::Role::Requester, http3::Config::default());
    tokio::spawn(driver.run());
    connection
}

/// The head of a request for a service of the victim.
pub(crate) fn connect(service: &str) -> RequestHead {
    let (namespace, name) = service.split_once('/').unwrap();
    RequestHead::connect(format!("{name}.{namespace}.svc.clusterset.local:{PORT}"))
}

/// A server that takes connections, reads nothing and says nothing.
pub(crate) async fn sink() -> u16 {
    let socket = TcpSocket::new_v4().unwrap();
    // Little fits into the kernel.
    socket.set_recv_buffer_size(4 << 10).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1_024).unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    port
}

/// A server that sends everything back.
pub(crate) async fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    port
}

/// A client of the victim's own cluster gets its answer.
pub(crate) async fn answers(vip: SocketAddr) {
    let begun = std::time::Instant::now();
    loop {
        let talk = async {
            let mut stream = TcpStream::connect(vip).await?;
            stream.write_all(b"ping").await?;
            let mut four = [0; 4];
            stream.read_exact(&mut four).await?;
            std::io::Result::Ok(four)
        };
        match tokio::time::timeout(Duration::from_secs(5), talk).await {
            Ok(Ok(four)) if &four == b"ping" => return,
            other => assert!(begun.elapsed() < LONG, "{other:?} after {:?}", begun.elapsed()),
        }
    }
}
