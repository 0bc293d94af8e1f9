//! HTTP datagrams: they reach their stream and no other, early ones included;
//! queues are bounded.

use bytes::{Buf, Bytes};
use hansa_http3::{Config, DatagramError, DatagramReceiver, DatagramSender, RequestHead, ResponseHead};
use http::StatusCode;

use crate::net::*;

type Halves = (DatagramSender, DatagramReceiver);

async fn flow(requester: &End, responder: &mut End, path: &str) -> (Halves, Halves, Held) {
    let head = RequestHead::extended_connect("connect-udp", "proxy", path);
    let opened = requester.connection.request(&head).await;
    let (send, mut recv) = opened.unwrap();
    let (_, respond, mut served) = responder.requests.next().await.unwrap();
    let answer = ResponseHead::new(StatusCode::OK);
    let answer = respond.respond(&answer).await.unwrap();
    recv.response().await.unwrap();
    let ours = recv.datagrams().unwrap();
    assert!(recv.datagrams().is_none(), "given out once");
    let theirs = served.datagrams().unwrap();
    (ours, theirs, Box::new((send, recv, answer, served)))
}

/// Keeps the streams of a flow open.
type Held = Box<dyn std::any::Any>;

#[tokio::test]
async fn flows_do_not_mix() {
    for dialler in BOTH {
        soon(async {
            let (requester, mut responder, _wire) = pair(dialler).await;
            let mut flows = Vec::new();
            for index in 0..10 {
                flows.push(flow(&requester, &mut responder, &format!("/{index}/")).await);
            }
            for (index, (ours, theirs, _)) in flows.iter_mut().enumerate() {
                let text = format!("question {index}");
                let context = Bytes::from_static(&[0]);
                ours.0.send(context.chain(text.as_bytes())).unwrap();
                theirs.0.send(format!("answer {index}").as_bytes()).unwrap();
            }
            for (index, (ours, theirs, _)) in flows.iter_mut().enumerate() {
                let got = theirs.1.recv().await.unwrap();
                assert_eq!(got, format!("\0question {index}"), "{dialler:?}");
                assert_eq!(ours.1.recv().await.unwrap(), format!("answer {index}"));
                assert!(ours.1.try_recv().is_none() && theirs.1.try_recv().is_none());
            }
            responder.connection.close(hansa_http3::Code::H3_NO_ERROR, "");
            let (mut ours, ..) = flows.remove(0);
            assert_eq!(ours.1.recv().await, None, "the end of the connection");
        })
        .await;
    }
}

#[tokio::test]
async fn a_datagram_right_behind_the_head_is_not_lost() {
    soon(async {
        let (requester, mut responder, _wire) = pair(Dialler::Requester).await;
        let head = RequestHead::extended_connect("connect-udp", "proxy", "/");
        let opened = requester.connection.request(&head).await;
        let (_send, mut recv) = opened.unwrap();
        let (sender, _receiver) = recv.datagrams().unwrap();
        sender.send(&b"at once"[..]).unwrap();
        let (_, _respond, mut served) = responder.requests.next().await.unwrap();
        let (_, mut receiver) = served.datagrams().unwrap();
        assert_eq!(receiver.recv().await.unwrap(), "at once");
    })
    .await;
}

#[tokio::test]
async fn what_does_not_fit_is_said_or_counted() {
    soon(async {
        let few = Config { datagrams_per_stream: 4, early_datagrams: 2, ..Config::default() };
        let (requester, mut responder, _wire) = pair_with(Dialler::Requester, Config::default(), few).await;
        let (ours, mut theirs, _held) = flow(&requester, &mut responder, "/").await;
        let max = ours.0.max_len().unwrap();
        let huge = vec![0; max + 5000];
        let error = ours.0.send(&huge[..]).unwrap_err();
        assert!(matches!(error, DatagramError::TooLarge { .. }));

        let other = flow(&requester, &mut responder, "/other/").await;
        for _ in 0..10 {
            ours.0.send(&b"x"[..]).unwrap();
        }
        let mut other_theirs = other.1;
        other.0.0.send(&b"last"[..]).unwrap();
        assert_eq!(other_theirs.1.recv().await.unwrap(), "last");
        assert_eq!(responder.connection.datagram_drops().overflow, 6);
        for _ in 0..4 {
            assert_eq!(theirs.1.recv().await.unwrap(), "x");
        }

        // A closed flow is unknown from then on.
        drop(theirs);
        for _ in 0..5 {
            ours.0.send(&b"y"[..]).unwrap();
        }
        other.0.0.send(&b"last"[..]).unwrap();
        assert_eq!(other_theirs.1.recv().await.unwrap(), "last");
        assert_eq!(responder.connection.datagram_drops().unknown, 3);
    })
    .await;
}

#[tokio::test]
async fn datagrams_can_be_off() {
    soon(async {
        let off = Config { datagrams: false, ..Config::default() };
        let (requester, mut responder, _wire) = pair_with(Dialler::Requester, Config::default(), off).await;
        let (ours, theirs, _held) = flow(&requester, &mut responder, "/").await;
        assert_eq!(ours.0.max_len(), None);
        assert_eq!(ours.0.send(&b"x"[..]), Err(DatagramError::Disabled));
        assert_eq!(theirs.0.send(&b"x"[..]), Err(DatagramError::Disabled));
    })
    .await;
}
