//! The forwarders of a lab without namespaces: what they let through, and what they drop on order.
//! Run by `cargo test -p hansa-lab`; this test process poses as a gateway of aws-eu.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hansa_lab::link::{Order, ask};
use hansa_lab::process::{Launch, Proc};
use hansa_lab::spec::{MemberId, NetMode, Plan};
use hansa_lab::state::{DemoState, MemberState, ProcessState};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(5);
const NOT: Duration = Duration::from_millis(400);

fn start(dir: &Path, args: &[String]) -> Proc {
    let mut program: PathBuf = std::env::current_exe().expect("own path");
    program.pop();
    program.pop();
    program.push("examples/labtool");
    let launch = Launch {
        ns: None,
        program,
        args: std::iter::once("lab".to_owned()).chain(args.iter().cloned()).collect(),
        output: dir.join("output.log"),
        mark: dir.to_path_buf(),
    };
    Proc::start(&launch).expect("the tool starts")
}

fn member(id: MemberId, gateway: Option<Proc>) -> MemberState {
    let process = ProcessState {
        proc: gateway,
        net: None,
        admin: None,
        health: None,
        link: None,
        inside: String::new(),
        command: Vec::new(),
        output: PathBuf::new(),
    };
    MemberState {
        id: id.to_string(),
        net: "loopback".into(),
        dns: String::new(),
        vip_prefix: String::new(),
        socket: PathBuf::new(),
        manifests: PathBuf::new(),
        processes: BTreeMap::from([("gateway-1".to_owned(), process)]),
        samples: BTreeMap::new(),
    }
}

fn write_state(dir: &Path, plan: &Plan) {
    let own = Proc::of(i32::try_from(std::process::id()).expect("pid")).expect("this process");
    let members = [(MemberId::AwsEu, Some(own)), (MemberId::GcpEu, None)];
    let state = DemoState {
        dir: dir.to_path_buf(),
        mode: NetMode::Loopback,
        plan: plan.clone(),
        hansa: PathBuf::new(),
        holder: None,
        links: None,
        kept: false,
        broken: Vec::new(),
        lacking: None,
        members: members.into_iter().map(|(id, proc)| (id.to_string(), member(id, proc))).collect(),
    };
    state.save().expect("demo.json");
}

/// Whether an HTTP request through the link of gcp-eu's first gateway is answered.
async fn tcp(plan: &Plan) -> bool {
    let work = async {
        let mut stream = TcpStream::connect((plan.advertised(MemberId::GcpEu, 1), 15443)).await.ok()?;
        hansa_lab::load::request(&mut stream, "x", "1", true).await.ok()
    };
    matches!(timeout(NOT, work).await, Ok(Some(_)))
}

/// Whether a datagram comes back.
async fn udp(plan: &Plan, socket: &UdpSocket) -> bool {
    let work = async {
        socket.send_to(b"x", (plan.advertised(MemberId::GcpEu, 1), 15443)).await.ok()?;
        socket.recv(&mut [0; 9]).await.ok()
    };
    matches!(timeout(NOT, work).await, Ok(Some(1)))
}

async fn until(wanted: &str, mut test: impl AsyncFnMut() -> bool) {
    let work = async { while !test().await {} };
    timeout(SOON, work).await.expect(wanted);
}

#[tokio::test]
async fn a_link_passes_and_drops_by_member_and_by_protocol() {
    let dir = tempfile::tempdir().expect("folder");
    let plan = Plan::new(dir.path(), NetMode::Loopback, 7);
    write_state(dir.path(), &plan);
    let at = format!("{}:15443", plan.transit(MemberId::GcpEu, 1));
    let log = dir.path().join("log").to_string_lossy().into_owned();
    let words = |verb: &str| {
        [verb, "--listen", &at, "--member", "gcp-eu", "--pod", "p", "--log", &log].map(String::from).to_vec()
    };
    let folder = dir.path().to_string_lossy().into_owned();
    let procs = [
        start(dir.path(), &words("serve-http")),
        start(dir.path(), &words("serve-udp")),
        start(dir.path(), &["link".into(), "--dir".into(), folder]),
    ];
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("socket");
    until("tcp passes", async || tcp(&plan).await).await;
    until("udp passes", async || udp(&plan, &socket).await).await;
    // Either end of the path may be the one that is cut off.
    for cut in [MemberId::GcpEu, MemberId::AwsEu] {
        ask(dir.path(), &Order::Cut(cut, true)).await.expect("cut");
        assert!(!tcp(&plan).await && !udp(&plan, &socket).await, "{cut} is cut off");
        let counter = Order::Count(format!("cut{}", cut.index()));
        assert!(ask(dir.path(), &counter).await.expect("count").count.is_some_and(|(n, _)| n > 0));
        ask(dir.path(), &Order::Cut(cut, false)).await.expect("heal");
        until("healed", async || tcp(&plan).await && udp(&plan, &socket).await).await;
    }
    ask(dir.path(), &Order::Cut(MemberId::Rack1, true)).await.expect("cut");
    assert!(tcp(&plan).await && udp(&plan, &socket).await, "another member's cut");
    ask(dir.path(), &Order::Udp(true)).await.expect("block");
    assert!(tcp(&plan).await && !udp(&plan, &socket).await, "only UDP is blocked");
    for proc in procs {
        proc.kill().await.expect("gone");
    }
}
