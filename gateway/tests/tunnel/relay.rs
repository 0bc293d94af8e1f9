//! A path that can be broken: forwards UDP, or TCP, or both of the same port to one address, until
//! it is told to swallow everything.

use std::collections::hash_map::{Entry, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// One path. Ends with the test's runtime.
#[derive(Clone)]
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    udp: Arc<AtomicBool>,
    mapping: Arc<AtomicUsize>,
}

impl Relay {
    /// TCP passes; UDP passes until [`Relay::swallow_udp`]. Without `udp`, it never does.
    pub(crate) async fn new(target: SocketAddr, (udp, tcp): (bool, bool)) -> Self {
        loop {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            // The same number may be taken for UDP.
            let Ok(socket) = UdpSocket::bind(address).await else { continue };
            let relay = Self { address, udp: Arc::new(AtomicBool::new(udp)), mapping: Arc::default() };
            tokio::spawn(forward_udp(socket, target, relay.clone()));
            if tcp {
                tokio::spawn(forward_tcp(listener, target));
            }
            return relay;
        }
    }

    pub(crate) fn swallow_udp(&self) {
        self.udp.store(false, Ordering::SeqCst);
    }

    /// Forgets how it mapped senders, as a NAT does: from now on they come from other ports.
    pub(crate) fn forget(&self) {
        self.mapping.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn pass_udp(&self) {
        self.udp.store(true, Ordering::SeqCst);
    }
}

async fn forward_udp(front: UdpSocket, target: SocketAddr, Relay { udp: passes, mapping, .. }: Relay) {
    let front = Arc::new(front);
    let mut backs = HashMap::<(SocketAddr, usize), Arc<UdpSocket>>::new();
    let mut buffer = vec![0; 65_536];
    while let Ok((length, from)) = front.recv_from(&mut buffer).await {
        if !passes.load(Ordering::SeqCst) {
            continue;
        }
        let key = (from, mapping.load(Ordering::SeqCst));
        if let Entry::Vacant(vacant) = backs.entry(key) {
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
        let _ = backs[&key].send(&buffer[..length]).await;
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
