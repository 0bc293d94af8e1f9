//! Requests over tunnels that are well: both lanes, both directions, datagrams, limits.

use bytes::Bytes;
use hansa_core::mesh::Transport;
use hansa_core::reach::Reach;
use hansa_gateway::tunnel::{CONNECT_UDP, Code, Config, Lane, Limits, Open, Request, StreamError};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::member::{Domain, Gateway, LONG, greet, loopback, open, said};
use super::relay::Relay;

/// Two members, one gateway each, who know each other over `transport`.
pub(crate) async fn pair(transport: Transport) -> (Domain, Gateway, Domain, Gateway) {
    let (east, west) = (Domain::new("east"), Domain::new("west"));
    let (a, b) = (east.gateway("a", &[&west]), west.gateway("b", &[&east]));
    a.know(&east, vec![west.peer(transport, &[("b", vec![b.address()])])]);
    b.know(&west, vec![east.peer(transport, &[("a", vec![a.address()])])]);
    a.connected(&west, "b", 1).await;
    b.connected(&east, "a", 1).await;
    (east, a, west, b)
}

async fn both_ways(transport: Transport, lane: Lane) {
    let (east, mut a, west, mut b) = pair(transport).await;
    a.echo();
    b.echo();
    let reach = a.until(&west, "reachable", |peer| peer.reach == Reach::Reachable).await;
    assert_eq!(reach.transport, Some(lane));
    assert!(reach.last_packet > 0 && reach.rtt_ms.is_some());
    for (from, to) in [(&a, &west), (&b, &east)] {
        let mut stream = from.open(to).await;
        assert_eq!(stream.transport, lane);
        greet(&mut stream, "hello").await;
        stream.send.finish().await.unwrap();
        assert_eq!(stream.recv.data().await.unwrap(), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_go_both_ways_over_quic() {
    both_ways(Transport::Quic, Lane::Quic).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_go_both_ways_over_http2() {
    both_ways(Transport::Http2, Lane::Http2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_takes_over_where_udp_is_swallowed() {
    let (east, west) = (Domain::new("east"), Domain::new("west"));
    let (a, mut b) = (east.gateway("a", &[&west]), west.gateway("b", &[&east]));
    b.echo();
    let relay = Relay::new(b.address(), (false, true)).await;
    b.know(&west, vec![east.peer(Transport::Auto, &[])]);
    a.know(&east, vec![west.peer(Transport::Auto, &[("b", vec![relay.address])])]);
    let reach = a.connected(&west, "b", 1).await;
    assert_eq!(reach.transport, Some(Lane::Http2));
    greet(&mut a.open(&west).await, "over TCP").await;
}

/// Reads the first bytes before it answers, which a caller that waited for the answer would never
/// have sent.
async fn first_bytes(transport: Transport) {
    let (_east, a, west, mut b) = pair(transport).await;
    let mut incoming = b.incoming.take().unwrap();
    let first = Bytes::from_static(b"first bytes");
    let mut headers = HeaderMap::new();
    headers.insert("hansa-caller", HeaderValue::from_static("web"));
    let asked = a.tunnels.open(&west.cluster, Open { first: first.clone(), headers, ..open() });
    let mut stream = asked.await.unwrap();
    let taken = tokio::time::timeout(LONG, incoming.recv()).await.unwrap().unwrap();
    let Request { peer, authority, headers, responder, mut recv, .. } = taken;
    assert_eq!((peer.cluster.as_str(), peer.gateway.as_str()), ("east", "a"));
    assert_eq!(authority, "web.shop.svc.clusterset.local:80");
    assert_eq!(headers["hansa-caller"], "web");
    assert_eq!(recv.data().await.unwrap(), Some(first));
    let mut headers = HeaderMap::new();
    headers.insert("proxy-status", HeaderValue::from_static("gateway; error=x"));
    responder.refuse(StatusCode::SERVICE_UNAVAILABLE, headers, recv).await.unwrap();
    let stopped = tokio::time::timeout(LONG, stream.send.stopped()).await.unwrap();
    assert_eq!(stopped, StreamError::Reset(Code::H3_NO_ERROR));
    let answer = stream.recv.response().await.unwrap();
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.proxy_status(), Some("gateway; error=x"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_bytes_leave_with_the_head_over_quic() {
    first_bytes(Transport::Quic).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_bytes_leave_with_the_head_over_http2() {
    first_bytes(Transport::Http2).await;
}

/// More than all windows and buffers together, through a reader that starts late.
async fn bulk(transport: Transport) {
    let (_east, a, west, mut b) = pair(transport).await;
    b.echo();
    let mut stream = a.open(&west).await;
    assert_eq!(stream.recv.response().await.unwrap().status, StatusCode::OK);
    let (mut send, mut recv) = (stream.send, stream.recv);
    let total = 48 << 20;
    let sending = tokio::spawn(async move {
        let piece = Bytes::from(vec![7; 64 << 10]);
        for _ in 0..total / piece.len() {
            send.data(piece.clone()).await.unwrap();
        }
        send.finish().await.unwrap();
        send
    });
    let mut got = 0;
    while let Some(piece) = recv.data().await.unwrap() {
        got += piece.len();
    }
    assert_eq!(got, total);
    drop(sending.await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_passes_over_quic() {
    bulk(Transport::Quic).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_passes_over_http2() {
    bulk(Transport::Http2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn udp_travels_in_datagrams() {
    let (_east, a, west, mut b) = pair(Transport::Quic).await;
    let mut incoming = b.incoming.take().unwrap();
    let mut stream =
        a.tunnels.open(&west.cluster, Open { protocol: Some(CONNECT_UDP), ..open() }).await.unwrap();
    let taken = tokio::time::timeout(LONG, incoming.recv()).await.unwrap().unwrap();
    let Request { authority, protocol, responder, mut recv, .. } = taken;
    assert_eq!(protocol.as_deref(), Some(CONNECT_UDP));
    assert_eq!(authority, "web.shop.svc.clusterset.local:80");
    let _send = responder.respond(StatusCode::OK, HeaderMap::new()).await.unwrap();
    assert_eq!(stream.recv.response().await.unwrap().status, StatusCode::OK);
    let (ours, _) = stream.recv.datagrams().unwrap();
    let (_, mut theirs) = recv.datagrams().unwrap();
    ours.send(&b"\0ping"[..]).unwrap();
    let got = tokio::time::timeout(LONG, theirs.recv()).await.unwrap().unwrap();
    assert_eq!(&got[..], b"\0ping");
}

async fn full(transport: Transport) {
    let (east, west) = (Domain::new("east"), Domain::new("west"));
    let limits = Limits { incoming: 1, ..Limits::default() };
    let config = Config { listen: loopback(), limits, ..Config::default() };
    let (a, b) = (east.gateway("a", &[&west]), west.gateway_with("b", &[&east], config));
    a.know(&east, vec![west.peer(transport, &[("b", vec![b.address()])])]);
    b.know(&west, vec![east.peer(transport, &[])]);
    a.connected(&west, "b", 1).await;
    // Nobody takes requests at b: one waits, the next is refused, untouched.
    let _waits = a.open(&west).await;
    let mut refused = a.open(&west).await;
    let answer = tokio::time::timeout(LONG, refused.recv.response()).await.unwrap();
    assert_eq!(answer.unwrap_err(), StreamError::Rejected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_gateway_rejects_over_quic() {
    full(Transport::Quic).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_gateway_rejects_over_http2() {
    full(Transport::Http2).await;
}

/// A member that cannot be dialled is asked over the tunnels that it dials.
async fn dial_only(transport: Transport) {
    let (east, west) = (Domain::new("east"), Domain::new("west"));
    let hidden = Config { dial_only: true, ..Config::default() };
    let (mut a, mut b) = (east.gateway("a", &[&west]), west.gateway_with("b", &[&east], hidden));
    a.echo();
    b.echo();
    a.know(&east, vec![west.peer(transport, &[("b", Vec::new())])]);
    b.know(&west, vec![east.peer(transport, &[("a", vec![a.address()])])]);
    a.connected(&west, "b", 1).await;
    b.connected(&east, "a", 1).await;
    let mut there = a.open(&west).await;
    greet(&mut there, "to the hidden").await;
    greet(&mut b.open(&east).await, "from the hidden").await;
    said(&mut there, "once more").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hidden_member_is_asked_over_quic() {
    dial_only(Transport::Quic).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hidden_member_is_asked_over_http2() {
    dial_only(Transport::Http2).await;
}
