//! A path that can be broken: forwards UDP, or TCP, or both of the same port to one address, until
//! it is told to swallow everything.

use std::collections::hash_map::{Entry, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// One path. Ends with the test's runtime.
#[derive(Clone)]
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    udp: Arc<AtomicBool>,
}

impl Relay {
    /// TCP passes; UDP passes until [`Relay::swallow_udp`]. Without `udp`, it never does.
    pub(crate) async fn new(target: SocketAddr, (udp, tcp): (bool, bool)) -> Self {
        loop {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            // The same number may be taken for UDP.
            let Ok(socket) = UdpSocket::bind(address).await else { continue };
            let relay = Self { address, udp: Arc::new(AtomicBool::new(udp)) };
            tokio::spawn(forward_udp(socket, target, relay.udp.clone()));
            if tcp {
                tokio::spawn(forward_tcp(listener, target));
            }
            return relay;
        }
    }

    pub(crate) fn swallow_udp(&self) {
        self.udp.store(false, Ordering::SeqCst);
    }

    pub(crate) fn pass_udp(&self) {
        self.udp.store(true, Ordering::SeqCst);
    }
}

async fn forward_udp(front: UdpSocket, target: SocketAddr, passes: Arc<AtomicBool>) {
    let front = Arc::new(front);
    let mut backs = HashMap::<SocketAddr, Arc<UdpSocket>>::new();
    let mut buffer = vec![0; 65_536];
    while let Ok((length, from)) = front.recv_from(&mut buffer).await {
        if !passes.load(Ordering::SeqCst) {
            continue;
        }
        if let Entry::Vacant(vacant) = backs.entry(from) {
            let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
            back.connect(target).await.unwrap();
            vacant.insert(back.clone());
            let (front, passes) = (front.clone(), passes.clone());
            tokio::spawn(async move {
                let mut buffer = vec![0; 65_536];
                while let Ok(length) = back.recv(&mut buffer).await {
                    if passes.load(Ordering::SeqCst) {
                        let _ = front.send_to(&buffer[..length], from).await;
                    }
                }
            });
        }
        let _ = backs[&from].send(&buffer[..length]).await;
    }
}

async fn forward_tcp(listener: TcpListener, target: SocketAddr) {
    while let Ok((mut front, _)) = listener.accept().await {
        tokio::spawn(async move {
            let Ok(mut back) = TcpStream::connect(target).await else { return };
            let _ = tokio::io::copy_bidirectional(&mut front, &mut back).await;
        });
    }
}
