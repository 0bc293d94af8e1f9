//! Which heads are malformed, and that heads survive the wire.

use std::borrow::Cow;

use http::Method;
use proptest::prelude::*;

use super::*;
use crate::qpack::{Limits, decode};

const WIDE: Limits = Limits { size: 1 << 20, fields: 1000 };

fn fields<'a>(list: &[(&'a str, &'a str)]) -> Vec<Field<'a>> {
    list.iter()
        .map(|(name, value)| Field {
            name: Cow::Borrowed(name.as_bytes()),
            value: Cow::Borrowed(value.as_bytes()),
            secret: false,
        })
        .collect()
}

fn request(list: &[(&str, &str)]) -> Result<RequestHead, Malformed> {
    RequestHead::decode(&fields(list))
}

const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "/")];

#[test]
fn good_requests_pass() {
    assert!(request(&GET).is_ok());
    let connect = request(&[(":method", "CONNECT"), (":authority", "[::1]:80")]);
    assert_eq!(connect.unwrap(), RequestHead::connect("[::1]:80"));
    let mut extended = GET.to_vec();
    extended[0].1 = "CONNECT";
    extended.push((":protocol", "connect-ip"));
    assert_eq!(request(&extended).unwrap(), RequestHead::extended_connect("connect-ip", "a", "/"));
}

#[test]
fn malformed_requests_are_refused() {
    let with = |extra: &[(&'static str, &'static str)]| {
        let mut list = GET.to_vec();
        list.extend_from_slice(extra);
        request(&list)
    };
    assert!(with(&[("X-Upper", "1")]).is_err());
    assert!(with(&[("connection", "close")]).is_err());
    assert!(with(&[("transfer-encoding", "chunked")]).is_err());
    assert!(with(&[("te", "gzip")]).is_err());
    assert!(with(&[("te", "trailers")]).is_ok());
    assert!(with(&[("a b", "1")]).is_err());
    assert!(with(&[("", "1")]).is_err());
    assert!(with(&[("a", "1\r\n2")]).is_err());
    assert!(with(&[("a", "1"), (":path", "/")]).is_err());
    assert!(with(&[(":path", "/")]).is_err(), "twice");
    assert!(with(&[(":status", "200")]).is_err());
    assert!(with(&[(":protocol", "x")]).is_err(), "without CONNECT");
    assert!(with(&[("host", "b")]).is_err(), "differs");
    assert!(with(&[("host", "a")]).is_ok());
    for (index, (missing, _)) in GET.iter().enumerate() {
        let mut list = GET.to_vec();
        list.remove(index);
        assert!(request(&list).is_err(), "without {missing}");
    }
    for bad in ["", "a", "a:", "a:99999", ":80", "u@a:80", "a b:80"] {
        let list = [(":method", "CONNECT"), (":authority", bad)];
        assert!(request(&list).is_err(), "{bad}");
    }
    let list = [(":method", "CONNECT"), (":authority", "a:1"), (":path", "/")];
    assert!(request(&list).is_err(), "path in CONNECT");
}

#[test]
fn malformed_responses_are_refused() {
    let response = |list: &[(&str, &str)]| ResponseHead::decode(&fields(list));
    assert_eq!(response(&[(":status", "204")]).unwrap().status, StatusCode::NO_CONTENT);
    for bad in ["", "20", "2000", "abc", "101"] {
        assert!(response(&[(":status", bad)]).is_err(), "{bad}");
    }
    assert!(response(&[]).is_err());
    assert!(response(&[(":status", "200"), (":status", "200")]).is_err());
    assert!(response(&[(":status", "200"), (":path", "/")]).is_err());
    assert!(decode_trailers(&fields(&[(":status", "200")])).is_err());
}

#[test]
fn secrets_do_not_show() {
    let mut list = GET.to_vec();
    list.push(("authorization", "Bearer hunter2"));
    let shown = format!("{:?}", request(&list).unwrap());
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn content_lengths_must_agree() {
    let length = |values: &[&'static str]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(CONTENT_LENGTH, HeaderValue::from_static(value));
        }
        content_length(&headers)
    };
    assert_eq!(length(&[]), Ok(None));
    assert_eq!(length(&["5", "5"]), Ok(Some(5)));
    assert!(length(&["5", "6"]).is_err());
    for bad in ["", "+5", "-1", "5,5", "99999999999999999999"] {
        assert!(length(&[bad]).is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn a_head_survives_the_wire(
        connect: bool,
        authority in "[a-z0-9.]{1,30}:[1-9]{1,4}",
        path in "/[a-z0-9/]{0,30}",
        headers in prop::collection::vec(("[a-z][a-z0-9-]{0,12}x", "[ -~]{0,30}"), 0..8),
    ) {
        let mut head = match connect {
            true => RequestHead::connect(authority),
            false => RequestHead::new(Method::POST, authority, path),
        };
        for (name, value) in &headers {
            let name: HeaderName = name.parse().unwrap();
            head.headers.append(name, value.parse().unwrap());
        }
        let block = head.encode().unwrap().finish();
        prop_assert_eq!(RequestHead::decode(&decode(&block, WIDE).unwrap()).unwrap(), head);
    }

    #[test]
    fn any_fields_are_survived(list in prop::collection::vec((any::<Vec<u8>>(), any::<Vec<u8>>()), 0..8)) {
        let fields: Vec<Field<'_>> = list
            .iter()
            .map(|(n, v)| Field { name: n.into(), value: v.into(), secret: false })
            .collect();
        let _ = RequestHead::decode(&fields);
        let _ = ResponseHead::decode(&fields);
        let _ = decode_trailers(&fields);
    }
}
