//! aioquic writes wrong bytes, in both roles. What we answer is judged by the code it receives,
//! over its own transport and not ours.

use hansa_http3::frame::{self, kind};
use hansa_http3::{Code, ConnectionError, RequestHead, StreamError};
use http::Method;
use serde_json::{Value, json};

use crate::aioquic::{Server, client};
use crate::ours::*;

/// Where wrong bytes end.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    /// The connection, with this code.
    Connection(Code),
    /// The stream alone.
    Stream(Code),
    /// Nothing at all: they are to be ignored.
    Fine,
}

use Fate::{Connection, Fine, Stream};

const UNEXPECTED: Fate = Connection(Code::H3_FRAME_UNEXPECTED);
const FRAME_ERROR: Fate = Connection(Code::H3_FRAME_ERROR);

fn tunnel_head() -> Vec<u8> {
    let block = RequestHead::connect("a:1").encode().unwrap().finish();
    frame::encode(kind::HEADERS, &block).to_vec()
}

fn fate(seen: &Value) -> Fate {
    let code = |value: &Value| value.as_u64().map(Code::from);
    if let Some(code) = code(&seen["closed"]["code"]) {
        return Connection(code);
    }
    code(&seen["reset"]).or(code(&seen["stopped"])).map_or(Fine, Stream)
}

/// Serves one connection until it ends: tunnels are answered when they have ended.
async fn serve(listener: &Listener) -> ConnectionError {
    let mut end = listener.accept().await;
    while let Some((_, respond, mut recv)) = end.requests.next().await {
        let (_, ended) = read(&mut recv).await;
        match ended {
            Ok(()) => {
                let answer = hansa_http3::ResponseHead::new(http::StatusCode::OK);
                respond.respond(&answer).await.unwrap().finish().await.unwrap();
            }
            Err(error) => respond.reset(error.code().unwrap_or(Code::H3_INTERNAL_ERROR)),
        }
    }
    end.driver.await.unwrap()
}

#[tokio::test]
async fn wrong_bytes_of_a_client_get_the_right_code() {
    let certificate = Certificate::new();
    let listener = Listener::new(&certificate);
    let with = |more: &[u8]| [&tunnel_head(), more].concat();
    let cases: Vec<(&str, Vec<u8>, Fate)> = vec![
        ("bidi", vec![], Stream(Code::H3_REQUEST_INCOMPLETE)),
        ("bidi", vec![0x01], FRAME_ERROR),
        ("bidi", with(&[0x00, 0x05, b'x']), FRAME_ERROR),
        ("bidi", vec![0x00, 0x01, b'x'], UNEXPECTED),
        ("bidi", with(&[0x04, 0x00]), UNEXPECTED),
        ("bidi", with(&[0x05, 0x00]), UNEXPECTED),
        ("bidi", with(&[0x07, 0x01, 0x00]), UNEXPECTED),
        ("bidi", with(&[0x02, 0x00]), UNEXPECTED),
        ("bidi", with(&[0x21, 0x03, 1, 2, 3, 0x00, 0x01, b'x']), Fine),
        ("bidi", vec![0x01, 0x03, 0x00, 0x00, 0x80], Connection(Code::QPACK_DECOMPRESSION_FAILED)),
        ("bidi", vec![0x01, 0x02, 0x00, 0x00], Stream(Code::H3_MESSAGE_ERROR)),
        ("bidi", vec![0x01, 0x80, 0x01, 0x00, 0x01], Stream(Code::H3_EXCESSIVE_LOAD)),
        ("bidi", vec![0x21, 0x80, 0x01, 0x00, 0x01], Connection(Code::H3_EXCESSIVE_LOAD)),
        ("uni", vec![0x00, 0x04, 0x00], Connection(Code::H3_STREAM_CREATION_ERROR)),
        ("uni", vec![0x01, 0x00], Connection(Code::H3_STREAM_CREATION_ERROR)),
        ("uni", vec![0x21, 0xff], Stream(Code::H3_STREAM_CREATION_ERROR)),
        ("control", vec![0x04, 0x00], UNEXPECTED),
        ("control", vec![0x00, 0x00], UNEXPECTED),
        ("control", vec![0x0d, 0x01, 0x01], Connection(Code::H3_ID_ERROR)),
        ("control", vec![0x07, 0x02, 0x00, 0x00], FRAME_ERROR),
        ("encoder", vec![0x3f, 0xe1, 0x1f], Connection(Code::QPACK_ENCODER_STREAM_ERROR)),
        ("datagram", vec![0x40], Connection(Code::H3_DATAGRAM_ERROR)),
    ];
    for (stream, bytes, wanted) in cases {
        let hexed = hex(&bytes);
        let end = if stream == "bidi" { "end" } else { "open" };
        let args = [stream, &hexed, end];
        let played = client(listener.port, &certificate, "raw", &args);
        let (seen, ours) = soon(async { tokio::join!(played, serve(&listener)) }).await;
        assert_eq!(fate(&seen), wanted, "{stream} {hexed}");
        if let Connection(code) = wanted {
            let told = matches!(&ours, ConnectionError::Violation(v) if v.code == code);
            assert!(told, "{stream} {hexed}: {ours}");
            assert!(seen["closed"]["reason"] != json!(""), "the reason is said");
        }
    }
}

#[tokio::test]
async fn wrong_heads_of_a_client_end_their_stream() {
    let certificate = Certificate::new();
    let listener = Listener::new(&certificate);
    let get = [":method=GET", ":scheme=https", ":authority=a", ":path=/"];
    let with = |more: &[&'static str]| [&get[..], more].concat();
    let wrong = Stream(Code::H3_MESSAGE_ERROR);
    let cases = [
        (get.to_vec(), Fine),
        (with(&["te=trailers"]), Fine),
        (with(&["x-blank="]), Fine),
        (with(&["transfer-encoding=chunked"]), wrong),
        (with(&["connection=close"]), wrong),
        (with(&["te=gzip"]), wrong),
        (with(&["X-Upper=1"]), wrong),
        (with(&["x y=1"]), wrong),
        (with(&["x-line=a\nb"]), wrong),
        (with(&[":path=/two"]), wrong),
        (with(&[":status=200"]), wrong),
        (with(&[":protocol=websocket"]), wrong),
        (with(&["content-length=-1"]), wrong),
        (with(&["content-length=5"]), wrong),
        (with(&["host=b"]), wrong),
        (get[1..].to_vec(), wrong),
        (get[..3].to_vec(), wrong),
        (vec![":method=CONNECT", ":authority=a"], wrong),
        (vec![":method=CONNECT", ":authority=a:99999"], wrong),
        (vec![":method=CONNECT", ":authority=a:1", ":path=/"], wrong),
        (vec![":method=CONNECT", ":authority=a:1", ":scheme=https"], wrong),
        (vec!["x-early=1", ":method=GET", ":scheme=https", ":authority=a", ":path=/"], wrong),
    ];
    for (pairs, wanted) in cases {
        let played = client(listener.port, &certificate, "head", &pairs);
        let (seen, _) = soon(async { tokio::join!(played, serve(&listener)) }).await;
        assert_eq!(fate(&seen), wanted, "{pairs:?}");
    }
}

/// How our request ended against a server that writes these bytes.
async fn asked(stream: &str, bytes: &[u8], end: &str) -> (Fate, Option<Value>) {
    let certificate = Certificate::new();
    let mut server = Server::start(&certificate).await;
    let ours = dial(&certificate, server.port).await;
    let path = format!("/raw?{stream},{},{end}", hex(bytes));
    let head = RequestHead::new(Method::GET, "a.example", path);
    let (mut send, mut recv) = ours.connection.request(&head).await.unwrap();
    send.finish().await.unwrap();
    let error = match recv.response().await {
        Ok(_) => read(&mut recv).await.1.err(),
        Err(error) => Some(error),
    };
    match error {
        None => (Fine, None),
        Some(StreamError::Connection(_)) => {
            let ConnectionError::Violation(violation) = ours.driver.await.unwrap() else {
                panic!("{stream} {bytes:?}: not a broken rule");
            };
            (Connection(violation.code), Some(server.says().await))
        }
        Some(error) => (Stream(error.code().unwrap()), None),
    }
}

#[tokio::test]
async fn wrong_bytes_of_a_server_get_the_right_code() {
    let ok = [0x01, 0x03, 0x00, 0x00, 0xd9];
    let after = |more: &[u8]| [&ok[..], more].concat();
    let cases: Vec<(&str, Vec<u8>, Fate)> = vec![
        ("answer", after(&[]), Fine),
        ("answer", after(&[0x21, 0x02, 1, 2, 0x00, 0x01, b'x']), Fine),
        ("answer", vec![], Stream(Code::H3_MESSAGE_ERROR)),
        ("answer", vec![0x00, 0x01, b'x'], UNEXPECTED),
        ("answer", after(&[0x00, 0x05, b'x']), FRAME_ERROR),
        ("answer", after(&[0x04, 0x00]), UNEXPECTED),
        ("answer", vec![0x05, 0x03, 0x00, 0x00, 0x00], Connection(Code::H3_ID_ERROR)),
        ("answer", vec![0x01, 0x03, 0x00, 0x00, 0x80], Connection(Code::QPACK_DECOMPRESSION_FAILED)),
        ("answer", vec![0x01, 0x03, 0x00, 0x00, 0xd1], Stream(Code::H3_MESSAGE_ERROR)),
        ("control", vec![0x04, 0x00], UNEXPECTED),
        ("control", vec![0x07, 0x01, 0x01], Connection(Code::H3_ID_ERROR)),
        ("control", vec![0x0d, 0x01, 0x00], UNEXPECTED),
        ("uni", vec![0x01, 0x00], Connection(Code::H3_ID_ERROR)),
        ("bidi", tunnel_head(), Connection(Code::H3_STREAM_CREATION_ERROR)),
        ("datagram", vec![0xc0], Connection(Code::H3_DATAGRAM_ERROR)),
    ];
    for (stream, bytes, wanted) in cases {
        let end = if stream == "answer" { "end" } else { "open" };
        let (ours, theirs) = soon(asked(stream, &bytes, end)).await;
        assert_eq!(ours, wanted, "{stream} {}", hex(&bytes));
        if let (Connection(_), Some(theirs)) = (wanted, theirs) {
            assert_eq!(fate(&theirs), wanted, "what the server was told");
        }
    }
}
