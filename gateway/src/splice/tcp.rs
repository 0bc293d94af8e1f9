//! A TCP connection as source and sink. A buffer exists only between "readable" and the write.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::{Broken, Sink, Source};

/// The first read of a burst takes so much, over a buffer of the thread; a full one is followed by
/// larger ones into the heap.
const LEAST_READ: usize = 4 << 10;
/// The largest read.
const MOST_READ: usize = 64 << 10;
/// Shorter reads are copied, so that a queue of small chunks does not pin large buffers.
const COPY_BELOW: usize = 1 << 10;
/// Most chunks given to the kernel in one call.
const MOST_SLICES: usize = 32;

thread_local! {
    /// For first reads of a burst: short ones never touch the heap with more than they are.
    static SCRATCH: RefCell<[u8; LEAST_READ]> = const { RefCell::new([0; LEAST_READ]) };
}

/// Makes the close of this socket a reset instead of a FIN.
pub(crate) fn reset_on_drop(stream: &TcpStream) {
    // It fails only on a socket that is already gone.
    let _ = stream.set_zero_linger();
}

/// The reading half.
#[derive(Debug)]
pub(crate) struct TcpSource {
    stream: Arc<TcpStream>,
    size: usize,
}

impl TcpSource {
    /// Reads from `stream`.
    pub(crate) fn new(stream: Arc<TcpStream>) -> Self {
        Self { stream, size: LEAST_READ }
    }

    fn read(&mut self) -> io::Result<Bytes> {
        if self.size <= LEAST_READ {
            let read = SCRATCH.with_borrow_mut(|scratch| {
                let n = self.stream.try_read(&mut scratch[..])?;
                io::Result::Ok(Bytes::copy_from_slice(&scratch[..n]))
            })?;
            if read.len() == LEAST_READ {
                self.size = LEAST_READ * 4;
            }
            return Ok(read);
        }
        let mut buffer = BytesMut::with_capacity(self.size);
        let n = match self.stream.try_read_buf(&mut buffer) {
            Ok(n) => n,
            Err(error) => {
                self.size = LEAST_READ;
                return Err(error);
            }
        };
        if n >= self.size {
            self.size = (self.size * 2).min(MOST_READ);
        }
        if n < COPY_BELOW { Ok(Bytes::copy_from_slice(&buffer)) } else { Ok(buffer.freeze()) }
    }
}

impl Source for TcpSource {
    async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        loop {
            self.stream.readable().await.map_err(|_| Broken::Reset)?;
            match self.read() {
                Ok(chunk) if chunk.is_empty() => return Ok(None),
                Ok(chunk) => return Ok(Some(chunk)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(Broken::Reset),
            }
        }
    }

    async fn broken(&mut self) -> Broken {
        // EPOLLERR comes with a reset even when nobody reads any more.
        let _ = self.stream.ready(Interest::ERROR).await;
        Broken::Reset
    }

    fn stop(&mut self) {
        reset_on_drop(&self.stream);
    }
}

/// What is left of `chunks` behind the first `n` bytes: the chunks, and how much of the first is done.
fn behind(mut chunks: &[Bytes], mut n: usize) -> (&[Bytes], usize) {
    while let Some((first, rest)) = chunks.split_first() {
        if n < first.len() {
            break;
        }
        n -= first.len();
        chunks = rest;
    }
    (chunks, n)
}

/// The writing half.
#[derive(Debug)]
pub(crate) struct TcpSink {
    stream: Arc<TcpStream>,
}

impl TcpSink {
    /// Writes to `stream`.
    pub(crate) fn new(stream: Arc<TcpStream>) -> Self {
        Self { stream }
    }

    /// Writes what fits of `chunks`, without the first `done` bytes.
    fn write(&self, chunks: &[Bytes], done: usize) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); MOST_SLICES];
        let count = chunks.len().min(MOST_SLICES);
        for (slice, chunk) in slices.iter_mut().zip(chunks) {
            *slice = IoSlice::new(chunk);
        }
        slices[0].advance(done);
        self.stream.try_write_vectored(&slices[..count])
    }
}

impl Sink for TcpSink {
    async fn put(&mut self, mut chunk: Bytes) -> Result<(), Broken> {
        while !chunk.is_empty() {
            match self.stream.try_write(&chunk) {
                Ok(n) => drop(chunk.split_to(n)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stream.writable().await.map_err(|_| Broken::Reset)?;
                }
                Err(_) => return Err(Broken::Reset),
            }
        }
        Ok(())
    }

    /// One call to the kernel for many packets' worth of content.
    async fn put_batch(&mut self, batch: Vec<Bytes>) -> Result<(), Broken> {
        let mut rest = batch.as_slice();
        // Bytes of the first chunk that were written already.
        let mut done = 0;
        while !rest.is_empty() {
            match self.write(rest, done) {
                Ok(n) => (rest, done) = behind(rest, done + n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stream.writable().await.map_err(|_| Broken::Reset)?;
                }
                Err(_) => return Err(Broken::Reset),
            }
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), Broken> {
        match SockRef::from(&*self.stream).shutdown(Shutdown::Write) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            Err(_) => Err(Broken::Reset),
        }
    }

    fn reset(&mut self) {
        reset_on_drop(&self.stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_batch_is_written_in_order_through_a_full_socket() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        // More than the buffers of both sockets hold, in chunks of uneven sizes.
        let batch: Vec<Bytes> = (0..2_000_usize).map(|i| Bytes::from(vec![i as u8; 1 + i * 7])).collect();
        let expected: Vec<u8> = batch.concat();
        let mut sink = TcpSink::new(Arc::new(client));
        let write = async {
            sink.put_batch(batch).await.unwrap();
            sink.finish().await.unwrap();
        };
        let mut got = Vec::new();
        let (_, read) = tokio::join!(write, tokio::io::AsyncReadExt::read_to_end(&mut server, &mut got));
        read.unwrap();
        assert!(got == expected);
    }
}
