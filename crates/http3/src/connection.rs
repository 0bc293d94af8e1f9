//! The handle of one HTTP/3 connection: opens requests, announces and watches
//! GOAWAY. Cheap to clone; the driver does everything else.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use crate::code::Code;
use crate::config::Config;
use crate::datagram::DatagramDrops;
use crate::driver::Driver;
use crate::error::{ConnectionError, OpenError};
use crate::message::RequestHead;
use crate::qpack::Encoder;
use crate::recv::{RecvStream, Request};
use crate::requests::{self, Requests};
use crate::role::Role;
use crate::send::SendStream;
use crate::settings::Settings;
use crate::shared::Shared;

/// Begins HTTP/3 on an established QUIC connection. `role` is independent of
/// who dialled. Nothing happens until the driver runs; it has to run as long as
/// the connection is wanted. For a requester, `Requests` ends at once.
pub fn start(quic: quinn::Connection, role: Role, config: Config) -> (Connection, Driver, Requests) {
    let shared = Shared::new(quic, role, config);
    let (queue, requests) = requests::channel(&shared);
    let driver = Driver::new(shared.clone(), queue);
    (Connection { shared }, driver, requests)
}

/// Handle of one connection.
#[derive(Debug, Clone)]
pub struct Connection {
    shared: Arc<Shared>,
}

/// A stream for one request whose head was not sent yet.
#[derive(Debug)]
pub struct Place {
    encoder: Encoder,
    send: SendStream,
    recv: RecvStream,
}

impl Place {
    /// Sends the head and the first content in one write. What fails without
    /// waiting has sent nothing. A dropped future cancels the request.
    pub async fn send(self, first: Bytes) -> Result<(SendStream, RecvStream), OpenError> {
        let Self { encoder, mut send, recv } = self;
        send.start_head(encoder, first);
        send.ready().await?;
        Ok((send, recv))
    }
}

impl Connection {
    /// Opens a request: waits for a stream the peer allows, sends the head.
    pub async fn request(&self, head: &RequestHead) -> Result<(SendStream, RecvStream), OpenError> {
        self.request_with(head, Bytes::new()).await
    }

    /// Opens a request and sends the head and the first content in one write,
    /// so that they leave in one packet when they fit. Does not wait for the
    /// answer. A dropped future cancels the request.
    ///
    /// An extended CONNECT waits for the peer's SETTINGS, which must allow it.
    pub async fn request_with(
        &self,
        head: &RequestHead,
        first: Bytes,
    ) -> Result<(SendStream, RecvStream), OpenError> {
        self.place(head).await?.send(first).await
    }

    /// Waits for a stream the peer allows, and for its SETTINGS where the head
    /// needs them. Whatever becomes of it, nothing of the request was sent yet.
    pub async fn place(&self, head: &RequestHead) -> Result<Place, OpenError> {
        let shared = &self.shared;
        if shared.role == Role::Responder {
            return Err(OpenError::WrongRole);
        }
        let encoder = head.encode().map_err(OpenError::Malformed)?;
        if head.protocol.is_some() && !self.settings().await?.extended_connect {
            return Err(OpenError::NoExtendedConnect);
        }
        let settings = *shared.peer_settings.borrow();
        if let Some(limit) = settings.and_then(|settings| settings.max_field_section) {
            let size = encoder.section_size();
            if size > limit {
                return Err(OpenError::TooLarge { size, limit });
            }
        }
        let (send, recv) = self.open().await?;
        let send = SendStream::new(send, shared.clone());
        let recv = RecvStream::new(recv, shared.clone(), Request::of(&head.method));
        Ok(Place { encoder, send, recv })
    }

    async fn open(&self) -> Result<(quinn::SendStream, quinn::RecvStream), OpenError> {
        if self.is_going_away() {
            return Err(self.gone());
        }
        let mut goaway = self.shared.peer_goaway.subscribe();
        tokio::select! {
            biased;
            _ = goaway.wait_for(Option::is_some) => Err(OpenError::GoingAway),
            () = self.shared.gate_closed() => Err(OpenError::GoingAway),
            opened = self.shared.quic().open_bi() => {
                opened.map_err(|error| OpenError::Connection(self.shared.explain(error)))
            }
        }
    }

    fn gone(&self) -> OpenError {
        match self.close_reason() {
            Some(error) => OpenError::Connection(error),
            None => OpenError::GoingAway,
        }
    }

    /// The peer's settings, waited for as long as a head may take; those before
    /// SETTINGS if they do not come.
    async fn settings(&self) -> Result<Settings, ConnectionError> {
        let mut watch = self.peer_settings();
        let timeout = self.shared.config.head_timeout;
        tokio::select! {
            biased;
            settings = watch.wait_for(Option::is_some) => {
                Ok(settings.ok().and_then(|settings| *settings).unwrap_or_default())
            }
            error = self.closed() => Err(error),
            () = tokio::time::sleep(timeout) => Ok(Settings::default()),
        }
    }

    /// Takes no new requests (responder) or makes none (requester) from here on
    /// and tells the peer. Those taken go on; later ones are rejected as
    /// unprocessed. Calling it again changes nothing.
    pub fn goaway(&self) {
        self.shared.close_gate();
    }

    /// Whether either side has sent GOAWAY or the connection has ended: open
    /// nothing new here.
    pub fn is_going_away(&self) -> bool {
        self.shared.own_goaway().is_some()
            || self.shared.peer_goaway.borrow().is_some()
            || self.shared.quic().close_reason().is_some()
    }

    /// The id of the peer's GOAWAY once it came. For a requester: streams from
    /// this id on were not processed.
    pub fn peer_goaway(&self) -> watch::Receiver<Option<u64>> {
        self.shared.peer_goaway.subscribe()
    }

    /// The peer's settings once they came.
    pub fn peer_settings(&self) -> watch::Receiver<Option<Settings>> {
        self.shared.peer_settings.subscribe()
    }

    /// Our part in the conversation.
    pub fn role(&self) -> Role {
        self.shared.role
    }

    /// The QUIC connection below: addresses, statistics, peer identity.
    pub fn quic(&self) -> &quinn::Connection {
        self.shared.quic()
    }

    /// Received datagrams that were thrown away.
    pub fn datagram_drops(&self) -> DatagramDrops {
        self.shared.datagrams.drops()
    }

    /// Closes the connection and all its streams at once.
    pub fn close(&self, code: Code, reason: &str) {
        self.shared.close(code, reason.as_bytes());
    }

    /// Why the connection ended, if it has.
    pub fn close_reason(&self) -> Option<ConnectionError> {
        let error = self.quic().close_reason()?;
        Some(self.shared.explain(error))
    }

    /// Completes when the connection has ended, with the reason.
    pub async fn closed(&self) -> ConnectionError {
        let error = self.quic().closed().await;
        self.shared.explain(error)
    }
}
