//! The virtual addresses of a gateway that dies: its sibling has them within a second, and gives them back
//! when it returns and no connection on them is left. The lab has no part in it: it only kills and starts.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use hansa_lab::access::{Ends, Mark};
use hansa_lab::load::request;
use hansa_lab::{Fault, Lab, LabSpec, Member, MemberId, NetMode, lookup, probe, sh};

const NAME: &str = "checkout.shop.svc.clusterset.local";

#[tokio::test]
async fn a_dead_gateways_addresses_answer_from_its_sibling_within_a_second() {
    two_members("vip", async |lab| dead(lab).await).await;
}

#[tokio::test]
async fn a_gateway_that_was_only_slow_has_its_addresses_again() {
    two_members("slow", async |lab| slow(lab).await).await;
}

/// Two joined members, and the story that is told in them.
pub(crate) async fn two_members(name: &str, story: impl AsyncFnOnce(&Lab) -> anyhow::Result<()>) {
    crate::needs_root();
    let dir = std::env::temp_dir().join(format!("hansa-{name}-{}", std::process::id()));
    let spec = LabSpec {
        members: vec![MemberId::AwsEu, MemberId::Rack1],
        progress: true,
        ..LabSpec::new(&dir, &crate::binary(), NetMode::Netns)
    };
    let result = match Lab::up(spec).await {
        Ok(lab) => {
            let joined = async {
                lab.join().await?;
                lab.connected(Duration::from_secs(20)).await
            };
            let result = match joined.await {
                Ok(()) => story(&lab).await,
                Err(e) => Err(e),
            };
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

/// One gateway does nothing for a while, as on a machine that is much too busy: the other takes its addresses
/// and gives them back, although none of its connections broke. Then one after the other: each takes the
/// other's. From then on both answer as before.
async fn slow(lab: &Lab) -> anyhow::Result<()> {
    let member = lab.member(MemberId::Rack1);
    let vips = [address_of(&member, "gateway-1").await?, address_of(&member, "gateway-2").await?];
    let procs = [lab.proc(MemberId::Rack1, "gateway-1")?, lab.proc(MemberId::Rack1, "gateway-2")?];
    let logs = ["gateway-1", "gateway-2"].map(|g| member.home().join(g).join("log.jsonl"));
    procs[1].pause(true);
    let alone = holds(&logs[0], 2).await;
    procs[1].pause(false);
    alone?;
    holds(&logs[0], 1).await.context("once the other goes on")?;
    let taken = async {
        procs[1].pause(true);
        holds(&logs[0], 2).await?;
        procs[0].pause(true);
        procs[1].pause(false);
        holds(&logs[1], 2).await
    };
    let taken = taken.await;
    procs.iter().for_each(|proc| proc.pause(false));
    taken?;
    // Long enough for every announcement, and for what is given back.
    let end = Instant::now() + Duration::from_secs(8);
    while Instant::now() < end {
        for vip in vips {
            answers(&member, vip, Duration::from_secs(2)).await.context("after both went on")?;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Waits until the last a gateway wrote down is that it holds so many blocks.
async fn holds(log: &Path, count: usize) -> anyhow::Result<()> {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let text = std::fs::read_to_string(log)?;
        let last = text.lines().rfind(|line| line.contains("addresses held"));
        if last.is_some_and(|line| line.matches("gateway-").count() == count) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{} says {last:?}, and not {count} blocks", log.display());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn dead(lab: &Lab) -> anyhow::Result<()> {
    let member = lab.member(MemberId::Rack1);
    let vip = address_of(&member, "gateway-1").await?;
    let logs = ["gateway-1", "gateway-2"].map(|g| member.home().join(g).join("log.jsonl"));
    let fault = Fault::Process(MemberId::Rack1, "gateway-1".into());
    lab.break_(&fault).await?;
    let killed = Instant::now();
    answers(&member, vip, Duration::from_secs(5)).await?;
    let took = killed.elapsed();
    ensure!(took < Duration::from_secs(1), "its addresses were dead for {took:?}");
    // A connection through the sibling outlives the return of the dead, which waits for it.
    let held = Held::open(&member, vip).await?;
    let release = async {
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end {
            if let Ok((code, _)) = member.page("gateway-1", "/readyz").await {
                ensure!(code != 200, "it is ready while a connection is on its addresses elsewhere");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        held.ends_well().await.context("a connection through the sibling, after the return")
    };
    let (healed, released) = tokio::join!(lab.heal(&fault), release);
    released.and(healed.map(drop))?;
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let marks = logs.clone().map(Mark::now);
        answers(&member, vip, Duration::from_secs(5)).await?;
        if carried_by(&marks).await? == 0 {
            return Ok(());
        }
        ensure!(Instant::now() < end, "the addresses were not given back");
    }
}

/// A connection that asks whenever it is told to.
struct Held {
    tell: tokio::sync::oneshot::Sender<()>,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Held {
    async fn open(member: &Member<'_>, vip: IpAddr) -> anyhow::Result<Self> {
        let ns = member.lab.plan.ns(member.id, hansa_lab::spec::Host::Client);
        let (tell, told) = tokio::sync::oneshot::channel();
        let (opened, open) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(sh::inside(ns, move || async move {
            let mut stream = tokio::net::TcpStream::connect((vip, 80)).await?;
            request(&mut stream, NAME, "", false).await.map_err(anyhow::Error::msg)?;
            // Both ends of the test live as long as each other.
            let _ = opened.send(());
            told.await?;
            request(&mut stream, NAME, "", true).await.map(drop).map_err(anyhow::Error::msg)
        }));
        open.await.context("the held connection")?;
        Ok(Self { tell, task })
    }

    async fn ends_well(self) -> anyhow::Result<()> {
        // As above.
        let _ = self.tell.send(());
        self.task.await?
    }
}

/// The address of the service that this gateway carries, as its own access lines say.
async fn address_of(member: &Member<'_>, gateway: &str) -> anyhow::Result<IpAddr> {
    let dns = member.lab.plan.dns(member.id);
    let ask = move || async move {
        // One address of each gateway that serves it; a new export takes a moment.
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            match lookup::addresses(dns, NAME).await {
                Ok(list) if list.len() == 2 => return Ok(list),
                other if Instant::now() >= end => anyhow::bail!("not two addresses: {other:?}"),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let list = member.inside(ask).await?;
    let logs = ["gateway-1", "gateway-2"].map(|g| member.home().join(g).join("log.jsonl"));
    for vip in list {
        let marks = logs.clone().map(Mark::now);
        answers(member, vip, Duration::from_secs(5)).await?;
        if carried_by(&marks).await? == usize::from(gateway == "gateway-2") {
            return Ok(vip);
        }
    }
    anyhow::bail!("no address belongs to {gateway}")
}

/// Which of the gateways carried a connection since.
async fn carried_by(marks: &[Mark; 2]) -> anyhow::Result<usize> {
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        for (n, mark) in marks.iter().enumerate() {
            if Ends::of(&mark.since("checkout.")?).count("done") > 0 {
                return Ok(n);
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("no gateway says that it carried a connection")
}

/// Waits for a good answer at this address, and no other.
async fn answers(member: &Member<'_>, vip: IpAddr, limit: Duration) -> anyhow::Result<()> {
    let ask = move || async move {
        let end = Instant::now() + limit;
        loop {
            // A packet to the dead is lost: a dial of its own has to be given up soon.
            let once = tokio::time::timeout(Duration::from_millis(200), probe::http_at(vip, 80, NAME, ""));
            match once.await {
                Ok(Ok(_)) => return Ok(()),
                other if Instant::now() >= end => anyhow::bail!("{vip} does not answer: {other:?}"),
                _ => {}
            }
        }
    };
    member.inside(ask).await
}
