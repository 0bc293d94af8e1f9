//! Which frame may come when on a request stream (RFC 9114 4.1, 4.4, 7.2), and
//! how much of what carries no content is put up with. Pure; asked by the
//! stream once per frame.

use crate::code::Code;
use crate::config::Config;
use crate::error::Violation;
use crate::frame::{self, Action, kind};
use crate::role::Role;

/// How far the peer's message has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The head is awaited.
    Head,
    /// Content and then perhaps trailers.
    Body,
    /// The content of a CONNECT: DATA only.
    Tunnel,
    /// Trailers came.
    Tail,
}

#[derive(Debug)]
pub(super) struct Rules {
    role: Role,
    pub(super) phase: Phase,
    /// Content still owed, if its length was announced.
    pub(super) content: Option<u64>,
    max_head: u64,
    max_unknown: u64,
    allowance: u64,
    waste_left: u64,
}

pub(super) const HEAD_TOO_LARGE: Violation =
    Violation::stream(Code::H3_EXCESSIVE_LOAD, "field section exceeds a limit");

/// Rough cost of any frame that brings nothing.
const FRAME_COST: u64 = 16;

impl Rules {
    pub(super) fn new(role: Role, config: &Config) -> Self {
        Self {
            role,
            phase: Phase::Head,
            content: None,
            max_head: config.max_field_section,
            max_unknown: config.max_unknown_frame,
            allowance: config.waste_allowance,
            waste_left: config.waste_allowance,
        }
    }

    #[inline]
    pub(super) fn judge(&mut self, kind: u64, length: u64) -> Result<Action, Violation> {
        match kind {
            kind::DATA => self.data(length),
            kind::HEADERS if matches!(self.phase, Phase::Tunnel | Phase::Tail) => {
                Err(unexpected("HEADERS not allowed here"))
            }
            kind::HEADERS if length > self.max_head => Err(HEAD_TOO_LARGE),
            kind::HEADERS => Ok(Action::Collect),
            // We never allow pushes, so any promise exceeds the limit.
            kind::PUSH_PROMISE if self.role == Role::Requester => {
                let code = Code::H3_ID_ERROR;
                Err(Violation::connection(code, "push was not allowed"))
            }
            kind::SETTINGS | kind::GOAWAY | kind::MAX_PUSH_ID | kind::CANCEL_PUSH | kind::PUSH_PROMISE => {
                Err(unexpected("frame not allowed on a request stream"))
            }
            _ if frame::is_http2_only(kind) => Err(unexpected("frame of HTTP/2")),
            _ => self.unknown(length),
        }
    }

    /// Content gives back what unknown frames used up.
    #[inline]
    pub(super) fn earn(&mut self, length: usize) {
        self.waste_left = self.allowance.min(self.waste_left + length as u64);
    }

    fn data(&mut self, length: u64) -> Result<Action, Violation> {
        if matches!(self.phase, Phase::Head | Phase::Tail) {
            return Err(unexpected("DATA not allowed here"));
        }
        if let Some(left) = &mut self.content {
            let code = Code::H3_MESSAGE_ERROR;
            let more = Violation::stream(code, "more content than announced");
            *left = left.checked_sub(length).ok_or(more)?;
        }
        if length == 0 {
            self.waste(FRAME_COST)?;
        }
        Ok(Action::Stream)
    }

    fn unknown(&mut self, length: u64) -> Result<Action, Violation> {
        if length > self.max_unknown {
            let code = Code::H3_EXCESSIVE_LOAD;
            return Err(Violation::connection(code, "unknown frame too long"));
        }
        self.waste(length + FRAME_COST)?;
        Ok(Action::Skip)
    }

    fn waste(&mut self, cost: u64) -> Result<(), Violation> {
        let code = Code::H3_EXCESSIVE_LOAD;
        let much = Violation::connection(code, "too much that is no content");
        self.waste_left = self.waste_left.checked_sub(cost).ok_or(much)?;
        Ok(())
    }
}

const fn unexpected(reason: &'static str) -> Violation {
    Violation::connection(Code::H3_FRAME_UNEXPECTED, reason)
}
