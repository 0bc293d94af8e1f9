//! What is answered, by the multicluster DNS specification and the RFCs of the wire.

use hansa_dns::message::{self, Why};
use hansa_dns::{DnsMetrics, Responder, Shelf, Via};
use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, RData, RecordType};

use crate::fixture::*;

const WEB: &str = "web.shop.svc.clusterset.local";
const DB: &str = "db.data.svc.clusterset.local";

#[test]
fn addresses_of_a_clusterset_ip() {
    let responder = responder();
    let answer = ask(&responder, WEB, RecordType::A);
    assert_eq!(ips(&answer), ["10.1.0.1", "10.1.0.2"]);
    assert!(answer.metadata.authoritative && answer.metadata.recursion_desired);
    assert!(!answer.metadata.recursion_available);
    assert_eq!(answer.answers[0].ttl, 5);
    assert_eq!(ips(&ask(&responder, WEB, RecordType::AAAA)), ["fd00::1"]);
}

#[test]
fn the_case_of_the_question_comes_back() {
    let answer = ask(&responder(), "wEb.SHOP.svc.ClusterSet.LOCAL", RecordType::A);
    assert_eq!(answer.answers.len(), 2);
    let bytes = question("wEb.SHOP.svc.ClusterSet.LOCAL", RecordType::A, None).to_vec().unwrap();
    let out = raw(&responder(), &bytes, Via::Udp).unwrap();
    assert_eq!(out[12..bytes.len()], bytes[12..]);
}

#[test]
fn the_order_of_addresses_turns() {
    let responder = responder();
    let bytes = question(WEB, RecordType::A, None).to_vec().unwrap();
    let first = |draw| {
        let mut out = Vec::new();
        responder.respond(&bytes, LOCAL, (Via::Udp, draw), &mut out);
        ips(&Message::from_vec(&out).unwrap())[0].clone()
    };
    assert_eq!([first(0), first(1), first(2)], ["10.1.0.1", "10.1.0.2", "10.1.0.1"]);
}

#[test]
fn headless_names_and_hosts() {
    let responder = responder();
    assert_eq!(ips(&ask(&responder, DB, RecordType::A)), ["10.2.0.1", "10.2.0.2"]);
    assert_eq!(ips(&ask(&responder, &format!("db-0.aws-eu.{DB}"), RecordType::A)), ["10.2.0.1"]);
    assert_eq!(ips(&ask(&responder, &format!("db-0.east.gcp.{DB}"), RecordType::A)), ["10.2.0.2"]);
    for (name, code) in [
        (format!("db-1.aws-eu.{DB}"), ResponseCode::NXDomain),
        (format!("aws-eu.{DB}"), ResponseCode::NoError),
        (format!("gcp.{DB}"), ResponseCode::NoError),
        ("gone.data.svc.clusterset.local".to_owned(), ResponseCode::NXDomain),
        ("none.data.svc.clusterset.local".to_owned(), ResponseCode::NXDomain),
        ("data.svc.clusterset.local".to_owned(), ResponseCode::NoError),
        ("elsewhere.svc.clusterset.local".to_owned(), ResponseCode::NXDomain),
    ] {
        let answer = ask(&responder, &name, RecordType::A);
        assert_eq!((answer.metadata.response_code, answer.answers.len()), (code, 0), "{name}");
        assert!(answer.metadata.authoritative);
        let [soa] = &answer.authorities[..] else { panic!("{name}: no SOA") };
        assert_eq!(soa.name.to_ascii(), "clusterset.local.");
        let RData::SOA(soa) = &soa.data else { panic!("{soa}") };
        assert_eq!((soa.serial, soa.minimum), (77, 5));
    }
}

#[test]
fn services_by_name_and_at_the_bare_name() {
    let responder = responder();
    for name in [WEB.to_owned(), format!("_tcp._tcp.{WEB}"), format!("_udp._udp.{WEB}")] {
        let answer = ask(&responder, &name, RecordType::SRV);
        let [record] = &answer.answers[..] else { panic!("{name}: {answer}") };
        let RData::SRV(srv) = &record.data else { panic!("{record}") };
        assert_eq!((srv.port, srv.target.to_ascii()), (42, format!("{WEB}.")));
        assert_eq!(answer.additionals.len(), 3);
        assert!(answer.additionals.iter().all(|record| record.name.to_ascii() == format!("{WEB}.")));
    }
    let headless = ask(&responder, &format!("_tcp._tcp.{DB}"), RecordType::SRV);
    let targets: Vec<String> = headless.answers.iter().map(|r| r.data.to_string()).collect();
    assert_eq!(targets, [format!("0 0 42 db-0.aws-eu.{DB}."), format!("0 0 42 db-0.east.gcp.{DB}.")]);
    assert_eq!(headless.additionals.len(), 3);
    let none = ask(&responder, &format!("_http._tcp.{WEB}"), RecordType::SRV);
    assert_eq!(none.metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn the_version_and_the_apex() {
    let responder = responder();
    let version = ask(&responder, "dns-version.clusterset.local", RecordType::TXT);
    assert_eq!(version.answers[0].data.to_string(), "1.0.0");
    assert_eq!(ask(&responder, "clusterset.local", RecordType::SOA).answers.len(), 1);
    assert_eq!(ask(&responder, "clusterset.local", RecordType::NS).answers.len(), 1);
    assert_eq!(ask(&responder, "clusterset.local", RecordType::MX).authorities.len(), 1);
}

#[test]
fn any_is_answered_with_one_set() {
    let answer = ask(&responder(), WEB, RecordType::ANY);
    let kinds: Vec<RecordType> = answer.answers.iter().map(|record| record.record_type()).collect();
    assert!(!kinds.is_empty() && kinds.iter().all(|kind| *kind == kinds[0]), "{kinds:?}");
    assert!(answer.additionals.is_empty());
}

#[test]
fn what_does_not_fit_is_cut_and_said() {
    let responder = responder();
    let name = "many.big.svc.clusterset.local";
    for (payload, via, limit, whole) in [
        (None, Via::Udp, 512, false),
        (Some(800), Via::Udp, 800, false),
        (Some(65_535), Via::Udp, 1_232, false),
        (None, Via::Tcp, 65_535, true),
    ] {
        let bytes = question(name, RecordType::A, payload).to_vec().unwrap();
        let out = raw(&responder, &bytes, via).unwrap();
        assert!(out.len() <= limit, "{}", out.len());
        let answer = Message::from_vec(&out).unwrap();
        assert_eq!(answer.metadata.truncation, !whole);
        assert_eq!(answer.answers.len() == 200, whole);
        assert_eq!(answer.edns.is_some(), payload.is_some());
    }
}

#[test]
fn edns_is_spoken_in_version_0() {
    let mut message = question(WEB, RecordType::A, Some(4_096));
    message.edns.as_mut().unwrap().set_dnssec_ok(true);
    let answer =
        Message::from_vec(&raw(&responder(), &message.to_vec().unwrap(), Via::Udp).unwrap()).unwrap();
    let edns = answer.edns.unwrap();
    assert_eq!((edns.max_payload(), edns.version(), edns.flags().dnssec_ok), (1_232, 0, true));
    message.edns.as_mut().unwrap().set_version(1);
    let answer =
        Message::from_vec(&raw(&responder(), &message.to_vec().unwrap(), Via::Udp).unwrap()).unwrap();
    // 16 has two names: BADVERS here, BADSIG with signatures.
    assert_eq!(u16::from(answer.metadata.response_code), 16);
    assert!(answer.answers.is_empty() && answer.edns.is_some());
}

#[test]
fn what_is_not_offered_is_refused_by_code() {
    let code = |message: &Message| {
        let out = raw(&responder(), &message.to_vec().unwrap(), Via::Udp).unwrap();
        Message::from_vec(&out).unwrap().metadata.response_code
    };
    let mut update = question(WEB, RecordType::A, None);
    update.metadata.op_code = OpCode::Update;
    assert_eq!(code(&update), ResponseCode::NotImp);
    let mut chaos = question(WEB, RecordType::TXT, None);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(code(&chaos), ResponseCode::Refused);
    assert_eq!(code(&question("clusterset.local", RecordType::AXFR, None)), ResponseCode::Refused);
    assert_eq!(code(&question("example.org", RecordType::A, None)), ResponseCode::Refused);
    assert_eq!(code(&question("web.shop.svc.cluster.local", RecordType::A, None)), ResponseCode::Refused);
    assert_eq!(code(&question("xclusterset.local", RecordType::A, None)), ResponseCode::Refused);
    let mut two = question(WEB, RecordType::A, None);
    two.add_query(two.queries[0].clone());
    assert_eq!(code(&two), ResponseCode::FormErr);
}

#[test]
fn before_the_first_zone_nothing_is_said_not_to_exist() {
    let responder = Responder::new(Shelf::default(), None, DnsMetrics::default());
    for name in [WEB, "none.none.svc.clusterset.local", "clusterset.local"] {
        let asked = question(name, RecordType::A, Some(1_232)).to_vec().unwrap();
        let answer = Message::from_vec(&raw(&responder, &asked, Via::Udp).unwrap()).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
        assert_eq!(why(&answer), Some((14, "HNS-6001 no zone yet".to_owned())));
    }
    let plain = raw(&responder, &question(WEB, RecordType::A, None).to_vec().unwrap(), Via::Udp).unwrap();
    assert!(
        Message::from_vec(&plain).unwrap().edns.is_none(),
        "who does not speak EDNS is not spoken to in it"
    );
}

#[test]
fn every_reason_fits_the_smallest_answer_to_the_longest_name() {
    let label = "a".repeat(61);
    let longest = format!("{label}.{label}.{label}.{label}.bcdef");
    let bytes = question(&longest, RecordType::A, Some(512)).to_vec().unwrap();
    let query = message::parse(&bytes).unwrap();
    assert_eq!(query.name().len(), 255);
    for reason in Why::ALL {
        let mut out = Vec::new();
        let code = message::reply::why(&query, reason, true, &mut out);
        assert!(out.len() <= message::PLAIN_LIMIT, "{reason:?}: {} bytes", out.len());
        let answer = Message::from_vec(&out).unwrap();
        assert_eq!(u16::from(answer.metadata.response_code), code.number());
        assert_eq!(why(&answer), Some((reason.info(), reason.text())));
    }
}
