//! Peers that send without end: memory and work stay bounded, and others go on.

use std::time::Duration;

use hansa_http3::frame::{self, kind};
use hansa_http3::{Code, Config, ConnectionError, OpenError, RequestHead, Role, StreamError};
use http::{HeaderValue, Method};

use crate::net::*;

fn head() -> Vec<u8> {
    let head = RequestHead::connect("a:1").encode().unwrap();
    frame::encode(kind::HEADERS, &head.finish()).to_vec()
}

#[tokio::test]
async fn endless_fields_end() {
    soon(async {
        let wire = wire().await;
        let _responder = end(wire.server.clone(), Role::Responder, Config::default());
        // Few bytes on the wire, very many fields: the static table pays.
        let mut block = vec![0, 0, 0xcf];
        block.extend([0xc0 | 2; 60_000]);
        let (mut send, mut recv) = wire.client.open_bi().await.unwrap();
        let bytes = frame::encode(kind::HEADERS, &block);
        send.write_all(&bytes).await.unwrap();
        let error = recv.read_to_end(10).await.unwrap_err();
        let reset = quinn::ReadError::Reset(Code::H3_EXCESSIVE_LOAD.quic());
        assert_eq!(error, quinn::ReadToEndError::Read(reset));
        assert!(wire.client.close_reason().is_none(), "only that stream");
    })
    .await;
}

#[tokio::test]
async fn a_sender_keeps_to_the_peers_limit() {
    soon(async {
        let narrow = Config { max_field_section: 200, ..Config::default() };
        let (requester, _responder, _wire) = pair_with(Dialler::Requester, Config::default(), narrow).await;
        let mut settings = requester.connection.peer_settings();
        settings.wait_for(Option::is_some).await.unwrap();
        let mut head = RequestHead::new(Method::GET, "a", "/");
        let long = HeaderValue::from_str(&"x".repeat(200)).unwrap();
        head.headers.insert("x-long", long);
        let error = requester.connection.request(&head).await.err();
        assert!(matches!(error, Some(OpenError::TooLarge { limit: 200, .. })));
    })
    .await;
}

#[tokio::test]
async fn very_many_streams_wait_outside() {
    soon(async {
        let mut transport = quinn::TransportConfig::default();
        transport.max_concurrent_bidi_streams(1000u32.into());
        let wire = wire_with(transport).await;
        let narrow = Config { accept_queue: 8, ..Config::default() };
        let mut responder = end(wire.server.clone(), Role::Responder, narrow);
        let mut held = Vec::new();
        for _ in 0..1000 {
            let (mut send, recv) = wire.client.open_bi().await.unwrap();
            send.write_all(&head()).await.unwrap();
            held.push((send, recv));
        }
        // All are served in the end, in order, as places become free.
        for index in 0..1000u64 {
            let (_, respond, _) = responder.requests.next().await.unwrap();
            assert_eq!(respond.id(), index * 4);
            respond.reject();
        }
        assert!(wire.client.close_reason().is_none());
    })
    .await;
}

#[tokio::test]
async fn a_slow_head_holds_up_nobody_and_ends() {
    soon(async {
        let wire = wire().await;
        let hasty = Config { head_timeout: Duration::from_millis(300), ..Config::default() };
        let mut responder = end(wire.server.clone(), Role::Responder, hasty);
        let (mut slow, mut slow_recv) = wire.client.open_bi().await.unwrap();
        slow.write_all(&head()[..3]).await.unwrap();
        let (mut quick, _recv) = wire.client.open_bi().await.unwrap();
        quick.write_all(&head()).await.unwrap();
        let (_, respond, _) = responder.requests.next().await.unwrap();
        assert_eq!(respond.id(), 4, "the second overtakes");
        let error = slow_recv.read_to_end(10).await.unwrap_err();
        let reset = quinn::ReadError::Reset(Code::H3_REQUEST_REJECTED.quic());
        assert_eq!(error, quinn::ReadToEndError::Read(reset));
    })
    .await;
}

#[tokio::test]
async fn endless_frames_without_content_end() {
    for waste in [&[0x21u8, 0][..], &[0x00, 0], &[0x40, 0x21, 0x03, 1, 2, 3]] {
        soon(async {
            let wire = wire().await;
            let mut responder = end(wire.server.clone(), Role::Responder, Config::default());
            let (mut send, _recv) = wire.client.open_bi().await.unwrap();
            send.write_all(&head()).await.unwrap();
            let (_, _respond, mut recv) = responder.requests.next().await.unwrap();
            let flood = waste.repeat(100_000);
            tokio::spawn(async move { send.write_all(&flood).await });
            let error = recv.data().await.unwrap_err();
            let StreamError::Connection(ConnectionError::Violation(violation)) = error else {
                panic!("not a broken rule: {error}");
            };
            assert_eq!(violation.code, Code::H3_EXCESSIVE_LOAD);
        })
        .await;
    }
}

#[tokio::test]
async fn grease_between_content_is_put_up_with_for_ever() {
    soon(async {
        let wire = wire().await;
        let mut responder = end(wire.server.clone(), Role::Responder, Config::default());
        let (mut send, _recv) = wire.client.open_bi().await.unwrap();
        send.write_all(&head()).await.unwrap();
        let mut bytes = frame::encode(0x21, b"grease").to_vec();
        bytes.extend(frame::encode(kind::DATA, &[7; 100]));
        let all = bytes.repeat(10_000);
        tokio::spawn(async move {
            send.write_all(&all).await?;
            send.finish()?;
            std::io::Result::Ok(())
        });
        let (_, _respond, mut recv) = responder.requests.next().await.unwrap();
        assert_eq!(read_all(&mut recv).await.len(), 1_000_000);
    })
    .await;
}

#[tokio::test]
async fn a_reader_that_stalls_stalls_its_stream_alone() {
    soon(async {
        let (requester, mut responder, _wire) = pair(Dialler::Requester).await;
        let head = RequestHead::connect("a:1");
        let (mut stuck, _r) = requester.connection.request(&head).await.unwrap();
        let (_, _respond, _unread) = responder.requests.next().await.unwrap();
        let big = bytes::Bytes::from(vec![0; 64 << 20]);
        let writing = tokio::spawn(async move { stuck.data(big).await });
        for _ in 0..50 {
            let opened = requester.connection.request_with(&head, bytes("x")).await;
            let (mut send, _recv) = opened.unwrap();
            send.finish().await.unwrap();
            let (_, _respond, mut recv) = responder.requests.next().await.unwrap();
            assert_eq!(read_all(&mut recv).await, b"x");
        }
        assert!(!writing.is_finished(), "no window is that large");
        writing.abort();
    })
    .await;
}
