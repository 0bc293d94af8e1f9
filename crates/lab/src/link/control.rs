//! How a lab orders its links: one JSON line there, one back, over a socket in the lab's folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::{Closed, Links, Wan};
use crate::spec::MemberId;

/// An order to the links.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Order {
    /// Cuts a member off, or ends that.
    Cut(MemberId, bool),
    /// Blocks UDP, or ends that.
    Udp(bool),
    /// Makes the way of UDP long and lossy; TCP stays as it is.
    Wan(Wan),
    /// Reads a counter.
    Count(String),
}

/// What the links answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answer {
    /// What is closed now.
    pub closed: Closed,
    /// Packets and bytes of the counter asked for.
    pub count: Option<(u64, u64)>,
}

fn path(dir: &Path) -> PathBuf {
    dir.join("link.sock")
}

pub(super) async fn serve(links: Arc<Links>) -> Result<()> {
    let path = path(&links.dir);
    // Left by an earlier run.
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).with_context(|| path.display().to_string())?;
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        // Whoever asks badly gets no answer; the next one is served.
        let _ = tokio::time::timeout(Duration::from_secs(2), answer(&links, stream)).await;
    }
}

async fn answer(links: &Links, stream: UnixStream) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    (&mut stream).take(4096).read_line(&mut line).await?;
    let mut count = None;
    match serde_json::from_str(&line)? {
        Order::Cut(member, on) => links.closed.send_modify(|closed| {
            closed.cut.retain(|m| *m != member);
            if on {
                closed.cut.push(member);
            }
        }),
        Order::Udp(on) => links.closed.send_modify(|closed| closed.udp = on),
        Order::Wan(wan) => links.closed.send_modify(|closed| closed.wan = wan),
        Order::Count(name) => count = links.counter(&name).map(|c| (c.packets, c.bytes)),
    }
    let answer = Answer { closed: links.closed.borrow().clone(), count };
    stream.get_mut().write_all(&serde_json::to_vec(&answer)?).await?;
    Ok(())
}

/// Gives an order and returns the answer.
///
/// # Errors
/// When the links do not answer.
pub async fn ask(dir: &Path, order: &Order) -> Result<Answer> {
    let exchange = async {
        let mut stream = UnixStream::connect(path(dir)).await.context("the links of this lab are not up")?;
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut text = Vec::new();
        stream.take(64 * 1024).read_to_end(&mut text).await?;
        if text.is_empty() {
            bail!("the links do not understand {order:?}");
        }
        Ok(serde_json::from_slice(&text)?)
    };
    tokio::time::timeout(Duration::from_secs(2), exchange).await.context("the links do not answer")?
}
