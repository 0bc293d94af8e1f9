//! The SETTINGS payload (RFC 9114 7.2.4, RFC 9220, RFC 9297) to and from bytes.
//! Used by the control streams; unknown settings are ignored, as they must be.

use bytes::Bytes;

use crate::code::Code;
use crate::error::Violation;
use crate::frame;
use crate::varint;

const QPACK_MAX_TABLE_CAPACITY: u64 = 0x01;
const MAX_FIELD_SECTION_SIZE: u64 = 0x06;
const QPACK_BLOCKED_STREAMS: u64 = 0x07;
const ENABLE_CONNECT_PROTOCOL: u64 = 0x08;
const H3_DATAGRAM: u64 = 0x33;

/// A sane peer announces a dozen settings; more is an attack.
const MAX_SETTINGS: usize = 128;

/// One side's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Largest field section that side accepts, in bytes by the rule of
    /// RFC 9114 4.2.2; `None` is unlimited.
    pub max_field_section: Option<u64>,
    /// Extended CONNECT (RFC 9220) is served.
    pub extended_connect: bool,
    /// HTTP datagrams (RFC 9297) are understood.
    pub datagrams: bool,
    /// Capacity granted to the other side's QPACK encoder; ours is always 0.
    pub qpack_capacity: u64,
    /// Streams that may wait for QPACK updates; ours is always 0.
    pub qpack_blocked: u64,
}

impl Default for Settings {
    /// What holds before SETTINGS arrive.
    fn default() -> Self {
        Self {
            max_field_section: None,
            extended_connect: false,
            datagrams: false,
            qpack_capacity: 0,
            qpack_blocked: 0,
        }
    }
}

impl Settings {
    /// The SETTINGS frame, header included.
    pub fn encode(&self) -> Bytes {
        let mut payload = Vec::with_capacity(32);
        let mut put = |id, value| {
            varint::encode(id, &mut payload);
            varint::encode(value, &mut payload);
        };
        put(QPACK_MAX_TABLE_CAPACITY, self.qpack_capacity);
        put(QPACK_BLOCKED_STREAMS, self.qpack_blocked);
        if let Some(limit) = self.max_field_section {
            put(MAX_FIELD_SECTION_SIZE, limit);
        }
        put(ENABLE_CONNECT_PROTOCOL, u64::from(self.extended_connect));
        put(H3_DATAGRAM, u64::from(self.datagrams));
        frame::encode(frame::kind::SETTINGS, &payload)
    }

    /// Reads a SETTINGS payload.
    pub fn decode(mut payload: &[u8]) -> Result<Self, Violation> {
        let mut settings = Self::default();
        let mut seen: Vec<u64> = Vec::with_capacity(8);
        while !payload.is_empty() {
            let id = varint::take(&mut payload).ok_or(CUT)?;
            let value = varint::take(&mut payload).ok_or(CUT)?;
            if seen.contains(&id) {
                return Err(wrong("setting given twice"));
            }
            if seen.len() == MAX_SETTINGS {
                let code = Code::H3_EXCESSIVE_LOAD;
                return Err(Violation::connection(code, "too many settings"));
            }
            seen.push(id);
            match id {
                MAX_FIELD_SECTION_SIZE => settings.max_field_section = Some(value),
                ENABLE_CONNECT_PROTOCOL => settings.extended_connect = flag(value)?,
                H3_DATAGRAM => settings.datagrams = flag(value)?,
                QPACK_MAX_TABLE_CAPACITY => settings.qpack_capacity = value,
                QPACK_BLOCKED_STREAMS => settings.qpack_blocked = value,
                0x02..=0x05 => return Err(wrong("setting of HTTP/2")),
                _ => {}
            }
        }
        Ok(settings)
    }
}

const CUT: Violation = Violation::connection(Code::H3_FRAME_ERROR, "cut SETTINGS frame");

const fn wrong(reason: &'static str) -> Violation {
    Violation::connection(Code::H3_SETTINGS_ERROR, reason)
}

fn flag(value: u64) -> Result<bool, Violation> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(wrong("setting must be 0 or 1")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn code(payload: &[u8]) -> Code {
        Settings::decode(payload).unwrap_err().code
    }

    #[test]
    fn broken_settings_have_their_codes() {
        assert_eq!(code(&[0x08, 2]), Code::H3_SETTINGS_ERROR);
        assert_eq!(code(&[0x33, 2]), Code::H3_SETTINGS_ERROR);
        assert_eq!(code(&[0x06, 9, 0x06, 9]), Code::H3_SETTINGS_ERROR);
        assert_eq!(code(&[0x04, 1]), Code::H3_SETTINGS_ERROR);
        assert_eq!(code(&[0x06]), Code::H3_FRAME_ERROR);
        assert_eq!(code(&[0x06, 0x40]), Code::H3_FRAME_ERROR);
        let many: Vec<u8> =
            (0..200u32).flat_map(|i| [&(0x8000_1000 + i).to_be_bytes()[..], &[0]].concat()).collect();
        assert_eq!(code(&many), Code::H3_EXCESSIVE_LOAD);
    }

    #[test]
    fn unknown_settings_are_ignored() {
        assert_eq!(Settings::decode(&[0x21, 7]).unwrap(), Settings::default());
    }

    proptest! {
        #[test]
        fn decode_undoes_encode(
            limit in prop::option::of(0..=varint::MAX),
            extended_connect: bool,
            datagrams: bool,
        ) {
            let settings = Settings {
                max_field_section: limit,
                extended_connect,
                datagrams,
                ..Settings::default()
            };
            let wire = settings.encode();
            let (_, _, header) = frame::decode_header(&wire).unwrap();
            prop_assert_eq!(Settings::decode(&wire[header..]).unwrap(), settings);
        }
    }
}
