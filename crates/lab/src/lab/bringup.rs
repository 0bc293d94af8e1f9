//! From nothing to three joined members, with the public commands alone.
//! Every wait has a condition and a deadline; what was started is written down before anything else.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::future::try_join_all;
use sha2::{Digest as _, Sha256};

use super::{Lab, Member};
use crate::config::{self, Files};
use crate::spec::{Host, LabSpec, MemberId, NetMode, Plan, Sabotage};
use crate::state::{DemoState, MemberState, ProcessState, write_atomic};
use crate::{net, samples};

/// Longest time for one process to become ready.
const READY: Duration = Duration::from_secs(20);

impl Lab {
    /// Brings everything up, not yet joined.
    ///
    /// # Errors
    /// What did not come up, with the end of its output. What was started stays, for `down` and for a look.
    pub async fn up(spec: LabSpec) -> Result<Self> {
        let begun = Instant::now();
        let mut plan = Plan::new(&spec.dir, spec.mode, free_block(&spec)?);
        plan.links = spec.links;
        // On loopback there is one address family.
        plan.links.ipv6_pair &= spec.mode.has_namespaces();
        std::fs::create_dir_all(&spec.dir).with_context(|| spec.dir.display().to_string())?;
        let members = spec.members.iter().map(|m| (m.to_string(), describe(&spec, &plan, *m))).collect();
        let state = DemoState {
            dir: spec.dir.clone(),
            mode: spec.mode,
            plan: plan.clone(),
            hansa: spec.hansa.clone(),
            holder: crate::mode::holder(),
            links: None,
            kept: false,
            broken: Vec::new(),
            lacking: None,
            members,
        };
        state.save()?;
        let lab = Self { spec, plan, begun, state: Mutex::new(state) };
        if lab.mode().has_namespaces() {
            lab.say("network: namespaces, switches, the filter between members");
            let lacking = net::up(&lab.plan, &lab.spec.members).await?;
            lab.lacks(lacking)?;
        } else {
            lab.say("network: loopback addresses, forwarders between members");
            lab.start_links().await?;
        }
        try_join_all(lab.members().map(|member| bring(&lab, member))).await?;
        Ok(lab)
    }

    /// Writes down and says what this machine's filter lacks.
    fn lacks(&self, lacking: Option<&'static str>) -> Result<()> {
        if let Some(what) = lacking {
            self.say(&format!("mode: {}, but {what}", self.mode().as_str()));
            let mut state = self.state();
            state.lacking = Some(what.to_owned());
            state.save()?;
        }
        Ok(())
    }

    /// Joins every pair of members by invitation.
    ///
    /// # Errors
    /// When an invitation is not made or not taken.
    pub async fn join(&self) -> Result<()> {
        let ids = &self.spec.members;
        let tokens = self.folder("invitations")?;
        for (n, a) in ids.iter().enumerate() {
            for b in ids.iter().skip(n + 1) {
                let token = tokens.join(format!("{a}-{b}.token"));
                let path = token.to_string_lossy().into_owned();
                self.say(&format!("join: {a} invites {b}"));
                self.member(*a).hansa(&["peer", "invite", "--name", b.as_str(), "--out", &path]).await?;
                if *b == MemberId::Rack1 && self.spec.has(Sabotage::WrongBundle) {
                    foreign(&self.spec.dir, &token)?;
                }
                self.member(*b).hansa(&["peer", "join", &path]).await?;
            }
        }
        Ok(())
    }

    /// Points every manifest at a port where nobody listens, if this lab is to break a promise so.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn misdirect(&self) -> Result<()> {
        if self.spec.has(Sabotage::WrongPort) {
            self.say("manifests: a wrong target port, on purpose");
            for member in self.members() {
                for (mut sample, _) in samples::of(&self.plan, member.id) {
                    sample.port.target = self.target(sample.port.target);
                    member.publish(&sample.name, &sample.yaml())?;
                }
            }
        }
        Ok(())
    }

    /// The port manifests name for a sample server that listens on `port`.
    #[must_use]
    pub fn target(&self, port: u16) -> u16 {
        if self.spec.has(Sabotage::WrongPort) { 9 } else { port }
    }

    /// Waits until every member reaches every other.
    ///
    /// # Errors
    /// Who does not, at the deadline.
    pub async fn connected(&self, limit: Duration) -> Result<()> {
        let wanted = self.spec.members.len() - 1;
        let end = Instant::now() + limit;
        for member in self.members() {
            loop {
                let seen = match member.status().await {
                    Ok(status) if status.reachable().count() >= wanted => break,
                    Ok(status) => status.summary(),
                    Err(e) => format!("{e:#}"),
                };
                if Instant::now() >= end {
                    bail!("{} does not reach all its peers: {seen}", member.id);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }
}

/// In loopback mode the first block of addresses nobody uses; else nothing to choose.
fn free_block(spec: &LabSpec) -> Result<u8> {
    if spec.mode != NetMode::Loopback {
        return Ok(0);
    }
    for block in 0..7 {
        let plan = Plan::new(&spec.dir, spec.mode, block);
        let probe = (plan.inside(MemberId::AwsEu, Host::Controller), 15012);
        if std::net::TcpListener::bind(probe).is_ok() {
            return Ok(block);
        }
    }
    bail!("seven demos are already up on loopback")
}

async fn bring(lab: &Lab, member: Member<'_>) -> Result<()> {
    prepare(lab, &member)?;
    for (_, servers) in samples::of(&lab.plan, member.id) {
        for server in servers {
            lab.start(member.id, &server.pod)?;
        }
    }
    lab.start(member.id, "controller")?;
    member.ready("controller", READY).await?;
    lab.say(&format!("{}: controller ready", member.id));
    let names: Vec<&str> = member.gateways().into_iter().chain(["dns"]).collect();
    for name in &names {
        let role = if *name == "dns" { "dns" } else { "gateway" };
        let token = member.home().join(name).join("enroll.token");
        let path = token.to_string_lossy().into_owned();
        member.hansa(&["enroll", "--role", role, "--id", name, "--out", &path]).await?;
        lab.start(member.id, name)?;
    }
    for name in names {
        member.ready(name, READY).await?;
    }
    lab.say(&format!("{}: gateways and DNS ready", member.id));
    Ok(())
}

/// Folders, configurations and manifests.
fn prepare(lab: &Lab, member: &Member<'_>) -> Result<()> {
    let (plan, id, home) = (&lab.plan, member.id, member.home());
    let manifests = home.join("manifests");
    std::fs::create_dir_all(&manifests)?;
    for name in ["controller", "gateway-1", "gateway-2", "dns"] {
        let dir = home.join(name);
        std::fs::create_dir_all(dir.join("state"))?;
        private(&dir.join("state"))?;
        let files = Files { home: &dir, manifests: &manifests, tuning: config::Tuning::of(&lab.spec) };
        let text = match name {
            "controller" => config::controller(plan, id, files),
            "gateway-1" => config::gateway(plan, id, 1, files),
            "gateway-2" => config::gateway(plan, id, 2, files),
            _ => config::dns(plan, id, files),
        };
        write_atomic(&dir.join("config.yaml"), text.as_bytes())?;
    }
    write_atomic(
        &home.join("resolv.conf"),
        format!("nameserver {}\noptions timeout:2 attempts:2\n", plan.dns(id).ip()).as_bytes(),
    )?;
    for (sample, _) in samples::of(plan, id) {
        let second = id == MemberId::GcpEu && sample.name == "checkout";
        if !(second && lab.spec.has(Sabotage::NoSecondCopy)) {
            member.publish(&sample.name, &sample.yaml())?;
        }
    }
    Ok(())
}

fn private(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
        .with_context(|| dir.display().to_string())
}

/// Puts another bundle, from `foreign-bundle.json` of the lab's folder, in an invitation that is else as it was.
fn foreign(dir: &Path, token: &Path) -> Result<()> {
    let bundle = std::fs::read_to_string(dir.join("foreign-bundle.json")).context("a foreign bundle")?;
    let text = std::fs::read_to_string(token)?;
    let mut parts = text.trim().split('.');
    let (Some(version), Some(body)) = (parts.next(), parts.next()) else { bail!("no invitation") };
    let mut content: serde_json::Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body)?)?;
    *content.get_mut("bundle").context("an invitation without a bundle")? = bundle.into();
    let body = URL_SAFE_NO_PAD.encode(content.to_string());
    let sum = Sha256::digest(body.as_bytes());
    let sum = URL_SAFE_NO_PAD.encode(sum.get(..8).context("a checksum")?);
    std::fs::write(token, format!("{version}.{body}.{sum}\n")).context("altering an invitation")
}

/// What `demo.json` says of a member before anything runs.
fn describe(spec: &LabSpec, plan: &Plan, id: MemberId) -> MemberState {
    let home = spec.dir.join(id.as_str());
    let hansa = spec.hansa.to_string_lossy().into_owned();
    let mut processes = BTreeMap::new();
    let servers = [
        ("controller", "controller", Host::Controller),
        ("gateway-1", "gateway", Host::Gateway(1)),
        ("gateway-2", "gateway", Host::Gateway(2)),
        ("dns", "dns", Host::Dns),
    ];
    for (name, verb, host) in servers {
        if name == "gateway-2" && spec.has(Sabotage::NoSecondGateway) {
            continue;
        }
        let config = home.join(name).join("config.yaml").to_string_lossy().into_owned();
        let process = ProcessState {
            proc: None,
            net: plan.ns(id, host),
            admin: Some(plan.admin(id, host).to_string()),
            health: Some(plan.health(id, host).to_string()),
            link: match host {
                Host::Gateway(n) => Some(format!("{}:15443", plan.advertised(id, n))),
                _ => None,
            },
            inside: plan.inside(id, host).to_string(),
            command: vec![hansa.clone(), verb.into(), "--config".into(), config],
            output: home.join(name).join("output.log"),
        };
        processes.insert(name.to_owned(), process);
    }
    let pods = samples::of(plan, id).into_iter().flat_map(|(_, servers)| servers);
    let samples = pods.map(|server| (server.pod.clone(), sample(spec, plan, id, &server))).collect();
    MemberState {
        id: id.to_string(),
        net: plan.ns(id, Host::Client).unwrap_or_else(|| "loopback".into()),
        dns: plan.dns(id).to_string(),
        vip_prefix: plan.vip_prefix(id),
        socket: home.join("controller/state/controller.sock"),
        manifests: home.join("manifests"),
        processes,
        samples,
    }
}

fn sample(spec: &LabSpec, plan: &Plan, id: MemberId, server: &samples::Server) -> ProcessState {
    let home = spec.dir.join(id.as_str());
    let (program, args) = samples::command(server, id, &spec.hansa, &home);
    ProcessState {
        proc: None,
        net: plan.ns(id, server.host),
        admin: None,
        health: None,
        link: None,
        inside: server.listen.to_string(),
        command: std::iter::once(program).chain(args).collect(),
        output: home.join(format!("{}.output.log", server.pod)),
    }
}
