//! TCP through a link: bytes stall while the path is closed and go on afterwards, as with lost packets.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::{Ends, Links, Pair, Transport};

/// How often a stalled direction counts itself as dropped, like a retransmission.
const RETRY: Duration = Duration::from_millis(200);

pub(crate) async fn run(links: Arc<Links>, ends: Ends) -> Result<()> {
    let listener = TcpListener::bind(ends.listen).await.with_context(|| ends.listen.to_string())?;
    loop {
        let Ok((stream, source)) = listener.accept().await else { continue };
        let pair = Pair::new(&links, Transport::Tcp, source.port(), ends.member);
        let links = Arc::clone(&links);
        tokio::spawn(async move {
            open(&links, &pair).await;
            // No gateway there: the caller sees its connection closed.
            let Ok(inner) = TcpStream::connect(ends.to).await else { return };
            let _ = (stream.set_nodelay(true), inner.set_nodelay(true));
            let ((a, b), (c, d)) = (stream.into_split(), inner.into_split());
            tokio::join!(copy(&links, &pair, (a, d)), copy(&links, &pair, (c, b)));
        });
    }
}

async fn copy(links: &Links, pair: &Pair, (mut from, mut to): (OwnedReadHalf, OwnedWriteHalf)) {
    let mut buffer = vec![0_u8; 64 * 1024];
    while let Ok(len) = from.read(&mut buffer).await {
        open(links, pair).await;
        let bytes = buffer.get(..len).unwrap_or_default();
        if len == 0 || !links.passes(Transport::Tcp, pair, len) || to.write_all(bytes).await.is_err() {
            break;
        }
    }
    // The other side may have closed first.
    let _ = to.shutdown().await;
}

/// Waits until the path is open.
async fn open(links: &Links, pair: &Pair) {
    let mut closed = links.closed.subscribe();
    loop {
        let shut = pair.cut(&closed.borrow_and_update()).is_some();
        if !shut {
            return;
        }
        links.passes(Transport::Tcp, pair, 0);
        let _ = tokio::time::timeout(RETRY, closed.changed()).await;
    }
}
