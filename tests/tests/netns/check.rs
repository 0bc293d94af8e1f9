//! `hansa check` against a real fabric: one hop broken at a time, each the first that is not ok, with nothing
//! known behind it; and the deny list, which cuts tunnels that are open. One lab serves all.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use hansa_lab::spec::{Host, Links};
use hansa_lab::{Fault, Lab, LabSpec, MemberId, NetMode, samples, sh};
use serde_json::Value;

const HOPS: [&str; 6] = ["name", "address", "gateway", "tunnel", "peer-gateway", "endpoint"];
const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn check_names_the_one_hop_that_is_broken() {
    crate::needs_root();
    let dir = std::env::temp_dir().join(format!("hansa-check-{}", std::process::id()));
    let spec = LabSpec {
        members: vec![MemberId::AwsEu, MemberId::GcpEu],
        links: Links::OPEN,
        progress: true,
        ..LabSpec::new(&dir, &crate::binary(), NetMode::Netns)
    };
    let result = match Lab::up(spec).await {
        Ok(lab) => {
            let result = story(&lab).await;
            lab.down().await.expect("the lab goes");
            result
        }
        Err(e) => {
            let state = hansa_lab::state::DemoState::load(&dir).expect("demo.json").expect("a lab");
            hansa_lab::lab::teardown::take_down(&state).await.expect("the lab goes");
            Err(e)
        }
    };
    if result.is_ok() {
        std::fs::remove_dir_all(&dir).expect("the folder goes");
    }
    result.expect("as promised");
}

async fn story(lab: &Lab) -> Result<()> {
    lab.join().await?;
    lab.connected(Duration::from_secs(20)).await?;
    well(lab).await.context("before any break")?;
    name(lab).await.context("name")?;
    address(lab).await.context("address")?;
    gateway(lab).await.context("gateway")?;
    tunnel(lab).await.context("tunnel")?;
    peer_gateway(lab).await.context("peer-gateway")?;
    endpoint(lab).await.context("endpoint")?;
    denied(lab).await.context("deny list")
}

/// What one run of `hansa check` said: its exit code, its paths to gcp-eu, and stderr.
struct Ran {
    code: Option<i32>,
    paths: Vec<Value>,
    errors: String,
}

/// Runs it as a client of aws-eu would.
async fn check(lab: &Lab) -> Result<Ran> {
    let member = lab.member(MemberId::AwsEu);
    let mut command = member.client(crate::binary());
    command.args([
        "check",
        "checkout.shop",
        "--peer",
        "gcp-eu",
        "-o",
        "json",
        "--timeout",
        "20s",
        "--socket",
    ]);
    command.arg(member.home().join("controller/state/controller.sock"));
    let output = sh::output(command, None, Duration::from_secs(40)).await?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    // No paths, no answer: an error on stderr says why, as for a moment after the peer's feed came back.
    let check: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let paths = check["paths"].as_array().cloned().unwrap_or_default();
    Ok(Ran { code: output.status.code(), paths, errors })
}

/// The first hop of a path that is not ok, after the rules of every answer were checked.
fn first_broken(path: &Value) -> Result<Option<(String, String)>> {
    let hops = path["hops"].as_array().context("no hops")?;
    let ids: Vec<&str> = hops.iter().filter_map(|hop| hop["id"].as_str()).collect();
    ensure!(ids == HOPS, "hops {ids:?}");
    let Some(at) = hops.iter().position(|hop| hop["ok"] != true) else { return Ok(None) };
    ensure!(hops[at]["ok"] == false, "unknown before anything is broken: {path}");
    ensure!(hops[at + 1..].iter().all(|hop| hop["ok"].is_null()), "known behind the break: {path}");
    let text = |key: &str| hops[at][key].as_str().unwrap_or_default().to_owned();
    Ok(Some((text("id"), text("code"))))
}

/// Asks until the paths that `about` chooses are broken exactly at `hop`, and the others well.
async fn broken(lab: &Lab, about: impl Fn(&Value) -> bool, hop: &str, code: &str) -> Result<()> {
    let begun = Instant::now();
    loop {
        let ran = check(lab).await?;
        let mut wrong = Vec::new();
        let mut chosen = 0;
        for path in &ran.paths {
            let found = first_broken(path)?;
            let wanted = about(path).then(|| (hop.to_owned(), code.to_owned()));
            chosen += usize::from(wanted.is_some());
            if found != wanted {
                wrong.push(format!("{found:?} instead of {wanted:?}: {path}"));
            }
        }
        if wrong.is_empty() && chosen > 0 {
            ensure!(ran.code == Some(1), "exit code {:?}", ran.code);
            lab.say(&format!("check: {chosen} of {} paths broken at {hop}, {code}", ran.paths.len()));
            return Ok(());
        }
        if begun.elapsed() > LONG {
            bail!("{chosen} paths chosen; {}{}", wrong.join("\n"), ran.errors);
        }
    }
}

async fn well(lab: &Lab) -> Result<()> {
    let begun = Instant::now();
    loop {
        let ran = check(lab).await?;
        let found: Result<Vec<_>> = ran.paths.iter().map(first_broken).collect();
        if ran.code == Some(0) {
            ensure!(ran.paths.len() == 4, "{} paths between two gateways and two", ran.paths.len());
            ensure!(found?.iter().all(Option::is_none), "exit code 0 with a broken path");
            return Ok(());
        }
        if begun.elapsed() > LONG {
            bail!("not well: {:#?}{}", ran.paths, ran.errors);
        }
    }
}

/// The DNS server is dead.
async fn name(lab: &Lab) -> Result<()> {
    let fault = Fault::Process(MemberId::AwsEu, "dns".into());
    lab.break_(&fault).await?;
    broken(lab, |_| true, "name", "HNS-7008").await?;
    lab.heal(&fault).await?;
    well(lab).await
}

/// A gateway drains: it still serves, and DNS no longer leads to it.
async fn address(lab: &Lab) -> Result<()> {
    lab.drain(MemberId::AwsEu, "gateway-2").await?;
    broken(lab, |path| path["gateway"] == "gateway-2", "address", "HNS-7010").await?;
    let fault = Fault::Process(MemberId::AwsEu, "gateway-2".into());
    lab.break_(&fault).await?;
    // Its last thread may still hold the port for a moment.
    let free = || async {
        while tokio::net::TcpListener::bind("0.0.0.0:15443").await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    };
    let ns = lab.plan.ns(MemberId::AwsEu, Host::Gateway(2));
    tokio::time::timeout(LONG, sh::inside(ns, free)).await.context("the port stays taken")??;
    lab.heal(&fault).await?;
    well(lab).await
}

/// No route leads from the client to the gateways' addresses.
async fn gateway(lab: &Lab) -> Result<()> {
    let member = lab.member(MemberId::AwsEu);
    let prefix = lab.plan.vip_prefix(MemberId::AwsEu);
    let rule = |verb: &'static str| {
        let prefix = prefix.clone();
        async move { member.exec("ip", &["rule", verb, "to", &prefix, "priority", "1", "prohibit"]).await }
    };
    rule("add").await?;
    broken(lab, |_| true, "gateway", "HNS-7011").await?;
    rule("del").await?;
    well(lab).await
}

/// Nothing passes between the members.
async fn tunnel(lab: &Lab) -> Result<()> {
    let fault = Fault::Member(MemberId::GcpEu);
    lab.break_(&fault).await?;
    broken(lab, |_| true, "tunnel", "HNS-5005").await?;
    lab.heal(&fault).await?;
    lab.connected(LONG).await?;
    well(lab).await
}

/// The peer withdrew the export, and our controller has not heard of it: its way to the relays is cut.
async fn peer_gateway(lab: &Lab) -> Result<()> {
    let ns = lab.plan.ns(MemberId::AwsEu, Host::Controller);
    let nft = |script: &'static str| {
        let mut command = sh::command_in(ns.as_deref(), "nft");
        command.arg(script);
        sh::run(command, None)
    };
    nft("add table inet deaf").await?;
    nft("add chain inet deaf out { type filter hook output priority 0; }").await?;
    nft("add rule inet deaf out tcp dport 15014 drop").await?;
    nft("add chain inet deaf in { type filter hook input priority 0; }").await?;
    nft("add rule inet deaf in tcp sport 15014 drop").await?;
    let other = lab.member(MemberId::GcpEu);
    let sample =
        samples::of(&lab.plan, MemberId::GcpEu).into_iter().find(|(sample, _)| sample.name == "checkout");
    let (sample, _) = sample.context("gcp-eu has checkout")?;
    other.withdraw(&sample.name)?;
    broken(lab, |_| true, "peer-gateway", "HNS-5001").await?;
    other.publish(&sample.name, &sample.yaml())?;
    nft("delete table inet deaf").await?;
    well(lab).await
}

/// The only copy in gcp-eu is dead.
async fn endpoint(lab: &Lab) -> Result<()> {
    let fault = Fault::Process(MemberId::GcpEu, "checkout-1".into());
    lab.break_(&fault).await?;
    broken(lab, |_| true, "endpoint", "HNS-5003").await?;
    lab.heal(&fault).await?;
    well(lab).await
}

/// Tunnels of a gateway that is put on the deny list are cut within a second, the other's stay.
async fn denied(lab: &Lab) -> Result<()> {
    let member = lab.member(MemberId::AwsEu);
    let trust = member.json(&["trust", "show", "gcp-eu"]).await?;
    let domain = trust["trustDomain"].as_str().context("no trust domain")?;
    let id = format!("spiffe://{domain}/hansa/gateway/gateway-1");
    let begun = Instant::now();
    member.hansa(&["trust", "deny", &id]).await?;
    let tunnels = async || -> Result<u64> {
        let mut open = 0;
        for gateway in ["gateway-1", "gateway-2"] {
            let (_, page) = member.page(gateway, "/debug/snapshot").await?;
            let page: Value = serde_json::from_str(&page)?;
            open += page["reach"]["gcp-eu"]["gateways"]["gateway-1"]["tunnels"].as_u64().unwrap_or(0);
        }
        Ok(open)
    };
    while tunnels().await? > 0 {
        ensure!(begun.elapsed() < Duration::from_secs(1), "tunnels to a denied gateway after a second");
    }
    lab.say(&format!("deny list: its tunnels are gone after {:?}", begun.elapsed()));
    broken(lab, |path| path["peerGateway"] == "gateway-1", "tunnel", "HNS-5005").await?;
    member.hansa(&["trust", "allow", &id]).await?;
    well(lab).await
}
