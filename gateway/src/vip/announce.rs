//! Gratuitous ARP (RFC 826, RFC 5227 3): tells neighbours that addresses are here now.
//!
//! Needs CAP_NET_RAW. Sends only; hears nothing.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{LinkAddr, MsgFlags, sendto};
use socket2::{Domain, Socket, Type};

const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];

/// Sends announcements on one device.
#[derive(Debug)]
pub(super) struct Announcer {
    socket: Socket,
    device: LinkAddr,
    mac: [u8; 6],
}

impl Announcer {
    /// On the named device.
    pub(super) fn new(name: &str) -> io::Result<Self> {
        let (device, mac) = link_of(name)?;
        // Protocol 0: nothing is received.
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None)?;
        Ok(Self { socket, device, mac })
    }

    /// Announces each address once.
    pub(super) fn send(&self, vips: &[Ipv4Addr]) -> io::Result<()> {
        for vip in vips {
            let frame = frame(self.mac, *vip);
            sendto(self.socket.as_raw_fd(), &frame, &self.device, MsgFlags::empty())?;
        }
        Ok(())
    }
}

/// A device's link-layer address.
pub(super) fn link_of(name: &str) -> io::Result<(LinkAddr, [u8; 6])> {
    let found = getifaddrs()?.find_map(|entry| {
        let link = *entry.address.as_ref()?.as_link_addr()?;
        (entry.interface_name == name).then_some(link)
    });
    let device = found.ok_or_else(|| io::Error::other(format!("no device {name}")))?;
    let mac = device.addr().ok_or_else(|| io::Error::other(format!("{name} has no hardware address")))?;
    Ok((device, mac))
}

/// The named device, or the one that holds any of these addresses.
pub(super) fn device(name: Option<&str>, near: &[IpAddr]) -> io::Result<String> {
    match name {
        Some(name) => Ok(name.to_owned()),
        None => device_of(near)?.ok_or_else(|| io::Error::other("no device holds the relay address")),
    }
}

fn device_of(near: &[IpAddr]) -> io::Result<Option<String>> {
    let holds = |address: Option<IpAddr>| address.is_some_and(|address| near.contains(&address));
    Ok(getifaddrs()?.find_map(|entry| {
        let address = entry.address.as_ref()?;
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        let v6 = || address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip()));
        (holds(v4) || holds(v6())).then_some(entry.interface_name)
    }))
}

/// An ARP request for our own address, to everyone.
fn frame(mac: [u8; 6], vip: Ipv4Addr) -> [u8; 42] {
    let mut frame = [0; 42];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&ETHERTYPE_ARP);
    // Ethernet, IPv4, lengths, request.
    frame[14..22].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    frame[22..28].copy_from_slice(&mac);
    frame[28..32].copy_from_slice(&vip.octets());
    frame[38..42].copy_from_slice(&vip.octets());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_names_the_address_twice() {
        let frame = frame([1, 2, 3, 4, 5, 6], Ipv4Addr::new(10, 97, 0, 1));
        assert_eq!(frame[28..32], frame[38..42]);
        assert_eq!(frame[..6], [0xff; 6]);
    }
}
