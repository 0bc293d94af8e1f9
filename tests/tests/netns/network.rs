//! The network of a lab without hansa: what passes between members, and what a cut stops.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use hansa_lab::net::{self, rules};
use hansa_lab::process::{Launch, Proc};
use hansa_lab::spec::{Host, MemberId, NetMode, Plan};
use hansa_lab::{probe, sh};

/// Starts an HTTP sample server and waits until it listens.
async fn serve(dir: &Path, ns: Option<String>, listen: &'static str, log: &Path) {
    let log = log.to_string_lossy();
    let words = ["lab", "serve-http", "--listen", listen, "--member", "gcp-eu", "--pod", "p", "--log", &log];
    let launch = Launch {
        ns: ns.clone(),
        program: crate::binary(),
        args: words.map(String::from).to_vec(),
        output: dir.join("output.log"),
        mark: dir.to_path_buf(),
    };
    Proc::start(&launch).expect("the server starts");
    let probe = async {
        let dial = move || async move { Ok(tokio::net::TcpStream::connect(listen).await?) };
        while sh::inside(ns.clone(), dial).await.is_err() {}
    };
    tokio::time::timeout(Duration::from_secs(10), probe).await.expect("the server listens");
}

/// Whether a connection from there comes about within so many seconds. What must pass is given time, on a busy
/// machine too; what must not is given up sooner.
async fn dials(from: Option<&String>, to: &'static str, limit: u64) -> anyhow::Result<bool> {
    sh::inside(from.cloned(), move || async move {
        let dial = tokio::net::TcpStream::connect(to);
        Ok(matches!(tokio::time::timeout(Duration::from_secs(limit), dial).await, Ok(Ok(_))))
    })
    .await
}

/// The three members' networks, a story in them, and nothing left of them.
async fn network(name: &str, story: impl AsyncFnOnce(&Path, &Plan) -> anyhow::Result<()>) {
    crate::needs_root();
    let dir: PathBuf = std::env::temp_dir().join(format!("hansa-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("folder");
    let plan = Plan::new(&dir, NetMode::Netns, 0);
    let result = match net::up(&plan, &MemberId::ALL).await {
        Ok(_) => story(&dir, &plan).await,
        Err(e) => Err(e),
    };
    for proc in hansa_lab::process::marked(&dir) {
        proc.kill().await.expect("gone");
    }
    net::down(&plan).await.expect("namespaces go");
    assert!(net::existing(&plan).expect("a list").is_empty());
    std::fs::remove_dir_all(&dir).expect("the folder goes");
    result.expect("as promised");
}

#[tokio::test]
async fn only_the_tunnel_port_passes_between_members_and_a_cut_stops_it() {
    network("net", between).await;
}

async fn between(dir: &Path, plan: &Plan) -> anyhow::Result<()> {
    let log = dir.join("served.jsonl");
    let gateway = plan.ns(MemberId::GcpEu, Host::Gateway(1));
    for listen in ["198.18.2.11:15443", "198.18.2.11:15012"] {
        serve(dir, gateway.clone(), listen, &log).await;
    }
    let from = plan.ns(MemberId::AwsEu, Host::Gateway(2));
    let from = from.as_ref();
    ensure!(dials(from, "198.18.2.11:15443", 20).await?, "the tunnel port");
    let refused = rules::counter(plan, "refused").await?.packets;
    ensure!(!dials(from, "198.18.2.11:15012", 1).await?, "another port");
    ensure!(rules::counter(plan, "tunnel_tcp").await?.packets > 0, "nothing was counted");
    ensure!(rules::counter(plan, "refused").await?.packets > refused, "nothing was refused");
    rules::cut(plan, MemberId::GcpEu).await?;
    ensure!(!dials(from, "198.18.2.11:15443", 1).await?, "cut");
    ensure!(rules::counter(plan, "cut2").await?.packets > 0, "nothing was cut");
    rules::uncut(plan, MemberId::GcpEu).await?;
    ensure!(dials(from, "198.18.2.11:15443", 20).await?, "healed");
    rules::block_udp(plan, true).await?;
    rules::block_udp(plan, false).await
}

#[tokio::test]
async fn what_is_inside_a_peer_is_out_of_reach_even_for_who_has_a_route() {
    network("inside", inside).await;
}

/// A gateway of aws-eu that somebody gave routes to the inside of gcp-eu, all the way there and back: the
/// filter alone is between them, and it holds.
async fn inside(dir: &Path, plan: &Plan) -> anyhow::Result<()> {
    // The controller where it takes followers, and a sample server; neither address is a gateway's, so that
    // the caller's own member has no part in it.
    let places = [(Host::Controller, "10.0.0.10:15012"), (Host::App(1), "10.0.1.1:8080")];
    let log = dir.join("served.jsonl");
    let caller = plan.ns(MemberId::AwsEu, Host::Gateway(2));
    routes_there_and_back(plan).await?;
    for (host, to) in places {
        let own = plan.ns(MemberId::GcpEu, host);
        serve(dir, own, to, &log).await;
        let neighbour = plan.ns(MemberId::GcpEu, Host::Gateway(2));
        ensure!(dials(neighbour.as_ref(), to, 20).await?, "{to} is served in its own member");
        let before = rules::counter(plan, "refused").await?.packets;
        ensure!(!dials(caller.as_ref(), to, 2).await?, "{to} is reached from another member");
        let refused = rules::counter(plan, "refused").await?.packets;
        ensure!(refused > before, "{to} is not reached, but the filter refused nothing");
    }
    // The filter opened, all else as before: now it is reached, so it was the filter that refused.
    run(plan.transit_ns(), "nft insert rule inet lab forward accept").await?;
    for (_, to) in places {
        ensure!(dials(caller.as_ref(), to, 20).await?, "{to} is not reached without a filter either");
    }
    let answer = sh::inside(caller, || async { probe::http_at([10, 0, 1, 1].into(), 8080, "x", "").await });
    ensure!(answer.await?.member == "gcp-eu", "another member's server answered");
    Ok(())
}

async fn routes_there_and_back(plan: &Plan) -> anyhow::Result<()> {
    let ns = |member, host| plan.ns(member, host).context("a namespace");
    let (caller, relay) = (ns(MemberId::AwsEu, Host::Gateway(2))?, ns(MemberId::GcpEu, Host::Gateway(1))?);
    for to in ["10.0.0.10", "10.0.1.1"] {
        run(caller.clone(), &format!("ip route add {to}/32 via 198.18.1.1 dev eth1 src 198.18.1.12")).await?;
        run(plan.transit_ns(), &format!("ip route add {to}/32 via 198.18.2.11")).await?;
    }
    run(relay, "sysctl -qw net.ipv4.ip_forward=1").await?;
    for host in [Host::Controller, Host::App(1)] {
        run(ns(MemberId::GcpEu, host)?, "ip route add 198.18.1.0/24 via 10.0.0.11").await?;
    }
    Ok(())
}

async fn run(ns: String, line: &str) -> anyhow::Result<()> {
    let mut words = line.split(' ');
    let mut command = sh::command_in(Some(&ns), words.next().context("a program")?);
    command.args(words);
    sh::run(command, None).await.map(drop)
}
