//! A tunnel stream as source and sink.

use bytes::Bytes;
use hansa_http3::Code;

use super::{Broken, Sink, Source};
use crate::tunnel::{Cut, RecvHalf, SendHalf, StreamError};

impl From<StreamError> for Broken {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Lost(Cut::Removed(_)) => Broken::Removed,
            StreamError::Lost(Cut::Limit(_)) => Broken::Limit,
            StreamError::Lost(_) => Broken::Lost,
            StreamError::Rejected | StreamError::Reset(_) | StreamError::Protocol(_) => Broken::Reset,
        }
    }
}

impl Source for RecvHalf {
    async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        Ok(self.data().await?)
    }

    async fn next_batch(&mut self, batch: &mut Vec<Bytes>) -> Result<bool, Broken> {
        Ok(self.batch(batch).await?)
    }

    async fn evicted(&mut self) -> Broken {
        RecvHalf::evicted(self).await;
        Broken::Limit
    }

    fn stop(&mut self) {
        RecvHalf::stop(self, Code::H3_CONNECT_ERROR);
    }
}

impl Sink for SendHalf {
    async fn put(&mut self, chunk: Bytes) -> Result<(), Broken> {
        Ok(self.data(chunk).await?)
    }

    async fn finish(&mut self) -> Result<(), Broken> {
        Ok(SendHalf::finish(self).await?)
    }

    fn reset(&mut self) {
        SendHalf::reset(self, Code::H3_CONNECT_ERROR);
    }
}
