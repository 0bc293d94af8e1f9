//! The lab's parts without hansa: servers, load generator, judge.
//! Run by `cargo test -p hansa-lab`; needs no privileges.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hansa_lab::clock;
use hansa_lab::judge::{Records, lines};
use hansa_lab::load::{ConnKind, Outcome};
use hansa_lab::process::{Launch, Proc};

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

/// The request log of a server of aws-eu: in the folder of its member, as in a lab.
fn log(dir: &Path) -> PathBuf {
    let home = dir.join("aws-eu");
    std::fs::create_dir_all(&home).expect("folder");
    home.join("served.jsonl")
}

fn serve<'a>(listen: &'a str, log: &'a str) -> Vec<&'a str> {
    vec!["serve-http", "--listen", listen, "--member", "aws-eu", "--pod", "p", "--log", log]
}

#[tokio::test]
async fn load_counts_every_request_once_and_a_killed_server_as_failures() {
    let dir = tempfile::tempdir().unwrap();
    let (log, out) = (log(dir.path()), dir.path().join("load.jsonl"));
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
    let half = async {
        while lines::<Outcome>(&out).unwrap_or_default().len() < 300 {
            // A file tells nobody that it grows.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), half).await.expect("half of it");
    let before = clock::now();
    server.kill().await.unwrap();
    let killed = clock::now();
    load.gone(Duration::from_secs(20)).await.unwrap();
    let outcomes: Vec<Outcome> = lines(&out).unwrap();
    assert_eq!(outcomes.len(), 600);
    for outcome in outcomes.iter().filter(|o| o.kind == ConnKind::New) {
        assert!(outcome.begun_ns >= outcome.intended_ns, "begun before it was meant to be: {outcome:?}");
    }
    let records = Records::join(outcomes, &[log]).unwrap();
    let early = records.new_between(0, before - 500_000_000);
    assert!(early.clean() && early.only(&["aws-eu"]) && early.all > 50, "{}", early.text());
    let late = records.new_between(killed, u64::MAX);
    assert!(late.failed == late.all && late.all > 50, "{}", late.text());
    assert!(records.most_failures_of_a_connection() <= 1);
    assert_eq!(records.repeated(), 0);
}

#[tokio::test]
async fn an_answer_that_is_in_no_log_is_not_good() {
    let dir = tempfile::tempdir().unwrap();
    let (log, out) = (log(dir.path()), dir.path().join("load.jsonl"));
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

/// The distances between the intended starts of a short load with this seed.
async fn rhythm(dir: &Path, seed: &str) -> Vec<u64> {
    let out = dir.join(format!("load-{seed}-{}.jsonl", std::process::id()));
    let words = "load --fixed 127.77.0.3 --name x --port 18080 --rate 100 --duration 1 --seed";
    let mut args: Vec<&str> = words.split(' ').collect();
    let path = out.to_string_lossy().into_owned();
    args.extend([seed, "--out", &path]);
    start(dir, None, &args).gone(Duration::from_secs(20)).await.expect("the load ends");
    let outcomes: Vec<Outcome> = lines(&out).expect("outcomes");
    let mut starts: Vec<u64> = outcomes.iter().map(|o| o.intended_ns).collect();
    starts.sort_unstable();
    starts.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[tokio::test]
async fn the_seed_of_a_load_decides_when_requests_start() {
    // Nobody listens: when a request is meant to start does not depend on what becomes of it.
    let dir = tempfile::tempdir().expect("folder");
    let first = rhythm(dir.path(), "7").await;
    assert_eq!(first.len(), 99);
    assert_eq!(first, rhythm(dir.path(), "7").await);
    assert_ne!(first, rhythm(dir.path(), "8").await);
}
