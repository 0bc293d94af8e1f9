//! The network of a lab without hansa: what passes between members, and what a cut stops.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hansa_lab::net::{self, rules};
use hansa_lab::process::{Launch, Proc};
use hansa_lab::spec::{Host, MemberId, NetMode, Plan};

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
        while hansa_lab::sh::inside(ns.clone(), dial).await.is_err() {}
    };
    tokio::time::timeout(Duration::from_secs(10), probe).await.expect("the server listens");
}

#[tokio::test]
async fn only_the_tunnel_port_passes_between_members_and_a_cut_stops_it() {
    crate::needs_root();
    let dir: PathBuf = std::env::temp_dir().join(format!("hansa-net-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("folder");
    let plan = Plan::new(&dir, NetMode::Netns, 0);
    let result = between(&dir, &plan).await;
    for proc in hansa_lab::process::marked(&dir) {
        proc.kill().await.expect("gone");
    }
    net::down(&plan).await.expect("namespaces go");
    assert!(net::existing(&plan).expect("a list").is_empty());
    std::fs::remove_dir_all(&dir).expect("the folder goes");
    result.expect("as promised");
}

async fn between(dir: &Path, plan: &Plan) -> anyhow::Result<()> {
    net::up(plan, &MemberId::ALL).await?;
    let log = dir.join("served.jsonl");
    let gateway = plan.ns(MemberId::GcpEu, Host::Gateway(1));
    for listen in ["198.18.2.11:15443", "198.18.2.11:15012", "10.0.0.11:8080"] {
        serve(dir, gateway.clone(), listen, &log).await;
    }
    let from = plan.ns(MemberId::AwsEu, Host::Gateway(2));
    let dials = |to: &'static str, limit: u64| {
        hansa_lab::sh::inside(from.clone(), move || async move {
            let dial = tokio::net::TcpStream::connect(to);
            Ok(matches!(tokio::time::timeout(Duration::from_secs(limit), dial).await, Ok(Ok(_))))
        })
    };
    // What must pass has time, on a busy machine too; what must not is given up sooner.
    let reaches = |to| dials(to, 1);
    anyhow::ensure!(dials("198.18.2.11:15443", 20).await?, "the tunnel port");
    anyhow::ensure!(!reaches("198.18.2.11:15012").await?, "another port");
    // The same address exists in the caller's own member, so what answers there is its own.
    anyhow::ensure!(!reaches("10.0.0.10:15012").await?, "a controller");
    anyhow::ensure!(rules::counter(plan, "tunnel_tcp").await?.packets > 0, "nothing was counted");
    anyhow::ensure!(rules::counter(plan, "refused").await?.packets > 0, "nothing was refused");
    rules::cut(plan, MemberId::GcpEu).await?;
    anyhow::ensure!(!reaches("198.18.2.11:15443").await?, "cut");
    anyhow::ensure!(rules::counter(plan, "cut2").await?.packets > 0, "nothing was cut");
    rules::uncut(plan, MemberId::GcpEu).await?;
    anyhow::ensure!(dials("198.18.2.11:15443", 20).await?, "healed");
    rules::block_udp(plan, true).await?;
    rules::block_udp(plan, false).await?;
    Ok(())
}
