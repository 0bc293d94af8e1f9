//! A long way that loses datagrams, made by the lab's own links: large transfers and small requests come whole and
//! once, over QUIC all the while.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use hansa_lab::link::{Order, Wan, ask};
use hansa_lab::load::ConnKind;
use hansa_lab::loadrun::{LoadRun, LoadSpec};
use hansa_lab::{Lab, LabSpec, MemberId, NetMode, clock, lookup, sh};

/// 40 ms there and back, one datagram in a hundred lost each way.
const FAR: Wan = Wan { delay: 20, loss: 10 };
const BULK: usize = 8 << 20;
const CART: &str = "cart.shop.svc.clusterset.local";

#[tokio::test]
async fn a_long_lossy_way_delivers_large_and_small_whole() {
    let dir = std::env::temp_dir().join(format!("hansa-wan-{}", std::process::id()));
    let spec = LabSpec {
        members: vec![MemberId::AwsEu, MemberId::Rack1],
        progress: true,
        ..LabSpec::new(&dir, &crate::binary(), NetMode::Loopback)
    };
    let lab = Lab::up(spec).await.expect("the lab comes up");
    let result = far(&lab).await;
    lab.down().await.expect("the lab goes");
    result.expect("as promised");
    std::fs::remove_dir_all(&dir).expect("the folder goes");
}

async fn far(lab: &Lab) -> anyhow::Result<()> {
    // Before there is a tunnel: a way that grows long under a live one is another story.
    ask(&lab.spec.dir, &Order::Wan(FAR)).await?;
    lab.join().await?;
    lab.connected(Duration::from_secs(20)).await?;
    on_quic(lab, Duration::from_secs(35)).await?;
    let mut run = LoadRun::start(lab, &small(lab))?;
    run.steady(Duration::from_secs(25), 200).await?;
    let from = clock::now();
    bulk(lab).await?;
    let to = clock::now();
    let records = run.stop().await?;
    let (new, kept) = (records.new_between(from, to), records.kept_between(from, to));
    lab.say(&format!("beside it: new {}, p99 {} us; kept {}", new.text(), new.p99_us, kept.text()));
    ensure!(new.clean() && kept.clean(), "small ones: new {}, kept {}", new.text(), kept.text());
    // There and back is 40 ms: an answer sooner did not go the long way.
    let fastest = records.window(ConnKind::New, from, to).filter(|o| o.ok).map(|o| o.latency_us).min();
    ensure!(fastest.is_some_and(|us| us >= 40_000), "the fastest took {fastest:?} us: nothing was delayed");
    let lost = lab.counter("lost").await?.packets;
    ensure!(lost > 50, "only {lost} datagrams were lost");
    on_quic(lab, Duration::ZERO).await
}

/// Small requests of rack-1, 100 a second.
fn small(lab: &Lab) -> LoadSpec {
    LoadSpec {
        from: MemberId::Rack1,
        name: "checkout.shop.svc.clusterset.local".into(),
        port: lab.plan.http_port(),
        protocol: "http",
        members: vec![MemberId::AwsEu],
        tag: "wan".into(),
        rate: 100,
    }
}

/// A large value of aws-eu's client to rack-1's Redis and back.
async fn bulk(lab: &Lab) -> anyhow::Result<()> {
    let host = lookup::addresses(lab.plan.dns(MemberId::AwsEu), CART).await?;
    let host = host.first().context("no address")?.to_string();
    let value: String = (0..BULK).map(|n| char::from(b'a' + (n % 23) as u8)).collect();
    let member = lab.member(MemberId::AwsEu);
    let mut command = member.client("redis-cli");
    command.args(["-h", &host, "-x", "SET", "bulk"]);
    let set = sh::run(command, Some(&value)).await?;
    ensure!(set.trim() == "OK", "SET {set}");
    let back = member.exec("redis-cli", &["-h", &host, "GET", "bulk"]).await?;
    ensure!(back.trim_end() == value, "{} bytes came back, not as they were", back.len());
    Ok(())
}

/// New streams of either member go over QUIC, at the latest after this time.
async fn on_quic(lab: &Lab, limit: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + limit;
    for member in lab.members() {
        loop {
            let status = member.status().await?;
            let over: Vec<_> = status.peers.iter().map(|p| p.transport.clone()).collect();
            if over.iter().all(|t| t == "quic") {
                break;
            }
            ensure!(Instant::now() < end, "{} is on {over:?}", member.id);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    Ok(())
}
