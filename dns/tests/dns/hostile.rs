//! Packets made to break something.

use hansa_dns::{Via, message};
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::fixture::*;

/// A good question with some bytes changed and cut somewhere.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let names = prop_oneof![
        Just("web.shop.svc.clusterset.local"),
        Just("db.data.svc.clusterset.local"),
        Just("_tcp._tcp.db.data.svc.clusterset.local"),
        Just("clusterset.local")
    ];
    let changes = vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6);
    (names, any::<u16>(), proptest::option::of(any::<u16>()), changes, any::<proptest::sample::Index>())
        .prop_map(|(name, kind, payload, changes, cut)| {
            let mut bytes = question(name, RecordType::from(kind), payload).to_vec().unwrap();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(cut.index(bytes.len() * 4).max(1));
            bytes
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_packet_breaks_the_server(packet in prop_oneof![damaged(), vec(any::<u8>(), 0..600)]) {
        let responder = responder();
        for via in [Via::Udp, Via::Tcp] {
            let mut out = Vec::new();
            responder.respond(&packet, LOCAL, (via, 1), &mut out);
            if !out.is_empty() {
                prop_assert_eq!(&out[..2], &packet[..2]);
                prop_assert!(out[2] & 0x80 != 0, "an answer");
                prop_assert!(via == Via::Tcp || out.len() <= message::UDP_LIMIT);
                // What we read as a question, and hickory too, is answered in a way it can read.
                if Message::from_vec(&packet).is_ok() {
                    prop_assert!(Message::from_vec(&out).is_ok());
                }
            }
        }
    }

    #[test]
    fn no_answer_is_larger_than_its_client_takes(payload in 512u16..4_096, name in "[a-z]{1,20}") {
        let responder = responder();
        for name in ["many.big", "db.data", &name] {
            let name = format!("{name}.svc.clusterset.local");
            for kind in [RecordType::A, RecordType::SRV, RecordType::ANY] {
                let bytes = question(&name, kind, Some(payload)).to_vec().unwrap();
                let out = raw(&responder, &bytes, Via::Udp).unwrap();
                prop_assert!(out.len() <= usize::from(payload));
                Message::from_vec(&out).unwrap();
            }
        }
    }
}

#[test]
fn answers_and_scraps_get_no_answer() {
    let responder = responder();
    assert_eq!(raw(&responder, &[], Via::Udp), None);
    assert_eq!(raw(&responder, &[0; 11], Via::Udp), None);
    let mut bytes = question("web.shop.svc.clusterset.local", RecordType::A, None).to_vec().unwrap();
    bytes[2] |= 0x80;
    assert_eq!(raw(&responder, &bytes, Via::Udp), None, "two servers must not talk to each other for ever");
}

#[test]
fn names_that_point_or_hide_dots_are_harmless() {
    let responder = responder();
    let head = [0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let tail = [0, 1, 0, 1];
    let pointer = [&head[..], &[0xC0, 12], &tail].concat();
    assert_eq!(raw(&responder, &pointer, Via::Udp).unwrap()[3] & 15, 1);
    // One label "web.shop" is not the two labels "web" and "shop".
    let hidden = b"\x08web.shop\x03svc\x0aclusterset\x05local\x00";
    let hidden = [&head[..], hidden, &tail].concat();
    assert_eq!(raw(&responder, &hidden, Via::Udp).unwrap()[3] & 15, 3);
    // 255 bytes of name are the most.
    let long = |labels: usize, last: usize| {
        let mut name = Vec::new();
        for size in std::iter::repeat_n(63, labels).chain([last]) {
            name.push(size as u8);
            name.extend(std::iter::repeat_n(b'a', size));
        }
        name.push(0);
        [&head[..], &name, &tail].concat()
    };
    assert_eq!(raw(&responder, &long(3, 61), Via::Udp).unwrap()[3] & 15, 5);
    assert_eq!(raw(&responder, &long(3, 62), Via::Udp).unwrap()[3] & 15, 1);
}
