//! Any async stream (a TLS connection, a stream inside HTTP/2) as source and sink.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};

use super::{Broken, Sink, Source};

const READ: usize = 16 << 10;

/// Both halves of a stream.
#[derive(Debug)]
pub(crate) struct IoEnd<T> {
    /// The reading half.
    pub(crate) source: IoSource<T>,
    /// The writing half.
    pub(crate) sink: IoSink<T>,
}

impl<T: AsyncRead + AsyncWrite> IoEnd<T> {
    /// Splits a stream.
    pub(crate) fn new(stream: T) -> Self {
        let (read, write) = split(stream);
        Self { source: IoSource { read, buffer: BytesMut::new() }, sink: IoSink { write } }
    }
}

/// The reading half of [`IoEnd`].
#[derive(Debug)]
pub(crate) struct IoSource<T> {
    read: ReadHalf<T>,
    buffer: BytesMut,
}

impl<T: AsyncRead + Send> Source for IoSource<T> {
    async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        self.buffer.reserve(READ);
        match self.read.read_buf(&mut self.buffer).await {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(self.buffer.split().freeze())),
            Err(_) => Err(Broken::Reset),
        }
    }

    fn stop(&mut self) {}
}

/// The writing half of [`IoEnd`].
#[derive(Debug)]
pub(crate) struct IoSink<T> {
    write: WriteHalf<T>,
}

impl<T: AsyncWrite + Send> Sink for IoSink<T> {
    async fn put(&mut self, chunk: Bytes) -> Result<(), Broken> {
        self.write.write_all(&chunk).await.map_err(|_| Broken::Reset)?;
        self.write.flush().await.map_err(|_| Broken::Reset)
    }

    async fn finish(&mut self) -> Result<(), Broken> {
        self.write.shutdown().await.map_err(|_| Broken::Reset)
    }

    fn reset(&mut self) {}
}
