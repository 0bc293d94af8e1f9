//! A local route for a block of addresses, on a device that ends with this process.
//!
//! Speaks rtnetlink (rtnetlink(7)) over one short-lived socket. Needs CAP_NET_ADMIN.

use std::io;

use ipnet::IpNet;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};
use tokio_tun::Tun;

const RTM_NEWROUTE: u16 = 24;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
const RT_TABLE_LOCAL: u8 = 255;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_HOST: u8 = 254;
const RTN_LOCAL: u8 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;

/// A device that carries nothing: local routes on it live exactly as long as it is open.
pub(super) struct Device(#[expect(dead_code, reason = "held open: the kernel removes it at the close")] Tun);

impl Device {
    /// Opens a device and routes the blocks to this host over it.
    pub(super) fn new(blocks: &[IpNet]) -> Result<Self, String> {
        let mut devices =
            Tun::builder().name("hansa%d").up().build().map_err(|e| format!("/dev/net/tun: {e}"))?;
        let device = devices.pop().ok_or("no device was made")?;
        let index = nix::net::if_::if_nametoindex(device.name()).map_err(|e| e.to_string())?;
        for block in blocks {
            add(block, index).map_err(|e| format!("local route {block}: {e}"))?;
        }
        Ok(Self(device))
    }
}

fn add(block: &IpNet, device: u32) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC;
    // Protocol 0 is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    let message = message(block, device);
    sendto(&socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0u8; 4096];
    let (n, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    acknowledged(&answer[..n])
}

fn message(block: &IpNet, device: u32) -> Vec<u8> {
    let address = match block.network() {
        std::net::IpAddr::V4(a) => a.octets().to_vec(),
        std::net::IpAddr::V6(a) => a.octets().to_vec(),
    };
    let family = if address.len() == 4 { AddressFamily::INET } else { AddressFamily::INET6 };
    let mut out = vec![0; 4];
    out.extend(RTM_NEWROUTE.to_ne_bytes());
    out.extend((NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE).to_ne_bytes());
    out.extend(1u32.to_ne_bytes());
    out.extend(0u32.to_ne_bytes());
    let family = u8::try_from(family.as_raw()).unwrap_or_default();
    out.extend([family, block.prefix_len(), 0, 0, RT_TABLE_LOCAL, RTPROT_STATIC, RT_SCOPE_HOST, RTN_LOCAL]);
    out.extend(0u32.to_ne_bytes());
    attribute(&mut out, RTA_DST, &address);
    attribute(&mut out, RTA_OIF, &device.to_ne_bytes());
    let length = u32::try_from(out.len()).unwrap_or_default();
    out[..4].copy_from_slice(&length.to_ne_bytes());
    out
}

fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // All values here are multiples of four bytes, so no padding is needed.
    let length = u16::try_from(value.len() + 4).unwrap_or_default();
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
}

fn acknowledged(answer: &[u8]) -> io::Result<()> {
    let word = |at: usize| answer.get(at..at + 4).and_then(|b| b.try_into().ok());
    let kind = answer.get(4..6).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
    match (kind, word(16).map(i32::from_ne_bytes)) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(errno)) => Err(io::Error::from_raw_os_error(-errno)),
        _ => Err(io::Error::other("the kernel's answer cannot be read")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_its_length_and_both_attributes() {
        let message = message(&"10.97.1.0/24".parse().unwrap(), 7);
        assert_eq!(message.len(), 16 + 12 + 8 + 8);
        assert_eq!(u32::from_ne_bytes(message[..4].try_into().unwrap()), 44);
        assert_eq!(&message[32..36], &[10, 97, 1, 0]);
    }

    #[test]
    fn answers_are_read_without_trust() {
        assert!(acknowledged(&[]).is_err());
        assert!(acknowledged(&[0; 17]).is_err());
        let mut answer = vec![0; 20];
        answer[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        assert!(acknowledged(&answer).is_ok());
        answer[16..20].copy_from_slice(&(-1i32).to_ne_bytes());
        assert_eq!(acknowledged(&answer).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
