//! GOAWAY from either side: taken requests finish, later ones are known as
//! unprocessed.

use hansa_http3::{Code, ConnectionError, OpenError, RequestHead, ResponseHead, StreamError};
use http::StatusCode;

use crate::net::*;

#[tokio::test]
async fn a_responder_drains() {
    for dialler in BOTH {
        soon(async {
            let (requester, mut responder, _wire) = pair(dialler).await;
            let head = RequestHead::connect("a:1");
            let connection = &requester.connection;
            let (mut send, mut recv) = connection.request(&head).await.unwrap();
            let (_, respond, mut served) = responder.requests.next().await.unwrap();
            let mut watch = connection.peer_goaway();

            responder.connection.goaway();
            responder.connection.goaway();
            let limit = *watch.wait_for(Option::is_some).await.unwrap();
            assert_eq!(limit, Some(send.id() + 4), "{dialler:?}");
            assert!(connection.is_going_away());
            let refused = connection.request(&head).await.err();
            assert_eq!(refused, Some(OpenError::GoingAway));

            // What was taken goes on to its end.
            let answer = ResponseHead::new(StatusCode::OK);
            let mut answer = respond.respond(&answer).await.unwrap();
            recv.response().await.unwrap();
            send.data(bytes("late")).await.unwrap();
            send.finish().await.unwrap();
            assert_eq!(read_all(&mut served).await, b"late");
            answer.finish().await.unwrap();
            assert_eq!(recv.data().await, Ok(None));

            responder.connection.close(Code::H3_NO_ERROR, "drained");
            let reason = requester.driver.await.unwrap();
            let code = Code::H3_NO_ERROR;
            let wanted = ConnectionError::Closed { code, reason: "drained".to_owned() };
            assert_eq!(reason, wanted);
            let gone = requester.connection.request(&head).await.err();
            assert_eq!(gone, Some(OpenError::Connection(wanted)));
        })
        .await;
    }
}

#[tokio::test]
async fn a_request_beyond_the_goaway_is_rejected() {
    soon(async {
        let (requester, mut responder, _wire) = pair(Dialler::Requester).await;
        // Decided before the request could arrive, known to the peer after.
        responder.connection.goaway();
        let head = RequestHead::connect("a:1");
        match requester.connection.request(&head).await {
            Ok((_send, mut recv)) => {
                assert_eq!(recv.response().await, Err(StreamError::Rejected));
            }
            Err(error) => assert_eq!(error, OpenError::GoingAway),
        }
        let mut goaway = requester.connection.peer_goaway();
        let none = tokio::select! {
            biased;
            request = responder.requests.next() => request.is_none(),
            _ = goaway.wait_for(Option::is_some) => true,
        };
        assert!(none, "nothing reaches the application");
    })
    .await;
}

#[tokio::test]
async fn a_stream_left_out_by_goaway_is_rejected_without_a_reset() {
    soon(async {
        // A raw peer that says GOAWAY 0 and nothing else.
        let wire = wire().await;
        let requester =
            end(wire.client.clone(), hansa_http3::Role::Requester, hansa_http3::Config::default());
        let head = RequestHead::connect("a:1");
        let (_send, mut recv) = requester.connection.request(&head).await.unwrap();
        let mut control = wire.server.open_uni().await.unwrap();
        let bytes = [0x00, 0x04, 0x00, 0x07, 0x01, 0x00];
        control.write_all(&bytes).await.unwrap();
        assert_eq!(recv.response().await, Err(StreamError::Rejected));
    })
    .await;
}

#[tokio::test]
async fn a_requester_says_goodbye() {
    soon(async {
        let (requester, responder, _wire) = pair(Dialler::Requester).await;
        requester.connection.goaway();
        let mut watch = responder.connection.peer_goaway();
        assert_eq!(*watch.wait_for(Option::is_some).await.unwrap(), Some(0));
        assert!(responder.connection.is_going_away());
        let head = RequestHead::connect("a:1");
        let refused = requester.connection.request(&head).await.err();
        assert_eq!(refused, Some(OpenError::GoingAway));
    })
    .await;
}

#[tokio::test]
async fn a_dropped_driver_ends_the_connection() {
    soon(async {
        let (requester, mut responder, _wire) = pair(Dialler::Requester).await;
        requester.driver.abort();
        assert!(responder.requests.next().await.is_none());
        let reason = responder.driver.await.unwrap();
        let code = Code::H3_NO_ERROR;
        let reason_text = String::new();
        assert_eq!(reason, ConnectionError::Closed { code, reason: reason_text });
    })
    .await;
}
