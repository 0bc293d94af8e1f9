//! Whose share of a limit a stranger uses up.
//!
//! Asked by the gateway and the DNS server for limits by address. It keeps no count itself.

use std::net::IpAddr;

/// What an address is counted as: an IPv6 host has all addresses of its /64 (RFC 4291 2.5.4), so they
/// count as one; an IPv4 address in IPv6's clothes is that address.
#[must_use]
pub fn of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_one_whatever_address_of_its_network_it_shows() {
        let counted = |text: &str| of(text.parse().unwrap());
        assert_eq!(counted("2001:db8::1"), counted("2001:db8::ffff:2"));
        assert_ne!(counted("2001:db8::1"), counted("2001:db8:0:1::1"));
        assert_eq!(counted("::ffff:192.0.2.1"), counted("192.0.2.1"));
        assert_ne!(counted("192.0.2.1"), counted("192.0.2.2"));
    }
}
