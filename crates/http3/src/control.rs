//! The peer's control stream (RFC 9114 6.2.1): an incremental reader that turns
//! its bytes into events and knows every way to get it wrong. Fed by the
//! driver; pure.

use bytes::Bytes;

use crate::code::Code;
use crate::error::Violation;
use crate::frame::{self, Action, Decoded, Decoder, kind};
use crate::role::Role;
use crate::settings::Settings;
use crate::varint;

/// Longest SETTINGS payload we take, in bytes.
const MAX_SETTINGS_LENGTH: u64 = 4096;

/// What the peer said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlEvent {
    /// Its settings, exactly once and first.
    Settings(Settings),
    /// No requests from this stream id on (as seen by a requester), or no
    /// pushes from this push id on.
    GoAway(u64),
}

/// Reader of one control stream.
#[derive(Debug)]
pub struct ControlReader {
    role: Role,
    /// The low two bits of stream ids that requests on this connection have.
    request_bits: u64,
    max_unknown: u64,
    decoder: Decoder,
    settled: bool,
    goaway: u64,
    max_push: Option<u64>,
}

impl ControlReader {
    /// `role` is ours; `request_bits` are the low two bits of request stream
    /// ids; `max_unknown` bounds unknown frames in bytes.
    pub fn new(role: Role, request_bits: u64, max_unknown: u64) -> Self {
        Self {
            role,
            request_bits,
            max_unknown,
            decoder: Decoder::default(),
            settled: false,
            goaway: varint::MAX,
            max_push: None,
        }
    }

    /// The next event in `input`, or `None` when it is used up.
    pub fn next(&mut self, input: &mut Bytes) -> Result<Option<ControlEvent>, Violation> {
        loop {
            let Self { decoder, settled, role, max_unknown, .. } = self;
            let rule = |kind, length| rule(*role, *settled, *max_unknown, (kind, length));
            let (kind, payload) = match decoder.decode(input, rule)? {
                Decoded::NeedMore => return Ok(None),
                Decoded::Data(_) => continue,
                Decoded::Frame(kind, payload) => (kind, payload),
            };
            if let Some(event) = self.frame(kind, &payload)? {
                return Ok(Some(event));
            }
        }
    }

    fn frame(&mut self, kind: u64, payload: &[u8]) -> Result<Option<ControlEvent>, Violation> {
        if kind == kind::SETTINGS {
            self.settled = true;
            return Ok(Some(ControlEvent::Settings(Settings::decode(payload)?)));
        }
        let id = match varint::decode(payload) {
            Some((id, length)) if length == payload.len() => id,
            _ => return Err(connection(Code::H3_FRAME_ERROR, "bad id in a frame")),
        };
        match kind {
            kind::GOAWAY => self.goaway(id).map(Some),
            kind::MAX_PUSH_ID if self.max_push.is_some_and(|old| id < old) => {
                Err(connection(Code::H3_ID_ERROR, "MAX_PUSH_ID went back"))
            }
            kind::MAX_PUSH_ID => {
                self.max_push = Some(id);
                Ok(None)
            }
            // Nothing is ever pushed here, so no push can be cancelled.
            _ => Err(connection(Code::H3_ID_ERROR, "unknown push id")),
        }
    }

    fn goaway(&mut self, id: u64) -> Result<ControlEvent, Violation> {
        if self.role == Role::Requester && id & 3 != self.request_bits {
            return Err(connection(Code::H3_ID_ERROR, "GOAWAY of a wrong stream"));
        }
        if id > self.goaway {
            return Err(connection(Code::H3_ID_ERROR, "GOAWAY went up"));
        }
        self.goaway = id;
        Ok(ControlEvent::GoAway(id))
    }
}

const fn connection(code: Code, reason: &'static str) -> Violation {
    Violation::connection(code, reason)
}

/// What to do with a frame that begins.
fn rule(
    role: Role,
    settled: bool,
    max_unknown: u64,
    (kind, length): (u64, u64),
) -> Result<Action, Violation> {
    if (kind == kind::SETTINGS) == settled {
        return Err(match settled {
            true => connection(Code::H3_FRAME_UNEXPECTED, "second SETTINGS"),
            false => connection(Code::H3_MISSING_SETTINGS, "no SETTINGS first"),
        });
    }
    let push_of_responder = kind == kind::MAX_PUSH_ID && role == Role::Requester;
    let not_here = matches!(kind, kind::DATA | kind::HEADERS | kind::PUSH_PROMISE);
    if not_here || push_of_responder || frame::is_http2_only(kind) {
        let code = Code::H3_FRAME_UNEXPECTED;
        return Err(connection(code, "frame not allowed on a control stream"));
    }
    let (limit, action) = match kind {
        kind::SETTINGS => (MAX_SETTINGS_LENGTH, Action::Collect),
        kind::GOAWAY | kind::MAX_PUSH_ID | kind::CANCEL_PUSH => (8, Action::Collect),
        _ => (max_unknown, Action::Skip),
    };
    if length <= limit {
        return Ok(action);
    }
    Err(match limit {
        8 => connection(Code::H3_FRAME_ERROR, "bad id in a frame"),
        _ => connection(Code::H3_EXCESSIVE_LOAD, "frame too long"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(role: Role, bytes: &[u8]) -> Result<Vec<ControlEvent>, Code> {
        let mut reader = ControlReader::new(role, 0, 1000);
        let mut events = Vec::new();
        for byte in bytes {
            let mut input = Bytes::copy_from_slice(&[*byte]);
            while let Some(event) = reader.next(&mut input).map_err(|v| v.code)? {
                events.push(event);
            }
        }
        Ok(events)
    }

    #[test]
    fn settings_then_goaway() {
        let bytes = [0x04, 2, 0x33, 1, 0x21, 3, 9, 9, 9, 0x07, 1, 8, 0x07, 1, 4];
        let events = read(Role::Requester, &bytes).unwrap();
        assert!(matches!(events[0], ControlEvent::Settings(s) if s.datagrams));
        assert_eq!(events[1..], [ControlEvent::GoAway(8), ControlEvent::GoAway(4)]);
    }

    #[test]
    fn every_misuse_has_its_code() {
        let bad = |role, bytes: &[u8]| read(role, bytes).unwrap_err();
        let requester = |bytes: &[u8]| bad(Role::Requester, bytes);
        assert_eq!(requester(&[0x07, 1, 0]), Code::H3_MISSING_SETTINGS);
        assert_eq!(requester(&[0x21, 0]), Code::H3_MISSING_SETTINGS);
        assert_eq!(requester(&[4, 0, 4, 0]), Code::H3_FRAME_UNEXPECTED);
        assert_eq!(requester(&[4, 0, 0, 0]), Code::H3_FRAME_UNEXPECTED);
        assert_eq!(requester(&[4, 0, 1, 0]), Code::H3_FRAME_UNEXPECTED);
        assert_eq!(requester(&[4, 0, 2, 0]), Code::H3_FRAME_UNEXPECTED);
        assert_eq!(requester(&[4, 0, 5, 0]), Code::H3_FRAME_UNEXPECTED);
        assert_eq!(requester(&[4, 0, 0x0d, 1, 0]), Code::H3_FRAME_UNEXPECTED);
        assert_eq!(requester(&[4, 0, 3, 1, 0]), Code::H3_ID_ERROR);
        assert_eq!(requester(&[4, 0, 7, 1, 5]), Code::H3_ID_ERROR, "kind");
        assert_eq!(requester(&[4, 0, 7, 1, 4, 7, 1, 8]), Code::H3_ID_ERROR);
        assert_eq!(requester(&[4, 0, 7, 0]), Code::H3_FRAME_ERROR);
        assert_eq!(requester(&[4, 0, 7, 2, 4, 4]), Code::H3_FRAME_ERROR);
        assert_eq!(requester(&[4, 0, 7, 9]), Code::H3_FRAME_ERROR);
        assert_eq!(requester(&[4, 0x80, 0, 0x20, 0]), Code::H3_EXCESSIVE_LOAD);
        assert_eq!(requester(&[4, 0, 0x21, 0x47, 0xd0]), Code::H3_EXCESSIVE_LOAD);
        let responder = |bytes: &[u8]| bad(Role::Responder, bytes);
        assert_eq!(responder(&[4, 0, 13, 1, 5, 13, 1, 4]), Code::H3_ID_ERROR);
        assert!(read(Role::Responder, &[4, 0, 13, 1, 5, 13, 1, 6]).is_ok());
    }
}
