//! Against the `h3` crate, an independent peer: its client asks ours, ours asks
//! its server. Plain CONNECT goes only towards its server, because its client
//! sends one that RFC 9114 4.4 forbids.

use std::future::poll_fn;

use bytes::{Buf, Bytes};
use hansa_http3::{Config, RequestHead, ResponseHead, Role};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};

use crate::net::*;

#[tokio::test]
async fn their_client_asks_ours() {
    soon(async {
        let wire = wire().await;
        let mut responder = end(wire.server.clone(), Role::Responder, Config::default());
        let quic = h3_quinn::Connection::new(wire.client.clone());
        let (mut driver, mut client) = h3::client::new(quic).await.unwrap();
        let driving = tokio::spawn(async move { poll_fn(|cx| driver.poll_close(cx)).await });

        let request = Request::post("https://shop.example/pay?x=1")
            .header("authorization", "Bearer of Huffman coded strings")
            .header("x-custom-field", "some/value; with=odd, characters ~!")
            .header("user-agent", "curl/8")
            .body(())
            .unwrap();
        let mut stream = client.send_request(request).await.unwrap();
        stream.send_data(bytes("ping")).await.unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-end", HeaderValue::from_static("yes"));
        stream.send_trailers(trailers.clone()).await.unwrap();
        stream.finish().await.unwrap();

        let (head, respond, mut recv) = responder.requests.next().await.unwrap();
        assert_eq!(head.method, Method::POST);
        assert_eq!(head.authority.as_deref(), Some("shop.example"));
        assert_eq!(head.path.as_deref(), Some("/pay?x=1"));
        assert_eq!(head.headers["x-custom-field"], "some/value; with=odd, characters ~!");
        assert_eq!(head.headers["authorization"], "Bearer of Huffman coded strings");
        assert_eq!(read_all(&mut recv).await, b"ping");
        assert_eq!(recv.trailers(), Some(trailers.clone()));

        let mut answer = ResponseHead::new(StatusCode::CREATED);
        answer.headers.insert("server", HeaderValue::from_static("hansa"));
        let mut send = respond.respond_with(&answer, bytes("po")).await.unwrap();
        send.data(bytes("ng")).await.unwrap();
        send.trailers(&trailers).await.unwrap();
        send.finish().await.unwrap();

        let got = stream.recv_response().await.unwrap();
        assert_eq!(got.status(), 201);
        assert_eq!(got.headers()["server"], "hansa");
        let mut body = Vec::new();
        while let Some(piece) = stream.recv_data().await.unwrap() {
            body.extend_from_slice(piece.chunk());
        }
        assert_eq!(body, b"pong");
        assert_eq!(stream.recv_trailers().await.unwrap(), Some(trailers));

        // Our GOAWAY ends their connection in order.
        responder.connection.goaway();
        drop((stream, client));
        let closed = driving.await.unwrap();
        assert!(closed.is_h3_no_error(), "{closed}");
    })
    .await;
}

/// Their server: echoes method, path and content.
async fn their_server(quic: quinn::Connection) {
    let quic = h3_quinn::Connection::new(quic);
    let builder = h3::server::builder();
    let mut server: h3::server::Connection<_, Bytes> = builder.build(quic).await.unwrap();
    while let Ok(Some(resolver)) = server.accept().await {
        tokio::spawn(async move {
            let (request, mut stream) = resolver.resolve_request().await.unwrap();
            let answer = Response::builder()
                .header("x-method", request.method().as_str())
                .header("x-path", request.uri().to_string())
                .body(())
                .unwrap();
            stream.send_response(answer).await.unwrap();
            while let Some(mut piece) = stream.recv_data().await.unwrap() {
                let piece = piece.copy_to_bytes(piece.remaining());
                stream.send_data(piece).await.unwrap();
            }
            stream.finish().await.unwrap();
        });
    }
}

#[tokio::test]
async fn ours_asks_their_server() {
    soon(async {
        let wire = wire().await;
        tokio::spawn(their_server(wire.server.clone()));
        let requester = end(wire.client.clone(), Role::Requester, Config::default());
        let connection = &requester.connection;

        let head = RequestHead::new(Method::GET, "shop.example", "/list");
        let (mut send, mut recv) = connection.request(&head).await.unwrap();
        send.finish().await.unwrap();
        let answer = recv.response().await.unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.headers["x-method"], "GET");
        assert_eq!(answer.headers["x-path"], "https://shop.example/list");
        assert_eq!(read_all(&mut recv).await, b"");

        let head = RequestHead::connect("shop.example:80");
        let opened = connection.request_with(&head, bytes("through "));
        let (mut send, mut recv) = opened.await.unwrap();
        let answer = recv.response().await.unwrap();
        assert_eq!(answer.headers["x-method"], "CONNECT");
        send.data(bytes("the tunnel")).await.unwrap();
        send.finish().await.unwrap();
        assert_eq!(read_all(&mut recv).await, b"through the tunnel");
        assert!(wire.client.close_reason().is_none());
    })
    .await;
}
