//! aioquic asks, our codec serves: CONNECT, half-close, resets, datagrams, GOAWAY, fields.

use bytes::Bytes;
use hansa_http3::{Code, RequestHead, RespondStream, ResponseHead, SendStream, StreamError};
use http::{HeaderValue, Method, StatusCode};
use serde_json::{Value, json};

use crate::aioquic::client;
use crate::ours::*;

fn ok() -> ResponseHead {
    ResponseHead::new(StatusCode::OK)
}

/// Plays `case` against what `serve` does with the connection; gives what both saw.
async fn play<T>(case: &str, args: &[&str], serve: impl AsyncFnOnce(&mut End) -> T) -> (Value, T) {
    let certificate = Certificate::new();
    let listener = Listener::new(&certificate);
    let ours = async {
        let mut end = listener.accept().await;
        let done = serve(&mut end).await;
        // The connection stays until the referee has seen enough.
        end.driver.await.unwrap();
        done
    };
    soon(async { tokio::join!(client(listener.port, &certificate, case, args), ours) }).await
}

async fn echo(send: &mut SendStream, recv: &mut hansa_http3::RecvStream) -> usize {
    let mut length = 0;
    while let Some(piece) = recv.data().await.unwrap() {
        length += piece.len();
        send.data(piece).await.unwrap();
    }
    length
}

#[tokio::test]
async fn a_tunnel_echoes_first_bytes_and_a_megabyte() {
    let args = ["checkout.shop.svc.clusterset.local:80", "early", "1000000"];
    let (seen, length) = play("first_bytes", &args, async |end| {
        let (head, respond, mut recv) = end.requests.next().await.unwrap();
        assert_eq!(head, RequestHead::connect(args[0]));
        // What came with the CONNECT is there before the answer.
        let first = recv.data().await.unwrap().unwrap();
        assert_eq!(first, "early");
        let mut send = respond.respond_with(&ok(), first.clone()).await.unwrap();
        let length = first.len() + echo(&mut send, &mut recv).await;
        send.finish().await.unwrap();
        length
    })
    .await;
    assert_eq!(length, 1_000_005);
    assert_eq!(seen["length"], 1_000_005);
    assert_eq!((&seen["ended"], &seen["reset"]), (&json!(true), &Value::Null));
}

#[tokio::test]
async fn the_client_may_end_first() {
    let (seen, said) = play("talk", &["a:1", "one", " two"], async |end| {
        let (_, respond, mut recv) = end.requests.next().await.unwrap();
        let mut send = respond.respond(&ok()).await.unwrap();
        let said = read_all(&mut recv).await;
        // Its end does not end ours.
        send.data(bytes("heard you")).await.unwrap();
        send.finish().await.unwrap();
        said
    })
    .await;
    assert_eq!(said, b"one two");
    assert_eq!((&seen["data"], &seen["ended"]), (&json!("heard you"), &json!(true)));
}

#[tokio::test]
async fn the_server_may_end_first() {
    let (seen, said) = play("listen_then_talk", &["a:1", "still talking"], async |end| {
        let (_, respond, mut recv) = end.requests.next().await.unwrap();
        let mut send = respond.respond_with(&ok(), bytes("that is all")).await.unwrap();
        send.finish().await.unwrap();
        read_all(&mut recv).await
    })
    .await;
    assert_eq!(said, b"still talking");
    assert_eq!((&seen["data"], &seen["stopped"]), (&json!("that is all"), &Value::Null));
}

#[tokio::test]
async fn our_resets_carry_their_codes() {
    let (seen, ()) = play("be_reset", &["a:1"], async |end| {
        let (_, respond, mut recv) = end.requests.next().await.unwrap();
        let mut send = respond.respond(&ok()).await.unwrap();
        assert_eq!(recv.data().await.unwrap().unwrap(), "x");
        send.reset(Code::H3_CONNECT_ERROR);
        recv.stop(Code::H3_EXCESSIVE_LOAD);
    })
    .await;
    assert_eq!(seen["reset"], Code::H3_CONNECT_ERROR.value());
    assert_eq!(seen["stopped"], Code::H3_EXCESSIVE_LOAD.value());
}

#[tokio::test]
async fn their_resets_carry_their_codes() {
    let code = Code::H3_CONNECT_ERROR;
    let (_, (read, stopped)) = play("reset", &["a:1", &code.value().to_string()], async |end| {
        let (_, respond, mut recv) = end.requests.next().await.unwrap();
        let mut send = respond.respond(&ok()).await.unwrap();
        send.data(recv.data().await.unwrap().unwrap()).await.unwrap();
        (recv.data().await, send.stopped().await)
    })
    .await;
    assert_eq!(read, Err(StreamError::Reset(code)));
    assert_eq!(stopped, Ok(Some(code)));
}

#[tokio::test]
async fn udp_goes_both_ways_in_all_sizes() {
    let sizes = ["0", "1", "512", "1100"];
    let args = [&["telemetry.ops:9000"], &sizes[..]].concat();
    let (seen, (protocol, rest)) = play("datagrams", &args, async |end| {
        let (head, respond, mut recv) = end.requests.next().await.unwrap();
        let (sender, mut receiver) = recv.datagrams().unwrap();
        let mut send = respond.respond(&ok()).await.unwrap();
        for _ in sizes {
            let datagram = receiver.recv().await.unwrap();
            sender.send(datagram.to_ascii_uppercase().as_slice()).unwrap();
        }
        let rest = read_all(&mut recv).await;
        send.finish().await.unwrap();
        assert_eq!(head.path.as_deref(), Some("/.well-known/masque/udp/telemetry.ops/9000/"));
        (head.protocol, rest)
    })
    .await;
    assert_eq!(protocol.as_deref(), Some("connect-udp"));
    assert_eq!(rest, b"\x29\x07unknown", "capsules are the application's");
    let wanted: Vec<_> = [0usize, 1, 512, 1100]
        .iter()
        .zip(["A", "B", "C", "D"])
        .map(|(size, letter)| format!("\0{}", letter.repeat(*size)))
        .collect();
    assert_eq!(seen["datagrams"], json!(wanted));
    let settings = &seen["settings"];
    assert_eq!((&settings["8"], &settings["51"]), (&json!(1), &json!(1)), "what we announce");
}

#[tokio::test]
async fn goaway_lets_the_running_finish_and_rejects_the_rest() {
    let (seen, said) = play("goaway", &["a:1", "/leave"], async |end| {
        let (_, running, mut recv) = end.requests.next().await.unwrap();
        let mut running = running.respond(&ok()).await.unwrap();
        let (head, trigger, _) = end.requests.next().await.unwrap();
        assert_eq!(head.path.as_deref(), Some("/leave"));
        end.connection.goaway();
        trigger.respond(&ok()).await.unwrap().finish().await.unwrap();
        let said = read_all(&mut recv).await;
        running.data(bytes("to the end")).await.unwrap();
        running.finish().await.unwrap();
        said
    })
    .await;
    assert_eq!(said, b"still here");
    // Streams 0 and 4 were taken, 8 is the first that was not.
    assert_eq!((&seen["goaways"], &seen["late"]), (&json!([8]), &json!(8)));
    assert_eq!(seen["rejected"]["reset"], Code::H3_REQUEST_REJECTED.value());
    assert_eq!((&seen["running"]["data"], &seen["running"]["ended"]), (&json!("to the end"), &json!(true)));
}

/// Answers with the fields that begin with `x-`.
async fn give_back(head: &RequestHead, respond: RespondStream) {
    let mut answer = ok();
    let back = head.headers.iter().filter(|(name, _)| name.as_str().starts_with("x-"));
    answer.headers.extend(back.map(|(name, value)| (name.clone(), value.clone())));
    respond.respond(&answer).await.unwrap().finish().await.unwrap();
}

#[tokio::test]
async fn fields_pass_big_and_many_and_huffman_coded() {
    for (count, length) in [("3", "20000"), ("200", "200"), ("1", "0")] {
        let args = ["a.example", "/", count, length];
        let (seen, ()) = play("fields", &args, async |end| {
            let (head, respond, _recv) = end.requests.next().await.unwrap();
            give_back(&head, respond).await;
        })
        .await;
        let fields = seen["headers"][0].as_array().unwrap();
        assert_eq!(fields[0], json!([":status", "200"]));
        assert_eq!(fields.len() - 1, count.parse::<usize>().unwrap());
        let characters: String = (0x21u8..0x7f).map(char::from).collect();
        let value: String = characters.chars().cycle().take(length.parse().unwrap()).collect();
        assert!(fields[1..].iter().all(|field| field[1] == value.as_str()), "changed on the way");
    }
}

#[tokio::test]
async fn too_big_a_head_ends_its_stream_alone() {
    for (count, length) in [("4", "20000"), ("300", "10")] {
        let (seen, ()) = play("fields", &["a.example", "/", count, length], async |_| ()).await;
        assert_eq!(seen["reset"], Code::H3_EXCESSIVE_LOAD.value(), "{count} of {length}");
    }
}

#[tokio::test]
async fn content_and_trailers_pass() {
    let (seen, sum) = play("content", &["a.example", "/pay", "one", "two"], async |end| {
        let (head, respond, mut recv) = end.requests.next().await.unwrap();
        assert_eq!(head.method, Method::POST);
        let content = read_all(&mut recv).await;
        let trailers = recv.trailers().unwrap();
        let mut send = respond.respond_with(&ok(), Bytes::from(content)).await.unwrap();
        send.trailers(&trailers).await.unwrap();
        send.finish().await.unwrap();
        trailers["x-sum"].clone()
    })
    .await;
    assert_eq!(sum, "2");
    assert_eq!((&seen["data"], &seen["headers"][1]), (&json!("onetwo"), &json!([["x-sum", "2"]])));
}

#[tokio::test]
async fn the_dynamic_table_stays_empty() {
    let (seen, ()) = play("many", &["a.example", "/", "40"], async |end| {
        for _ in 0..40 {
            let (head, respond, _recv) = end.requests.next().await.unwrap();
            assert!(head.headers["authorization"].is_sensitive());
            give_back(&head, respond).await;
        }
    })
    .await;
    assert_eq!(seen["encoder"], 0, "we grant no table, so nothing may be inserted");
    let reports = seen["reports"].as_array().unwrap();
    let back = json!([[":status", "200"], ["x-caller", "spiffe://a/ns/b/sa/c"]]);
    assert!(reports.len() == 40 && reports.iter().all(|report| report["headers"][0] == back));
}

#[tokio::test]
async fn a_refusal_says_why() {
    let (seen, ()) = play("refused", &["a:1"], async |end| {
        let (_, respond, _recv) = end.requests.next().await.unwrap();
        let mut answer = ResponseHead::new(StatusCode::FORBIDDEN);
        let why = HeaderValue::from_static("gw; error=http_request_denied");
        answer.headers.insert("proxy-status", why);
        respond.respond(&answer).await.unwrap().finish().await.unwrap();
    })
    .await;
    let wanted = json!([[":status", "403"], ["proxy-status", "gw; error=http_request_denied"]]);
    assert_eq!(seen["headers"][0], wanted);
}
