//! A stream inside an HTTP/2 connection as source and sink: the relay's side of a splice.

use std::future::poll_fn;

use bytes::Bytes;

use super::{Broken, Sink, Source};

/// The reading half.
#[derive(Debug)]
pub(crate) struct H2Source(pub(crate) h2::RecvStream);

impl Source for H2Source {
    async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        loop {
            let Some(piece) = poll_fn(|cx| self.0.poll_data(cx)).await else { return Ok(None) };
            let piece = piece.map_err(|_| Broken::Reset)?;
            self.0.flow_control().release_capacity(piece.len()).map_err(|_| Broken::Reset)?;
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
    }

    fn stop(&mut self) {}
}

/// The writing half.
#[derive(Debug)]
pub(crate) struct H2Sink(pub(crate) h2::SendStream<Bytes>);

impl Sink for H2Sink {
    async fn put(&mut self, mut chunk: Bytes) -> Result<(), Broken> {
        while !chunk.is_empty() {
            self.0.reserve_capacity(chunk.len());
            let granted = match self.0.capacity() {
                0 => match poll_fn(|cx| self.0.poll_capacity(cx)).await {
                    Some(Ok(granted)) => granted,
                    Some(Err(_)) | None => return Err(Broken::Reset),
                },
                granted => granted,
            };
            let piece = chunk.split_to(granted.min(chunk.len()));
            if !piece.is_empty() {
                self.0.send_data(piece, false).map_err(|_| Broken::Reset)?;
            }
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), Broken> {
        self.0.send_data(Bytes::new(), true).map_err(|_| Broken::Reset)
    }

    fn reset(&mut self) {
        self.0.send_reset(h2::Reason::CONNECT_ERROR);
    }
}
