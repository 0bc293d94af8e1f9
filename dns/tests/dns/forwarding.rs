//! Names outside the zone: forwarded, cached, refused, limited, and not in circles.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hansa_dns::config::Forward;
use hansa_dns::{DnsMetrics, Forwarder, Outcome, Responder, Shelf, Via};
use hansa_runtime::units::HumanDuration;
use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;

use crate::fixture::*;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

/// A resolver that knows a few names and counts the questions.
async fn upstream() -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (address, count) = (socket.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = count.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((read, client)) = socket.recv_from(&mut buffer).await {
            let asked = Message::from_vec(&buffer[..read]).unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
            if let Some(answer) = known(&asked) {
                socket.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
            }
        }
    });
    (address, count)
}

fn known(asked: &Message) -> Option<Message> {
    let mut answer = Message::response(asked.metadata.id, OpCode::Query);
    answer.metadata.recursion_available = true;
    answer.queries.clone_from(&asked.queries);
    let owner = asked.queries[0].name().clone();
    let add = |answer: &mut Message, name: Name, data| {
        answer.add_answer(Record::from_rdata(name, 60, data));
    };
    match owner.to_ascii().to_lowercase().as_str() {
        "silent.example." => return None,
        "www.example." => add(&mut answer, owner, RData::A(A::new(192, 0, 2, 1))),
        "web.shop.svc.cluster.local." => add(&mut answer, owner, RData::A(A::new(10, 96, 0, 7))),
        "alias.example." => {
            add(&mut answer, owner, RData::CNAME(CNAME(name("www.example."))));
            add(&mut answer, name("www.example."), RData::A(A::new(192, 0, 2, 1)));
        }
        "long.example." => {
            for part in 0..9 {
                let text = format!("{part:02}{}", "x".repeat(100));
                add(&mut answer, owner.clone(), RData::TXT(TXT::new(vec![text])));
            }
        }
        _ => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            let soa = SOA::new(name("ns.example."), name("root.example."), 1, 60, 60, 60, 60);
            answer.add_authority(Record::from_rdata(name("example."), 60, RData::SOA(soa)));
        }
    }
    Some(answer)
}

fn responder_to(upstreams: Vec<SocketAddr>, change: impl Fn(&mut Forward)) -> Responder {
    let timeout = HumanDuration(Duration::from_millis(300));
    let mut config = Forward { upstreams, timeout, ..Forward::default() };
    change(&mut config);
    let forwarder = Forwarder::new(&config, DnsMetrics::default()).unwrap().map(Arc::new);
    Responder::new(Shelf::default(), forwarder, DnsMetrics::default())
}

async fn forward(responder: &Responder, asked: &Message, client: &str) -> Message {
    let mut out = Vec::new();
    let bytes = asked.to_vec().unwrap();
    if let Outcome::Forward(forward) =
        responder.respond(&bytes, client.parse().unwrap(), (Via::Udp, 0), &mut out)
    {
        responder.forward(forward, &mut out).await;
    }
    assert_eq!(
        out[12..12 + asked.queries[0].name().len() + 4],
        bytes[12..12 + asked.queries[0].name().len() + 4]
    );
    Message::from_vec(&out).unwrap()
}

#[tokio::test]
async fn answers_are_passed_on_and_kept() {
    let (address, count) = upstream().await;
    let responder = responder_to(vec![address], |_| {});
    for kind in [Some(1_232), None] {
        let answer = forward(&responder, &question("wWw.example", RecordType::A, kind), "10.0.0.1").await;
        assert_eq!(ips(&answer), ["192.0.2.1"]);
        assert!(answer.metadata.recursion_available && !answer.metadata.authoritative);
        assert_eq!(answer.edns.is_some(), kind.is_some());
    }
    assert_eq!(count.load(Ordering::Relaxed), 1, "the second answer is from the cache");
    let alias = forward(&responder, &question("alias.example", RecordType::A, None), "10.0.0.1").await;
    assert_eq!(alias.answers.len(), 2, "{alias}");
    let none = forward(&responder, &question("none.example", RecordType::A, None), "10.0.0.1").await;
    assert_eq!(none.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(none.authorities.len(), 1);
}

#[tokio::test]
async fn the_own_cluster_is_left_to_its_own_dns() {
    let (address, _) = upstream().await;
    let responder = responder_to(vec![address], |_| {});
    let asked = question("web.shop.svc.cluster.local", RecordType::A, None);
    assert_eq!(ips(&forward(&responder, &asked, "10.0.0.1").await), ["10.96.0.7"]);
}

#[tokio::test]
async fn a_long_answer_is_cut_for_udp() {
    let (address, _) = upstream().await;
    let responder = responder_to(vec![address], |_| {});
    let answer = forward(&responder, &question("long.example", RecordType::TXT, None), "10.0.0.1").await;
    assert!(answer.metadata.truncation && answer.answers.is_empty());
}

#[tokio::test]
async fn silence_above_is_a_failure_in_time() {
    let (address, _) = upstream().await;
    let responder = responder_to(vec![address], |_| {});
    let started = std::time::Instant::now();
    let asked = question("silent.example", RecordType::A, Some(1_232));
    let answer = forward(&responder, &asked, "10.0.0.1").await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(why(&answer), Some((22, "HNS-6004 no upstream answers".to_owned())));
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn only_near_clients_may_ask_and_not_too_often() {
    let (address, count) = upstream().await;
    let responder = responder_to(vec![address], |config| config.rate_limit = 2);
    let asked = question("www.example", RecordType::A, Some(1_232));
    for far in ["8.8.8.8", "2001:db8::1"] {
        let answer = forward(&responder, &asked, far).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
        assert_eq!(why(&answer), Some((18, "HNS-6002 forwarding refused".to_owned())));
    }
    assert_eq!(count.load(Ordering::Relaxed), 0);
    for (client, code) in [
        ("fd00::1", ResponseCode::NoError),
        ("fd00::2", ResponseCode::NoError),
        ("fd00::3", ResponseCode::Refused),
        ("::ffff:10.0.0.1", ResponseCode::NoError),
    ] {
        let answer = forward(&responder, &asked, client).await;
        assert_eq!(answer.metadata.response_code, code, "{client}");
        let said = why(&answer).map(|(_, text)| text);
        assert_eq!(
            said.as_deref(),
            (code != ResponseCode::NoError).then_some("HNS-6006 too many questions to forward")
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_leads_back_is_found_out() {
    // A server whose upstream is another one, whose upstream is the first.
    let dir = tempfile::tempdir().unwrap();
    let relay = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let bundle = dir.path().join("bundle.json");
    std::fs::write(&bundle, crate::controller::authority("a").bundle().to_json()).unwrap();
    let more = format!(
        "controller: ['127.0.0.1:1']\nserviceAccount: {{tokenFile: /dev/null, bundleFile: {}, trustDomain: a}}\nforward: {{upstreams: ['{}'], timeout: 200ms}}\n",
        bundle.display(),
        relay.local_addr().unwrap()
    );
    let running = Running::start(config(dir.path(), &more)).await;
    let back = running.address;
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((read, client)) = relay.recv_from(&mut buffer).await {
            let asked = Message::from_vec(&buffer[..read]).unwrap();
            let answer = udp(back, &asked).await;
            relay.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
        }
    });
    let looping = async {
        loop {
            let answer = running.udp(&question("www.example", RecordType::A, Some(1_232))).await;
            if why(&answer) == Some((0, "HNS-6003 forwarding loop".to_owned())) {
                assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, looping).await.unwrap();
    running.stop().await;
}
