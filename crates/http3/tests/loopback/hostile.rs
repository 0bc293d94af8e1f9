//! Raw peers that write wrong bytes: each gets the right code, on the stream or
//! on the connection, and nothing panics.

use hansa_http3::frame::{self, kind};
use hansa_http3::{
    Code, Config, ConnectionError, RecvStream, RequestHead, ResponseHead, Role, Settings, StreamError,
};
use http::{Method, StatusCode};

use crate::net::*;

const SETTINGS: &[u8] = &[0x00, 0x04, 0x00];

fn head() -> Vec<u8> {
    let head = RequestHead::connect("a:1").encode().unwrap();
    frame::encode(kind::HEADERS, &head.finish()).to_vec()
}

fn get(extra: &str) -> Vec<u8> {
    let mut head = RequestHead::new(Method::POST, "a", "/");
    if !extra.is_empty() {
        let value = extra.parse().unwrap();
        head.headers.insert("content-length", value);
    }
    let head = head.encode().unwrap();
    frame::encode(kind::HEADERS, &head.finish()).to_vec()
}

/// The code that ends a connection of ours in `role` when the peer writes
/// these unidirectional streams; both sides must see it.
async fn killed_by_uni(role: Role, streams: &[(&[u8], bool)]) -> Code {
    let wire = wire().await;
    let (ours, raw) = match role {
        Role::Responder => (wire.server.clone(), wire.client.clone()),
        Role::Requester => (wire.client.clone(), wire.server.clone()),
    };
    let end = end(ours, role, Config::default());
    let mut held = Vec::new();
    for (bytes, finish) in streams {
        let mut stream = raw.open_uni().await.unwrap();
        stream.write_all(bytes).await.unwrap();
        if *finish {
            stream.finish().unwrap();
        }
        held.push(stream);
    }
    ended(end, &raw).await
}

async fn ended(end: End, raw: &quinn::Connection) -> Code {
    let ConnectionError::Violation(violation) = end.driver.await.unwrap() else {
        panic!("not a broken rule");
    };
    match raw.closed().await {
        quinn::ConnectionError::ApplicationClosed(close) => {
            assert_eq!(Code::from(close.error_code), violation.code);
            assert_eq!(close.reason, violation.reason);
        }
        other => panic!("not told: {other}"),
    }
    violation.code
}

/// Our role, the peer's streams and whether each ends, the code.
type UniCase<'a> = (Role, &'a [(&'a [u8], bool)], Code);

#[tokio::test]
async fn unidirectional_streams_are_strict() {
    let long = [SETTINGS, &[0x21, 0x80, 0x10, 0, 0]].concat();
    let cases: &[UniCase<'_>] = {
        use Role::{Requester, Responder};
        &[
            (Responder, &[(SETTINGS, false), (SETTINGS, false)], Code::H3_STREAM_CREATION_ERROR),
            (Responder, &[(&[2], false), (&[2], false)], Code::H3_STREAM_CREATION_ERROR),
            (Responder, &[(&[3], false), (&[3], false)], Code::H3_STREAM_CREATION_ERROR),
            (Responder, &[(SETTINGS, true)], Code::H3_CLOSED_CRITICAL_STREAM),
            (Responder, &[(&[2], true)], Code::H3_CLOSED_CRITICAL_STREAM),
            (Responder, &[(&[3], true)], Code::H3_CLOSED_CRITICAL_STREAM),
            (Responder, &[(&[2, 0x3f, 0x01], false)], Code::QPACK_ENCODER_STREAM_ERROR),
            (Responder, &[(&[3, 0x80], false)], Code::QPACK_DECODER_STREAM_ERROR),
            (Responder, &[(&[1, 0], false)], Code::H3_STREAM_CREATION_ERROR),
            (Requester, &[(&[1, 0], false)], Code::H3_ID_ERROR),
            (Responder, &[(&[0, 0x07, 1, 0], false)], Code::H3_MISSING_SETTINGS),
            (Responder, &[(&[0, 4, 0, 4, 0], false)], Code::H3_FRAME_UNEXPECTED),
            (Responder, &[(&[0, 4, 0, 0, 0], false)], Code::H3_FRAME_UNEXPECTED),
            (Responder, &[(&[0, 4, 2, 8, 2], false)], Code::H3_SETTINGS_ERROR),
            (Responder, &[(&[0, 4, 1, 8], false)], Code::H3_FRAME_ERROR),
            (Requester, &[(&[0, 4, 0, 7, 1, 1], false)], Code::H3_ID_ERROR),
            (Responder, &[(&long, false)], Code::H3_EXCESSIVE_LOAD),
        ]
    };
    for (index, (role, streams, wanted)) in cases.iter().enumerate() {
        let code = soon(killed_by_uni(*role, streams)).await;
        assert_eq!(code, *wanted, "case {index}");
    }
}

#[tokio::test]
async fn unknown_unidirectional_streams_are_refused_alone() {
    soon(async {
        let wire = wire().await;
        let mut responder = end(wire.server.clone(), Role::Responder, Config::default());
        for _ in 0..200 {
            let mut grease = wire.client.open_uni().await.unwrap();
            // Reserved type 0x21, or an end before any type.
            grease.write_all(&[0x21, 1, 2, 3]).await.unwrap();
            let stopped = grease.stopped().await.unwrap().map(Code::from);
            assert_eq!(stopped, Some(Code::H3_STREAM_CREATION_ERROR));
            let mut nothing = wire.client.open_uni().await.unwrap();
            nothing.finish().unwrap();
        }
        let (mut send, _recv) = wire.client.open_bi().await.unwrap();
        send.write_all(&head()).await.unwrap();
        assert!(responder.requests.next().await.is_some(), "all goes on");
    })
    .await;
}

/// What a request stream with wrong bytes has to end in.
#[derive(Debug, Clone, Copy)]
enum Fate {
    /// The connection dies.
    Connection(Code),
    /// The stream is reset before anybody hears of it.
    Head(Code),
    /// The application reads this error.
    Body(Code),
}

async fn check_request(bytes: &[u8], fate: Fate) {
    let wire = wire().await;
    let mut responder = end(wire.server.clone(), Role::Responder, Config::default());
    let (mut send, mut recv) = wire.client.open_bi().await.unwrap();
    send.write_all(bytes).await.unwrap();
    send.finish().unwrap();
    match fate {
        Fate::Head(code) => {
            let error = recv.read_to_end(10).await.unwrap_err();
            let quinn::ReadToEndError::Read(quinn::ReadError::Reset(got)) = error else {
                panic!("not a reset: {error}");
            };
            assert_eq!(Code::from(got), code);
            assert!(wire.client.close_reason().is_none());
        }
        Fate::Body(code) => {
            let (_, _respond, mut recv) = responder.requests.next().await.unwrap();
            let error = last(&mut recv).await.unwrap_err();
            assert_eq!(error.code(), Some(code));
            assert!(wire.client.close_reason().is_none());
        }
        Fate::Connection(code) => {
            if let Some((_, _respond, mut recv)) = responder.requests.next().await {
                let error = last(&mut recv).await.unwrap_err();
                assert!(matches!(
                    error,
                    StreamError::Connection(ConnectionError::Violation(v)) if v.code == code
                ));
            }
            assert_eq!(ended(responder, &wire.client).await, code);
        }
    }
}

async fn last(recv: &mut RecvStream) -> Result<(), StreamError> {
    while recv.data().await?.is_some() {}
    Ok(())
}

fn request_cases() -> Vec<(Vec<u8>, Fate)> {
    use Fate::{Body, Connection, Head};
    let unexpected = Connection(Code::H3_FRAME_UNEXPECTED);
    let with = |head: Vec<u8>, more: &[u8]| [&head, more].concat();
    let mut cases = vec![
        (vec![], Head(Code::H3_REQUEST_INCOMPLETE)),
        (vec![0x21, 0], Head(Code::H3_REQUEST_INCOMPLETE)),
        (vec![0x01], Connection(Code::H3_FRAME_ERROR)),
        (head()[..5].to_vec(), Connection(Code::H3_FRAME_ERROR)),
        (vec![0, 0], unexpected),
        (vec![1, 0], Connection(Code::QPACK_DECOMPRESSION_FAILED)),
        (vec![1, 3, 0, 0, 0x80], Connection(Code::QPACK_DECOMPRESSION_FAILED)),
        (vec![1, 2, 0, 0], Head(Code::H3_MESSAGE_ERROR)),
        (vec![1, 0x80, 1, 0, 1], Head(Code::H3_EXCESSIVE_LOAD)),
        (vec![0x21, 0x80, 1, 0, 1], Connection(Code::H3_EXCESSIVE_LOAD)),
        (with(head(), &[1, 0]), unexpected),
        (with(head(), &[0, 5, b'x']), Connection(Code::H3_FRAME_ERROR)),
        (with(head(), &[0]), Connection(Code::H3_FRAME_ERROR)),
        (with(get(""), &[1, 2, 0, 0, 0, 0]), unexpected),
        (with(get(""), &[1, 2, 0, 0, 1, 2, 0, 0]), unexpected),
        (with(get(""), &[1, 3, 0, 0, 0xd9]), Body(Code::H3_MESSAGE_ERROR)),
        (with(get("3"), &[0, 2, 1, 2]), Body(Code::H3_MESSAGE_ERROR)),
        (with(get("1"), &[0, 2, 1, 2]), Body(Code::H3_MESSAGE_ERROR)),
        (get("x"), Head(Code::H3_MESSAGE_ERROR)),
    ];
    for kind in [0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0d] {
        cases.push((vec![kind, 0], unexpected));
        cases.push((with(head(), &[kind, 0]), unexpected));
    }
    cases
}

#[tokio::test]
async fn request_streams_are_strict() {
    for (index, (bytes, fate)) in request_cases().into_iter().enumerate() {
        println!("case {index}: {fate:?} for {bytes:?}");
        soon(check_request(&bytes, fate)).await;
    }
}

/// The requester's view of an answer made of these bytes.
async fn answer(bytes: &[u8], finish: bool) -> (StreamError, Option<Code>) {
    let wire = wire().await;
    let requester = end(wire.client.clone(), Role::Requester, Config::default());
    let head = RequestHead::new(Method::GET, "a", "/");
    let (mut ours, mut recv) = requester.connection.request(&head).await.unwrap();
    ours.finish().await.unwrap();
    let (mut send, _recv) = wire.server.accept_bi().await.unwrap();
    send.write_all(bytes).await.unwrap();
    if finish {
        send.finish().unwrap();
    }
    let error = match recv.response().await {
        Ok(_) => last(&mut recv).await.unwrap_err(),
        Err(error) => error,
    };
    let closed = match &error {
        StreamError::Connection(_) => Some(ended(requester, &wire.server).await),
        _ => None,
    };
    (error, closed)
}

#[tokio::test]
async fn answers_are_judged_too() {
    let ok = ResponseHead::new(StatusCode::OK).encode().unwrap().finish();
    let ok = frame::encode(kind::HEADERS, &ok).to_vec();
    let early = ResponseHead::new(StatusCode::EARLY_HINTS);
    let early = frame::encode(kind::HEADERS, &early.encode().unwrap().finish());
    let stream = |bytes: Vec<u8>, code| (bytes, code, false);
    let connection = |bytes: Vec<u8>, code| (bytes, code, true);
    let cases = [
        stream(vec![], Code::H3_MESSAGE_ERROR),
        stream(early.to_vec(), Code::H3_MESSAGE_ERROR),
        stream(early.repeat(20), Code::H3_EXCESSIVE_LOAD),
        stream(head(), Code::H3_MESSAGE_ERROR),
        connection(vec![0x05, 1, 0], Code::H3_ID_ERROR),
        connection(vec![0x00, 1, 0], Code::H3_FRAME_UNEXPECTED),
        connection([&ok[..], &[0x07, 1, 0]].concat(), Code::H3_FRAME_UNEXPECTED),
        connection([&ok[..], &[0x00, 9, 0]].concat(), Code::H3_FRAME_ERROR),
    ];
    for (index, (bytes, code, dies)) in cases.into_iter().enumerate() {
        let (error, closed) = soon(answer(&bytes, true)).await;
        match dies {
            true => assert_eq!(closed, Some(code), "case {index}"),
            false => assert_eq!(error.code(), Some(code), "case {index}"),
        }
    }
}

#[tokio::test]
async fn a_requester_takes_no_request_streams() {
    soon(async {
        let wire = wire().await;
        let requester = end(wire.client.clone(), Role::Requester, Config::default());
        let (mut send, _recv) = wire.server.open_bi().await.unwrap();
        send.write_all(&head()).await.unwrap();
        let code = ended(requester, &wire.server).await;
        assert_eq!(code, Code::H3_STREAM_CREATION_ERROR);
    })
    .await;
}

#[tokio::test]
async fn a_stopped_control_stream_is_an_error() {
    soon(async {
        let wire = wire().await;
        let responder = end(wire.server.clone(), Role::Responder, Config::default());
        let mut control = wire.client.accept_uni().await.unwrap();
        control.stop(Code::H3_NO_ERROR.quic()).unwrap();
        let code = ended(responder, &wire.client).await;
        assert_eq!(code, Code::H3_CLOSED_CRITICAL_STREAM);
    })
    .await;
}

#[tokio::test]
async fn a_malformed_datagram_is_an_error() {
    soon(async {
        let wire = wire().await;
        let responder = end(wire.server.clone(), Role::Responder, Config::default());
        wire.client.send_datagram(vec![0x40].into()).unwrap();
        let code = ended(responder, &wire.client).await;
        assert_eq!(code, Code::H3_DATAGRAM_ERROR);
    })
    .await;
}

#[tokio::test]
async fn our_control_stream_says_what_the_configuration_says() {
    soon(async {
        let wire = wire().await;
        let config = Config::default();
        let _responder = end(wire.server.clone(), Role::Responder, config.clone());
        let mut control = wire.client.accept_uni().await.unwrap();
        let mut start = [0; 3];
        control.read_exact(&mut start).await.unwrap();
        assert_eq!(start[..2], [0x00, 0x04]);
        let mut payload = vec![0; start[2].into()];
        control.read_exact(&mut payload).await.unwrap();
        let settings = Settings::decode(&payload).unwrap();
        assert_eq!(settings.max_field_section, Some(config.max_field_section));
        assert!(settings.extended_connect && settings.datagrams);
        assert_eq!((settings.qpack_capacity, settings.qpack_blocked), (0, 0));
    })
    .await;
}
