//! Tests of `splice`.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

async fn pair() -> (TcpStream, Arc<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dial = TcpStream::connect(listener.local_addr().unwrap());
    let (near, far) = tokio::join!(dial, listener.accept());
    (near.unwrap(), Arc::new(far.unwrap().0))
}

fn bounds(idle: Duration) -> Bounds {
    Bounds { idle, closing: CancellationToken::new() }
}

async fn run(client: Arc<TcpStream>, service: Arc<TcpStream>, bounds: Bounds) -> (Outcome, (u64, u64)) {
    let moved = Moved::default();
    let (mut cs, mut ck) = (TcpSource::new(client.clone()), TcpSink::new(client));
    let (mut ss, mut sk) = (TcpSource::new(service.clone()), TcpSink::new(service));
    let outcome = splice((&mut cs, &mut ck), (&mut ss, &mut sk), &moved, &bounds).await;
    (outcome, moved.get())
}

#[tokio::test]
async fn half_close_passes_and_both_ends_count() {
    let ((mut client, c), (mut service, s)) = (pair().await, pair().await);
    let task = tokio::spawn(run(c, s, bounds(Duration::from_secs(60))));
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut got = Vec::new();
    service.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"question");
    service.write_all(&[9; 300_000]).await.unwrap();
    drop(service);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer.len(), 300_000);
    assert_eq!(task.await.unwrap(), (Outcome::Done, (8, 300_000)));
}

#[tokio::test]
async fn a_reset_arrives_as_a_reset() {
    let ((client, c), (mut service, s)) = (pair().await, pair().await);
    let task = tokio::spawn(run(c, s, bounds(Duration::from_secs(60))));
    client.set_zero_linger().unwrap();
    drop(client);
    let error = service.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(task.await.unwrap().0, Outcome::ClientReset);
}

#[tokio::test]
async fn silence_and_the_drain_deadline_end_it() {
    let ((mut client, c), (_service, s)) = (pair().await, pair().await);
    assert_eq!(run(c, s, bounds(Duration::from_millis(20))).await.0, Outcome::Idle);
    assert!(client.read(&mut [0; 1]).await.is_err());
    let ((_client, c), (_service, s)) = (pair().await, pair().await);
    let limits = bounds(Duration::from_secs(60));
    limits.closing.cancel();
    assert_eq!(run(c, s, limits).await.0, Outcome::DrainDeadline);
}
