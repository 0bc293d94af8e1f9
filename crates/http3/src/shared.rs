//! What all handles of one connection share: settings, GOAWAY state, the
//! broken rule that ended it. Touched when streams open and close, never on
//! the data path.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::{Notify, watch};

use crate::code::Code;
use crate::config::Config;
use crate::datagram::Demux;
use crate::error::{ConnectionError, Scope, StreamError, Violation};
use crate::qpack::Limits;
use crate::role::Role;
use crate::settings::Settings;

/// Which requests of the peer we take.
#[derive(Debug, Default)]
struct Gate {
    /// Stream id that follows the last one taken.
    next: u64,
    /// The id of our GOAWAY: nothing from here on is taken.
    limit: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    quic: quinn::Connection,
    pub(crate) role: Role,
    pub(crate) config: Config,
    pub(crate) peer_settings: watch::Sender<Option<Settings>>,
    /// The id of the peer's GOAWAY.
    pub(crate) peer_goaway: watch::Sender<Option<u64>>,
    pub(crate) datagrams: Demux,
    gate: Mutex<Gate>,
    pub(crate) goaway_wanted: Notify,
    violation: OnceLock<Violation>,
}

impl Shared {
    pub(crate) fn new(quic: quinn::Connection, role: Role, config: Config) -> Arc<Self> {
        let datagrams = Demux::new(config.datagrams_per_stream, config.early_datagrams);
        let shared = Self {
            quic,
            role,
            config,
            peer_settings: watch::Sender::new(None),
            peer_goaway: watch::Sender::new(None),
            datagrams,
            gate: Mutex::default(),
            goaway_wanted: Notify::new(),
            violation: OnceLock::new(),
        };
        shared.gate().next = shared.request_bits();
        Arc::new(shared)
    }

    pub(crate) fn quic(&self) -> &quinn::Connection {
        &self.quic
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The low two bits of request stream ids (RFC 9000 2.1): they tell who
    /// dialled, which need not be who asks.
    pub(crate) fn request_bits(&self) -> u64 {
        let we_dialled = self.quic.side() == quinn::Side::Client;
        let requester_dialled = we_dialled == (self.role == Role::Requester);
        u64::from(!requester_dialled)
    }

    /// Whether a request on this stream may still be taken; if so, it counts
    /// as taken from here on.
    pub(crate) fn take(&self, id: u64) -> bool {
        let mut gate = self.gate();
        if gate.limit.is_some_and(|limit| id >= limit) {
            return false;
        }
        gate.next = gate.next.max(id + 4);
        true
    }

    /// Fixes the id of our GOAWAY, once.
    pub(crate) fn close_gate(&self) {
        let mut gate = self.gate();
        if gate.limit.is_none() {
            gate.limit = Some(gate.next);
            drop(gate);
            self.goaway_wanted.notify_waiters();
        }
    }

    /// The id of our GOAWAY, if there is one. A requester's names a push, and
    /// no push is ever taken.
    pub(crate) fn own_goaway(&self) -> Option<u64> {
        let limit = self.gate().limit?;
        Some(match self.role {
            Role::Responder => limit,
            Role::Requester => 0,
        })
    }

    /// Completes once our GOAWAY is decided.
    pub(crate) async fn gate_closed(&self) {
        loop {
            let notified = self.goaway_wanted.notified();
            if self.gate().limit.is_some() {
                return;
            }
            notified.await;
        }
    }

    pub(crate) fn datagrams_enabled(&self) -> bool {
        let peer = *self.peer_settings.borrow();
        self.config.datagrams && peer.is_some_and(|settings| settings.datagrams)
    }

    pub(crate) fn field_limits(&self) -> Limits {
        Limits { size: self.config.max_field_section, fields: self.config.max_fields }
    }

    /// Closes the connection unless it has ended: closing again would hide why.
    pub(crate) fn close(&self, code: Code, reason: &[u8]) {
        if self.quic.close_reason().is_none() {
            self.quic.close(code.quic(), reason);
        }
    }

    /// Closes the connection for a broken rule, once.
    pub(crate) fn fail(&self, violation: Violation) -> ConnectionError {
        let first = *self.violation.get_or_init(|| violation);
        self.close(first.code, first.reason.as_bytes());
        ConnectionError::Violation(first)
    }

    /// The reason behind a QUIC error: our own close says nothing by itself.
    pub(crate) fn explain(&self, error: quinn::ConnectionError) -> ConnectionError {
        match (error, self.violation.get()) {
            (quinn::ConnectionError::LocallyClosed, Some(violation)) => {
                ConnectionError::Violation(*violation)
            }
            (error, _) => error.into(),
        }
    }

    /// Ends what the violation says has to end, and tells the reader.
    pub(crate) fn judge(&self, violation: Violation) -> StreamError {
        match violation.scope {
            Scope::Stream => StreamError::Violation(violation),
            Scope::Connection => StreamError::Connection(self.fail(violation)),
        }
    }
}
