//! A TCP connection as source and sink. A buffer exists only between "readable" and the write.

use std::cell::RefCell;
use std::io;
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
