//! The lab's parts without hansa: servers, load generator, judge, and the network between members.
//! Run by `cargo test -p hansa-lab`; the namespace tests need root and say so where they cannot run.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hansa_lab::judge::{Records, lines};
use hansa_lab::load::Outcome;
use hansa_lab::net::{self, rules};
use hansa_lab::process::{Launch, Proc};
use hansa_lab::spec::{Host, MemberId, NetMode, Plan};

fn tool() -> PathBuf {
    let mut path = std::env::current_exe().expect("own path");
    path.pop();
    path.pop();
    path.join("examples/labtool")
}

fn start(dir: &Path, ns: Option<String>, args: &[&str]) -> Proc {
    let mut all = vec!["lab".to_owned()];
    all.extend(args.iter().map(|a| (*a).to_owned()));
    Proc::start(&Launch {
        ns,
        program: tool(),
        args: all,
        output: dir.join("output.log"),
        mark: dir.to_path_buf(),
    })
    .expect("the tool starts")
}

async fn listening(ns: Option<String>, address: &str) {
    let address = address.to_owned();
    let probe = async {
        loop {
            let to = address.clone();
            let tried = hansa_lab::sh::inside(ns.clone(), move || async move {
                Ok(tokio::net::TcpStream::connect(to).await?)
            });
            if tried.await.is_ok() {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), probe).await.expect("the tool starts");
}

fn serve<'a>(listen: &'a str, log: &'a str) -> Vec<&'a str> {
    vec!["serve-http", "--listen", listen, "--member", "aws-eu", "--pod", "p", "--log", log]
}

#[tokio::test]
async fn load_counts_every_request_once_and_a_killed_server_as_failures() {
    let dir = tempfile::tempdir().unwrap();
    let (log, out) = (dir.path().join("served.jsonl"), dir.path().join("load.jsonl"));
    let server = start(dir.path(), None, &serve("127.77.0.1:18080", log.to_str().unwrap()));
    listening(None, "127.77.0.1:18080").await;
    let load = start(
        dir.path(),
        None,
        &[
            "load",
            "--fixed",
            "127.77.0.1",
            "--name",
            "x",
            "--port",
            "18080",
            "--rate",
            "200",
            "--duration",
            "3",
            "--keep",
            "1",
            "--members",
            "aws-eu",
            "--out",
            out.to_str().unwrap(),
        ],
    );
    tokio::time::sleep(Duration::from_secs(2)).await;
    server.kill().await.unwrap();
    load.gone(Duration::from_secs(20)).await.unwrap();
    let outcomes: Vec<Outcome> = lines(&out).unwrap();
    assert_eq!(outcomes.len(), 600);
    let start = outcomes.iter().map(|o| o.intended_ns).min().unwrap();
    let records = Records::join(outcomes, &[log]).unwrap();
    let early = records.new_between(start, start + 1_500_000_000);
    assert!(early.clean() && early.only(&["aws-eu"]), "{}", early.text());
    let late = records.new_between(start + 2_500_000_000, u64::MAX);
    assert_eq!(late.failed, late.all, "{}", late.text());
    assert!(records.most_failures_of_a_connection() <= 1);
    assert_eq!(records.repeated(), 0);
}

#[tokio::test]
async fn an_answer_that_is_in_no_log_is_not_good() {
    let dir = tempfile::tempdir().unwrap();
    let (log, out) = (dir.path().join("served.jsonl"), dir.path().join("load.jsonl"));
    let server = start(dir.path(), None, &serve("127.77.0.2:18080", log.to_str().unwrap()));
    listening(None, "127.77.0.2:18080").await;
    let load = start(
        dir.path(),
        None,
        &[
            "load",
            "--fixed",
            "127.77.0.2",
            "--name",
            "x",
            "--port",
            "18080",
            "--rate",
            "50",
            "--duration",
            "1",
            "--out",
            out.to_str().unwrap(),
        ],
    );
    load.gone(Duration::from_secs(20)).await.unwrap();
    server.kill().await.unwrap();
    std::fs::write(&log, "").unwrap();
    let records = Records::join(lines(&out).unwrap(), &[log]).unwrap();
    assert_eq!(records.outcomes.iter().filter(|o| o.ok).count(), 0);
}

#[tokio::test]
async fn only_the_tunnel_port_passes_between_members_and_a_cut_stops_it() {
    if hansa_lab::mode::choose(None) != NetMode::Netns {
        eprintln!("needs root: not run");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let plan = Plan::new(dir.path(), NetMode::Netns, 0);
    let result = between(dir.path(), &plan).await;
    for proc in hansa_lab::process::marked(dir.path()) {
        proc.kill().await.unwrap();
    }
    net::down(&plan).await.unwrap();
    assert!(net::existing(&plan).unwrap().is_empty());
    result.unwrap();
}

async fn between(dir: &Path, plan: &Plan) -> anyhow::Result<()> {
    net::up(plan, &MemberId::ALL).await?;
    let log = dir.join("served.jsonl");
    let gateway = plan.ns(MemberId::GcpEu, Host::Gateway(1));
    for listen in ["198.18.2.11:15443", "198.18.2.11:15012", "10.0.0.11:8080"] {
        start(dir, gateway.clone(), &serve(listen, log.to_str().expect("UTF-8")));
        listening(gateway.clone(), listen).await;
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
    anyhow::ensure!(rules::counter(plan, "tunnel_tcp").await?.packets > 0);
    anyhow::ensure!(rules::counter(plan, "refused").await?.packets > 0);
    rules::cut(plan, MemberId::GcpEu).await?;
    anyhow::ensure!(!reaches("198.18.2.11:15443").await?, "cut");
    anyhow::ensure!(rules::counter(plan, "cut2").await?.packets > 0);
    rules::uncut(plan, MemberId::GcpEu).await?;
    anyhow::ensure!(dials("198.18.2.11:15443", 20).await?, "healed");
    rules::block_udp(plan, true).await?;
    rules::block_udp(plan, false).await?;
    Ok(())
}
