//! Limits of one connection. Set by the caller of `start`; the defaults suit a
//! tunnel between gateways.

use std::time::Duration;

use crate::settings::Settings;

/// Limits and abilities of our side.
#[derive(Debug, Clone)]
pub struct Config {
    /// Largest field section taken, in bytes by the rule of RFC 9114 4.2.2;
    /// also bounds a HEADERS frame on the wire. Announced to the peer.
    pub max_field_section: u64,
    /// Most fields in one section.
    pub max_fields: usize,
    /// Longest frame of an unknown type, in bytes.
    pub max_unknown_frame: u64,
    /// Bytes of unknown and empty frames taken on a request stream; content
    /// earns new credit byte by byte.
    pub waste_allowance: u64,
    /// Requests whose head is being read or that wait in `Requests`. Further
    /// ones wait inside the QUIC stream limit.
    pub accept_queue: usize,
    /// How long a request's head may take from its first byte, and the peer's
    /// SETTINGS where they are needed.
    pub head_timeout: Duration,
    /// Largest piece of content handed over at once, in bytes.
    pub max_chunk: usize,
    /// Whether extended CONNECT (RFC 9220) is served.
    pub extended_connect: bool,
    /// Whether HTTP datagrams (RFC 9297) are understood. The QUIC transport
    /// must have its datagram receive buffer on.
    pub datagrams: bool,
    /// Received datagrams that wait per stream.
    pub datagrams_per_stream: usize,
    /// Received datagrams that wait, over all streams, for their request.
    pub early_datagrams: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_field_section: 64 * 1024,
            max_fields: 256,
            max_unknown_frame: 64 * 1024,
            waste_allowance: 64 * 1024,
            accept_queue: 256,
            head_timeout: Duration::from_secs(10),
            max_chunk: 64 * 1024,
            extended_connect: true,
            datagrams: true,
            datagrams_per_stream: 256,
            early_datagrams: 64,
        }
    }
}

impl Config {
    /// What our SETTINGS say.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            max_field_section: Some(self.max_field_section.min(crate::varint::MAX)),
            extended_connect: self.extended_connect,
            datagrams: self.datagrams,
            ..Settings::default()
        }
    }
}
