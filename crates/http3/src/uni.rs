//! The peer's unidirectional streams (RFC 9114 6.2, RFC 9204 4.2): at most one
//! control and one of each QPACK stream, all critical; others are refused. Run
//! by the driver; bounded in how many undecided streams it looks at.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::{Buf, Bytes};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::timeout;

use crate::code::Code;
use crate::control::{ControlEvent, ControlReader};
use crate::error::{ConnectionError, Violation};
use crate::qpack::{DecoderStream, EncoderStream};
use crate::role::Role;
use crate::shared::Shared;
use crate::varint;

pub(crate) const CONTROL: u64 = 0x00;
const PUSH: u64 = 0x01;
const QPACK_ENCODER: u64 = 0x02;
const QPACK_DECODER: u64 = 0x03;

/// Streams looked at beside each other: three critical ones, and some whose
/// type is still coming.
const MAX_STREAMS: usize = 19;

/// Control streams carry little; a small piece bounds what lies around.
const CHUNK: usize = 4096;

/// Takes the peer's unidirectional streams for as long as the connection lives.
pub(crate) async fn accept(shared: Arc<Shared>) -> Result<Infallible, ConnectionError> {
    let claimed = AtomicU8::new(0);
    let mut streams = FuturesUnordered::new();
    loop {
        let room = streams.len() < MAX_STREAMS;
        tokio::select! {
            biased;
            Some(done) = streams.next() => done?,
            accepted = shared.quic().accept_uni(), if room => {
                let stream = accepted.map_err(|error| shared.explain(error))?;
                streams.push(serve(&shared, &claimed, stream));
            }
        }
    }
}

async fn serve(
    shared: &Shared,
    claimed: &AtomicU8,
    mut stream: quinn::RecvStream,
) -> Result<(), ConnectionError> {
    let read = timeout(shared.config.head_timeout, read_type(&mut stream)).await;
    let Ok(Some((kind, rest))) = read else {
        // Ended or too slow before its type: no error (RFC 9114 6.2).
        let _ = stream.stop(Code::H3_STREAM_CREATION_ERROR.quic());
        return Ok(());
    };
    match kind {
        CONTROL | QPACK_ENCODER | QPACK_DECODER => {
            let bit = 1 << kind;
            if claimed.fetch_or(bit, Ordering::Relaxed) & bit != 0 {
                let code = Code::H3_STREAM_CREATION_ERROR;
                return Err(shared.fail(Violation::connection(code, "second critical stream")));
            }
            critical(shared, kind, stream, rest).await
        }
        PUSH => Err(shared.fail(match shared.role {
            Role::Requester => Violation::connection(Code::H3_ID_ERROR, "push was not allowed"),
            Role::Responder => Violation::connection(Code::H3_STREAM_CREATION_ERROR, "push by a requester"),
        })),
        _ => {
            let _ = stream.stop(Code::H3_STREAM_CREATION_ERROR.quic());
            Ok(())
        }
    }
}

/// The stream type and what came behind it.
async fn read_type(stream: &mut quinn::RecvStream) -> Option<(u64, Bytes)> {
    let mut have = Vec::with_capacity(8);
    loop {
        let mut chunk = stream.read_chunk(CHUNK, true).await.ok()??.bytes;
        while chunk.has_remaining() {
            have.push(chunk.get_u8());
            if let Some((kind, _)) = varint::decode(&have) {
                return Some((kind, chunk));
            }
        }
    }
}

enum Critical {
    Control(Box<ControlReader>),
    Encoder(EncoderStream),
    Decoder(DecoderStream),
}

impl Critical {
    fn new(shared: &Shared, kind: u64) -> Self {
        match kind {
            QPACK_ENCODER => Self::Encoder(EncoderStream::default()),
            QPACK_DECODER => Self::Decoder(DecoderStream::default()),
            _ => Self::Control(Box::new(ControlReader::new(
                shared.role,
                shared.request_bits(),
                shared.config.max_unknown_frame,
            ))),
        }
    }

    fn feed(&mut self, shared: &Shared, mut input: Bytes) -> Result<(), Violation> {
        match self {
            Self::Encoder(stream) => stream.feed(&input),
            Self::Decoder(stream) => stream.feed(&input),
            Self::Control(reader) => {
                while let Some(event) = reader.next(&mut input)? {
                    match event {
                        ControlEvent::Settings(it) => drop(shared.peer_settings.send_replace(Some(it))),
                        ControlEvent::GoAway(id) => drop(shared.peer_goaway.send_replace(Some(id))),
                    }
                }
                Ok(())
            }
        }
    }
}

/// Reads a critical stream, which ends only with the connection.
async fn critical(
    shared: &Shared,
    kind: u64,
    mut stream: quinn::RecvStream,
    mut input: Bytes,
) -> Result<(), ConnectionError> {
    let mut reader = Critical::new(shared, kind);
    loop {
        if let Err(violation) = reader.feed(shared, input) {
            return Err(shared.fail(violation));
        }
        input = match stream.read_chunk(CHUNK, true).await {
            Ok(Some(chunk)) => chunk.bytes,
            Err(quinn::ReadError::ConnectionLost(error)) => return Err(shared.explain(error)),
            Ok(None) | Err(_) => {
                let code = Code::H3_CLOSED_CRITICAL_STREAM;
                return Err(shared.fail(Violation::connection(code, "critical stream closed")));
            }
        };
    }
}
