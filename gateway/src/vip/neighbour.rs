//! Neighbour discovery (RFC 4861) for IPv6 virtual addresses: answers who asks for one, and tells
//! neighbours that addresses are here now.
//!
//! The kernel answers by ARP for every local address, but by neighbour discovery only for addresses
//! assigned to the device; those would outlive a killed gateway, and this ends with it. Needs
//! CAP_NET_RAW. It answers for the blocks it was given and for nothing else.

use std::io::{self, Read};
use std::net::Ipv6Addr;
use std::os::fd::AsRawFd;

use ipnet::IpNet;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{LinkAddr, MsgFlags, bind, sendto};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::io::unix::AsyncFd;

use super::announce::link_of;

const ETHERTYPE_IPV6: u16 = 0x86dd;
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Sent and taken with this hop limit alone: then nobody beyond the link wrote it.
const HOPS: u8 = 255;
/// Lengths of the Ethernet and IPv6 headers, and of an advertisement with one option.
const HEADERS: usize = 14 + 40;
const LENGTH: usize = 24 + 8;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Multicast groups joined at most; clients that route a block by its anchor need one.
const MOST_GROUPS: usize = 256;

/// Lets neighbour solicitations through and nothing else (bpf(4) over the Ethernet frame).
const FILTER: [SockFilter; 8] = [
    SockFilter::new(0x28, 0, 0, 12),
    SockFilter::new(0x15, 0, 5, ETHERTYPE_IPV6 as u32),
    SockFilter::new(0x30, 0, 0, 20),
    SockFilter::new(0x15, 0, 3, ICMPV6 as u32),
    SockFilter::new(0x30, 0, 0, 54),
    SockFilter::new(0x15, 0, 1, SOLICITATION as u32),
    SockFilter::new(0x06, 0, 0, 2_048),
    SockFilter::new(0x06, 0, 0, 0),
];

/// Speaks for blocks on one device.
#[derive(Debug)]
pub(super) struct Neighbour {
    socket: AsyncFd<Socket>,
    device: LinkAddr,
    mac: [u8; 6],
    blocks: Vec<IpNet>,
    /// Keeps the groups joined in which questions for our addresses are asked.
    _groups: Socket,
}

impl Neighbour {
    /// On the named device; `vips` are addresses that are asked for before anybody knows us.
    pub(super) fn new(name: &str, blocks: &[IpNet], vips: &[Ipv6Addr]) -> io::Result<Self> {
        let (device, mac) = link_of(name)?;
        let protocol = Protocol::from(i32::from(ETHERTYPE_IPV6.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), Some(protocol))?;
        socket.attach_filter(&FILTER)?;
        bind(socket.as_raw_fd(), &device)?;
        let groups = Socket::new(Domain::IPV6, Type::DGRAM.cloexec(), None)?;
        let index = if_nametoindex(name)?;
        let mut joined = Vec::new();
        for vip in vips {
            let group = asked_in(*vip);
            if joined.len() < MOST_GROUPS && !joined.contains(&group) {
                groups.join_multicast_v6(&group, index)?;
                joined.push(group);
            }
        }
        let socket = watched(socket)?;
        Ok(Self { socket, device, mac, blocks: blocks.to_vec(), _groups: groups })
    }

    /// Tells all neighbours once that these addresses are here.
    pub(super) fn announce(&self, vips: &[Ipv6Addr]) -> io::Result<()> {
        vips.iter().try_for_each(|vip| self.send(&advertisement(self.mac, *vip, None)))
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        sendto(self.socket.as_raw_fd(), frame, &self.device, MsgFlags::empty())?;
        Ok(())
    }

    /// Answers questions until the device is gone.
    pub(super) async fn answer(&self) -> io::Result<()> {
        let mut frame = [0; 2_048];
        loop {
            let mut ready = self.socket.readable().await?;
            match ready.try_io(|socket| socket.get_ref().read(&mut frame)) {
                Ok(Ok(n)) => {
                    let Some(asked) = Question::read(&frame[..n]) else { continue };
                    let ours =
                        self.blocks.iter().any(|block| block.contains(&std::net::IpAddr::V6(asked.target)));
                    if ours && asked.mac != self.mac {
                        // A lost answer is asked for again.
                        let _ = self.send(&advertisement(self.mac, asked.target, Some(&asked)));
                    }
                }
                Ok(Err(error)) => return Err(error),
                // Not readable after all.
                Err(_) => {}
            }
        }
    }
}

#[expect(
    deprecated,
    reason = "the other constructor is unsafe; this socket owns its descriptor and never changes it"
)]
fn watched(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    AsyncFd::new(socket)
}

/// Who asks for which address.
#[derive(Debug, PartialEq, Eq)]
struct Question {
    mac: [u8; 6],
    /// Unspecified while it looks for duplicates of its own address.
    from: Ipv6Addr,
    target: Ipv6Addr,
}

impl Question {
    /// Reads a solicitation; nothing if it breaks a rule of RFC 4861 7.1.1.
    fn read(frame: &[u8]) -> Option<Self> {
        let (head, icmp) = frame.split_at_checked(HEADERS)?;
        let ethertype = u16::from_be_bytes([head[12], head[13]]);
        let rules = [ethertype == ETHERTYPE_IPV6, head[20] == ICMPV6, head[21] == HOPS];
        let body = icmp.get(..24)?;
        if rules.contains(&false) || body[0] != SOLICITATION || body[1] != 0 {
            return None;
        }
        let target = address(&body[8..24])?;
        let from = address(&head[22..38])?;
        let mac = head[6..12].try_into().ok()?;
        (!target.is_multicast()).then_some(Self { mac, from, target })
    }
}

fn address(octets: &[u8]) -> Option<Ipv6Addr> {
    <[u8; 16]>::try_from(octets).ok().map(Ipv6Addr::from)
}

/// The group in which an address is asked for (RFC 4291 2.7.1).
fn asked_in(vip: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = vip.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

/// An advertisement of `vip`, to who asked or to all.
fn advertisement(mac: [u8; 6], vip: Ipv6Addr, asked: Option<&Question>) -> [u8; HEADERS + LENGTH] {
    // Who looks for duplicates has no address yet: everybody is told.
    let asked = asked.filter(|question| !question.from.is_unspecified());
    let (to, flags) = asked.map_or((ALL_NODES, 0x20), |question| (question.from, 0x60));
    let mut frame = [0; HEADERS + LENGTH];
    frame[..6].copy_from_slice(&asked.map_or([0x33, 0x33, 0, 0, 0, 1], |question| question.mac));
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&ETHERTYPE_IPV6.to_be_bytes());
    frame[14] = 0x60;
    frame[19] = LENGTH as u8;
    frame[20] = ICMPV6;
    frame[21] = HOPS;
    frame[22..38].copy_from_slice(&vip.octets());
    frame[38..54].copy_from_slice(&to.octets());
    let icmp = &mut frame[HEADERS..];
    icmp[0] = ADVERTISEMENT;
    // Solicited where it was; always overriding what was known.
    icmp[4] = flags;
    icmp[8..24].copy_from_slice(&vip.octets());
    // The target's link-layer address, one unit of eight octets.
    icmp[24..26].copy_from_slice(&[2, 1]);
    icmp[26..32].copy_from_slice(&mac);
    let sum = checksum(&frame);
    frame[HEADERS + 2..HEADERS + 4].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// The checksum over addresses, length, protocol and message (RFC 4443 2.3).
fn checksum(frame: &[u8; HEADERS + LENGTH]) -> u16 {
    let words = frame[22..].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum::<u32>() + LENGTH as u32 + u32::from(ICMPV6);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// For [`crate::fuzzing`]: what is taken for a question gets an answer that names its target, with a sum that
/// holds.
pub(crate) fn fuzz(data: &[u8]) {
    let Some(question) = Question::read(data) else { return };
    let mut frame = advertisement([2; 6], question.target, Some(&question));
    assert_eq!(frame[HEADERS + 8..HEADERS + 24], question.target.octets());
    let sum = u16::from_be_bytes([frame[HEADERS + 2], frame[HEADERS + 3]]);
    frame[HEADERS + 2..HEADERS + 4].fill(0);
    assert_eq!(checksum(&frame), sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

    fn question(from: &str) -> Vec<u8> {
        let mut frame = advertisement([2, 0, 0, 0, 0, 1], "fd00::7".parse().unwrap(), None).to_vec();
        frame[22..38].copy_from_slice(&from.parse::<Ipv6Addr>().unwrap().octets());
        frame[HEADERS] = SOLICITATION;
        frame
    }

    #[test]
    fn a_question_is_answered_to_who_asked() {
        let asked = Question::read(&question("fd00::1")).unwrap();
        let answer = advertisement(MAC, asked.target, Some(&asked));
        assert_eq!(answer[..6], [2, 0, 0, 0, 0, 1]);
        assert_eq!(answer[38..54], "fd00::1".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(answer[HEADERS + 4], 0x60);
        assert_eq!(answer[HEADERS + 26..], MAC);
        // A sum over all of it, its checksum included, is all ones.
        assert_eq!(checksum(&answer), 0);
        let duplicate = Question::read(&question("::")).unwrap();
        let answer = advertisement(MAC, duplicate.target, Some(&duplicate));
        assert_eq!((answer[0], answer[HEADERS + 4]), (0x33, 0x20));
    }

    #[test]
    fn what_is_no_question_is_ignored() {
        for (at, value) in
            [(12, 8), (20, 17), (21, 64), (HEADERS, 136), (HEADERS + 1, 1), (HEADERS + 8, 0xff)]
        {
            let mut frame = question("fd00::1");
            frame[at] = value;
            assert_eq!(Question::read(&frame), None, "octet {at}");
        }
        for length in 0..HEADERS + 24 {
            assert_eq!(Question::read(&question("fd00::1")[..length]), None);
        }
    }

    #[test]
    fn an_address_is_asked_for_in_its_group() {
        assert_eq!(asked_in("fd00::12:3456".parse().unwrap()).to_string(), "ff02::1:ff12:3456");
    }
}
