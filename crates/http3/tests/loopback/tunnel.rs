//! CONNECT, ordinary requests and extended CONNECT between two of our ends, in
//! both directions of dialling.

use bytes::Bytes;
use hansa_http3::{Code, Config, OpenError, RequestHead, ResponseHead, Role, StreamError};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use crate::net::*;

fn ok() -> ResponseHead {
    ResponseHead::new(StatusCode::OK)
}

/// Answers every request with 200 and its content, half-closing as it does.
fn echo(mut responder: End) -> tokio::task::JoinHandle<End> {
    tokio::spawn(async move {
        while let Some((_, respond, mut recv)) = responder.requests.next().await {
            tokio::spawn(async move {
                let mut send = respond.respond(&ok()).await?;
                while let Some(piece) = recv.data().await? {
                    send.data(piece).await?;
                }
                send.finish().await
            });
        }
        responder
    })
}

#[tokio::test]
async fn connect_echoes_in_both_roles() {
    for dialler in BOTH {
        soon(async {
            let (requester, responder, _wire) = pair(dialler).await;
            let _server = echo(responder);
            let head = RequestHead::connect("checkout.shop.svc.clusterset.local:80");
            let opened = requester.connection.request_with(&head, bytes("first "));
            let (mut send, mut recv) = opened.await.unwrap();
            assert_eq!(recv.response().await.unwrap(), ok(), "{dialler:?}");
            send.data(bytes("second")).await.unwrap();
            send.finish().await.unwrap();
            assert_eq!(read_all(&mut recv).await, b"first second");
            assert_eq!(recv.data().await, Ok(None), "the end stays the end");
        })
        .await;
    }
}

#[tokio::test]
async fn much_content_arrives_unchanged() {
    soon(async {
        let (requester, responder, _wire) = pair(Dialler::Requester).await;
        let _server = echo(responder);
        let head = RequestHead::connect("a:1");
        let (mut send, mut recv) = requester.connection.request(&head).await.unwrap();
        let content: Bytes = (0..4_000_000u32).map(|i| (i * 7 / 5) as u8).collect();
        let writing = content.clone();
        let writer = tokio::spawn(async move {
            let mut rest = writing;
            let mut size = 1;
            while !rest.is_empty() {
                send.data(rest.split_to(size.min(rest.len()))).await?;
                size = size * 3 % 100_003 + 1;
            }
            send.finish().await
        });
        assert_eq!(recv.response().await.unwrap().status, 200);
        assert!(read_all(&mut recv).await == content);
        writer.await.unwrap().unwrap();
    })
    .await;
}

#[tokio::test]
async fn each_direction_closes_by_itself() {
    soon(async {
        let (requester, mut responder, _wire) = pair(Dialler::Requester).await;
        let head = RequestHead::connect("a:1");
        let (mut send, mut recv) = requester.connection.request(&head).await.unwrap();
        let (_, respond, mut served) = responder.requests.next().await.unwrap();
        let mut answer = respond.respond_with(&ok(), bytes("bye")).await.unwrap();
        answer.finish().await.unwrap();
        recv.response().await.unwrap();
        assert_eq!(read_all(&mut recv).await, b"bye");
        // The other direction goes on after that end.
        send.data(bytes("still here")).await.unwrap();
        send.finish().await.unwrap();
        assert_eq!(read_all(&mut served).await, b"still here");
        assert_eq!(send.stopped().await, Ok(None), "all acknowledged");
    })
    .await;
}

#[tokio::test]
async fn resets_carry_their_codes_both_ways() {
    for dialler in BOTH {
        soon(async {
            let (requester, mut responder, _wire) = pair(dialler).await;
            let head = RequestHead::connect("a:1");
            let (mut send, mut recv) = requester.connection.request(&head).await.unwrap();
            let (_, respond, mut served) = responder.requests.next().await.unwrap();
            let mut answer = respond.respond(&ok()).await.unwrap();
            recv.response().await.unwrap();

            answer.reset(Code::H3_CONNECT_ERROR);
            let reset = StreamError::Reset(Code::H3_CONNECT_ERROR);
            assert_eq!(recv.data().await, Err(reset));
            send.reset(Code::H3_REQUEST_CANCELLED);
            let reset = StreamError::Reset(Code::H3_REQUEST_CANCELLED);
            assert_eq!(served.data().await, Err(reset));
            assert_eq!(served.data().await, Err(StreamError::ClosedLocally));
        })
        .await;
    }
}

#[tokio::test]
async fn stopping_reaches_the_writer_with_its_code() {
    soon(async {
        let (requester, mut responder, _wire) = pair(Dialler::Requester).await;
        let head = RequestHead::connect("a:1");
        let (mut send, _recv) = requester.connection.request(&head).await.unwrap();
        let stopped = send.stopped();
        let (_, _respond, mut served) = responder.requests.next().await.unwrap();
        served.stop(Code::H3_CONNECT_ERROR);
        assert_eq!(stopped.await, Ok(Some(Code::H3_CONNECT_ERROR)));
        let error = send.data(bytes("x")).await;
        assert_eq!(error, Err(StreamError::Stopped(Code::H3_CONNECT_ERROR)));
    })
    .await;
}

#[tokio::test]
async fn a_dropped_half_is_never_a_clean_end() {
    soon(async {
        let (requester, mut responder, _wire) = pair(Dialler::Requester).await;
        let head = RequestHead::connect("a:1");
        let (mut send, mut recv) = requester.connection.request(&head).await.unwrap();
        send.data(bytes("x")).await.unwrap();
        let (_, respond, mut served) = responder.requests.next().await.unwrap();
        drop(respond);
        let reset = StreamError::Reset(Code::H3_INTERNAL_ERROR);
        assert_eq!(recv.response().await, Err(reset));
        drop(send);
        let error = loop {
            match served.data().await {
                Ok(Some(_)) => {}
                other => break other,
            }
        };
        let reset = StreamError::Reset(Code::H3_REQUEST_CANCELLED);
        assert_eq!(error, Err(reset));
    })
    .await;
}

#[tokio::test]
async fn a_rejected_request_is_known_as_unprocessed() {
    soon(async {
        let (requester, mut responder, _wire) = pair(Dialler::Requester).await;
        let head = RequestHead::connect("a:1");
        let (_send, mut recv) = requester.connection.request(&head).await.unwrap();
        let (_, respond, _served) = responder.requests.next().await.unwrap();
        respond.reject();
        assert_eq!(recv.response().await, Err(StreamError::Rejected));

        // Requests that nobody took are rejected, not lost.
        let (_send, mut recv) = requester.connection.request(&head).await.unwrap();
        drop(responder.requests);
        assert_eq!(recv.response().await, Err(StreamError::Rejected));
        let (_send, mut recv) = requester.connection.request(&head).await.unwrap();
        assert_eq!(recv.response().await, Err(StreamError::Rejected));
    })
    .await;
}

#[tokio::test]
async fn an_ordinary_request_keeps_fields_and_trailers() {
    soon(async {
        let (requester, mut responder, _wire) = pair(Dialler::Responder).await;
        let mut head = RequestHead::new(Method::POST, "shop", "/pay?x=1");
        let value = HeaderValue::from_static("trailers");
        head.headers.insert("te", value);
        let (mut send, mut recv) = requester.connection.request(&head).await.unwrap();
        send.data(bytes("ping")).await.unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        send.trailers(&trailers).await.unwrap();
        send.finish().await.unwrap();

        let (got, mut respond, mut served) = responder.requests.next().await.unwrap();
        assert_eq!(got, head);
        assert_eq!(read_all(&mut served).await, b"ping");
        assert_eq!(served.trailers(), Some(trailers.clone()));
        let early = ResponseHead::new(StatusCode::EARLY_HINTS);
        respond.inform(&early).await.unwrap();
        let mut answer = respond.respond(&ok()).await.unwrap();
        answer.data(bytes("pong")).await.unwrap();
        answer.trailers(&trailers).await.unwrap();
        answer.finish().await.unwrap();
        assert_eq!(recv.response().await.unwrap(), ok());
        assert_eq!(read_all(&mut recv).await, b"pong");
        assert_eq!(recv.trailers(), Some(trailers));
    })
    .await;
}

#[tokio::test]
async fn a_head_request_may_announce_content() {
    soon(async {
        let (requester, mut responder, _wire) = pair(Dialler::Requester).await;
        let head = RequestHead::new(Method::HEAD, "shop", "/");
        let (mut send, mut recv) = requester.connection.request(&head).await.unwrap();
        send.finish().await.unwrap();
        let (_, respond, _served) = responder.requests.next().await.unwrap();
        let mut answer = ok();
        let length = HeaderValue::from_static("77");
        answer.headers.insert("content-length", length);
        respond.respond(&answer).await.unwrap().finish().await.unwrap();
        assert_eq!(recv.response().await.unwrap(), answer);
        assert_eq!(recv.data().await, Ok(None));
    })
    .await;
}

#[tokio::test]
async fn extended_connect_takes_any_protocol_if_the_peer_does() {
    soon(async {
        let head = RequestHead::extended_connect("made-up", "proxy", "/x/");
        let (requester, mut responder, _wire) = pair(Dialler::Requester).await;
        let opened = requester.connection.request(&head).await;
        let (got, ..) = responder.requests.next().await.unwrap();
        assert_eq!(got, head);
        drop(opened);

        let off = Config { extended_connect: false, ..Config::default() };
        let (requester, _responder, _wire) = pair_with(Dialler::Requester, Config::default(), off).await;
        let error = requester.connection.request(&head).await.err();
        assert_eq!(error, Some(OpenError::NoExtendedConnect));
    })
    .await;
}

#[tokio::test]
async fn a_cancelled_write_keeps_the_framing() {
    soon(async {
        let (requester, mut responder, _wire) = pair(Dialler::Requester).await;
        let head = RequestHead::connect("a:1");
        let (mut send, _recv) = requester.connection.request(&head).await.unwrap();
        let (_, _respond, mut served) = responder.requests.next().await.unwrap();
        // More than any window: this write gets stuck half-way.
        let big = Bytes::from(vec![b'x'; 16 << 20]);
        tokio::select! {
            biased;
            _ = send.data(big.clone()) => panic!("no window is that large"),
            piece = served.data() => assert!(piece.unwrap().is_some()),
        }
        let reader = tokio::spawn(async move { read_all(&mut served).await });
        send.ready().await.unwrap();
        send.start(bytes("end"));
        send.finish().await.unwrap();
        let all = reader.await.unwrap();
        assert!(all.ends_with(b"xend"), "the rest of the frame, then the next");
    })
    .await;
}

#[tokio::test]
async fn roles_are_kept() {
    soon(async {
        let (requester, responder, _wire) = pair(Dialler::Requester).await;
        let head = RequestHead::connect("a:1");
        let wrong = responder.connection.request(&head).await.err();
        assert_eq!(wrong, Some(OpenError::WrongRole));
        assert_eq!(requester.connection.role(), Role::Requester);
        let mut requests = requester.requests;
        assert!(requests.next().await.is_none(), "a requester serves nothing");
        let bad = RequestHead::connect("no-port");
        let malformed = requester.connection.request(&bad).await.err();
        assert!(matches!(malformed, Some(OpenError::Malformed(_))));
    })
    .await;
}
