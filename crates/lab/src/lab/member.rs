//! One member of a lab, seen by its operator and by a client inside it.
//! Everything goes through the public command line, the admin pages, or a socket in the client's place.

use std::ffi::OsStr;
use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use super::Lab;
use crate::spec::{Host, MemberId};
use crate::state::write_atomic;
use crate::{probe, sh};

/// A member of a running lab.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// The lab.
    pub lab: &'a Lab,
    /// Which member.
    pub id: MemberId,
}

/// What `hansa status -o json` says, as far as the lab judges it.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    /// One entry per peer.
    #[serde(default)]
    pub peers: Vec<PeerStatus>,
}

/// One peer in `hansa status`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    /// The peer's cluster id.
    pub id: String,
    /// Whether the controllers' feed is connected.
    #[serde(default)]
    pub connected: bool,
    /// `reachable`, `suspect`, `unreachable` or `unknown`.
    #[serde(default)]
    pub reach: String,
    /// Seconds since the last authenticated packet.
    #[serde(default)]
    pub reach_age_seconds: Option<f64>,
    /// What tunnels run over.
    #[serde(default)]
    pub transport: Value,
}

impl Status {
    /// Peers that are connected and reachable.
    pub fn reachable(&self) -> impl Iterator<Item = &PeerStatus> {
        self.peers.iter().filter(|p| p.connected && p.reach == "reachable")
    }

    /// One peer.
    #[must_use]
    pub fn peer(&self, id: MemberId) -> Option<&PeerStatus> {
        self.peers.iter().find(|p| p.id == id.as_str())
    }

    /// The peers in a few words.
    #[must_use]
    pub fn summary(&self) -> String {
        let list: Vec<String> = self
            .peers
            .iter()
            .map(|p| format!("{} connected={} reach={}", p.id, p.connected, p.reach))
            .collect();
        if list.is_empty() { "no peers".into() } else { list.join(", ") }
    }
}

impl Member<'_> {
    /// The member's folder.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.lab.spec.dir.join(self.id.as_str())
    }

    /// The gateways this member has.
    #[must_use]
    pub fn gateways(&self) -> Vec<&'static str> {
        let state = self.lab.state();
        let entry = state.members.get(self.id.as_str());
        ["gateway-1", "gateway-2"]
            .into_iter()
            .filter(|name| entry.is_some_and(|m| m.processes.contains_key(*name)))
            .collect()
    }

    /// Runs a verb of `hansa` against this member's controller, as its operator would on that host.
    ///
    /// # Errors
    /// When it exits with an error.
    pub async fn hansa(&self, args: &[&str]) -> Result<String> {
        let ns = self.lab.plan.ns(self.id, Host::Controller);
        let mut command = sh::command_in(ns.as_deref(), &self.lab.spec.hansa);
        command.args(args).arg("--socket").arg(self.socket());
        sh::run(command, None).await
    }

    /// Where this member's controller listens for its operator.
    pub(crate) fn socket(&self) -> PathBuf {
        self.home().join("controller/state/controller.sock")
    }

    /// A verb with `-o json`.
    ///
    /// # Errors
    /// When it fails or prints something else.
    pub async fn json(&self, args: &[&str]) -> Result<Value> {
        let mut all = args.to_vec();
        all.extend(["-o", "json"]);
        let text = self.hansa(&all).await?;
        serde_json::from_str(&text).with_context(|| format!("hansa {} -o json", args.join(" ")))
    }

    /// `hansa status`.
    ///
    /// # Errors
    /// When it fails or prints something else.
    pub async fn status(&self) -> Result<Status> {
        Ok(serde_json::from_value(self.json(&["status"]).await?)?)
    }

    /// Puts a manifest in the member's folder, whole or not at all.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn publish(&self, name: &str, yaml: &str) -> Result<()> {
        write_atomic(&self.home().join("manifests").join(format!("{name}.yaml")), yaml.as_bytes())
    }

    /// Takes a manifest away.
    ///
    /// # Errors
    /// When it is not there.
    pub fn withdraw(&self, name: &str) -> Result<()> {
        let path = self.home().join("manifests").join(format!("{name}.yaml"));
        std::fs::remove_file(&path).with_context(|| path.display().to_string())
    }

    /// A command as a client inside this member: its network, its DNS.
    ///
    /// # Errors
    /// When a name server of the member's own is impossible here.
    pub fn client(&self, program: impl AsRef<OsStr>) -> tokio::process::Command {
        let Some(ns) = self.lab.plan.ns(self.id, Host::Client) else {
            return tokio::process::Command::new(program);
        };
        // `ip netns exec` gives the command a mount namespace of its own: the host's file stays as it is.
        let mut command = sh::command_in(Some(&ns), "sh");
        command
            .args(["-c", "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\""])
            .arg(self.home().join("resolv.conf"))
            .arg(program);
        command
    }

    /// Runs a command as a client and returns what it printed.
    ///
    /// # Errors
    /// When it fails or takes longer than a minute.
    pub async fn exec(&self, program: &str, args: &[&str]) -> Result<String> {
        let mut command = self.client(program);
        command.args(args);
        sh::run(command, None).await
    }

    /// Runs a future in the client's place.
    ///
    /// # Errors
    /// When it fails.
    pub async fn inside<T, F, Fut>(&self, make: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<T>>,
    {
        sh::inside(self.lab.plan.ns(self.id, Host::Client), make).await
    }

    /// A page of a server's admin endpoint.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn page(&self, process: &str, path: &str) -> Result<(u16, String)> {
        let host = host_of(process)?;
        let at = self.lab.plan.admin(self.id, host);
        let path = path.to_owned();
        sh::inside(self.lab.plan.ns(self.id, host), move || async move { probe::page(at, &path).await }).await
    }

    /// Waits until a server says that it is ready.
    ///
    /// # Errors
    /// When it ends or is not ready in time, with the end of its output.
    pub async fn ready(&self, process: &str, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            let seen = match self.page(process, "/readyz").await {
                Ok((200, _)) => return Ok(()),
                Ok((code, body)) => format!("{code} {}", body.trim()),
                Err(e) => format!("{e:#}"),
            };
            let gone = !self.lab.proc(self.id, process)?.alive();
            if gone || Instant::now() >= end {
                let what = if gone { "ended" } else { "is not ready" };
                bail!("{}/{process} {what}: {seen}\n{}", self.id, self.tail(process));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until a sample server takes connections.
    ///
    /// # Errors
    /// When it ends or does not listen in time.
    pub async fn listening(&self, pod: &str, limit: Duration) -> Result<()> {
        let found = crate::samples::of(&self.lab.plan, self.id).into_iter().flat_map(|(_, servers)| servers);
        let Some(server) = found.into_iter().find(|s| s.pod == pod) else {
            bail!("{} has no sample server {pod}", self.id);
        };
        if server.kind == crate::samples::Kind::Udp {
            return Ok(());
        }
        let (ns, to) = (self.lab.plan.ns(self.id, server.host), server.listen);
        let dial = move || async move {
            let end = Instant::now() + limit;
            while let Err(e) = tokio::net::TcpStream::connect(to).await {
                if Instant::now() >= end {
                    return Err(e).with_context(|| format!("{to} does not listen"));
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Ok(())
        };
        sh::inside(ns, dial).await
    }

    fn tail(&self, process: &str) -> String {
        let mut shown = String::new();
        for file in ["output.log", "log.jsonl"] {
            let path = self.home().join(process).join(file);
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            for line in lines.get(lines.len().saturating_sub(6)..).unwrap_or_default() {
                shown.push_str(&format!("  {file}: {line}\n"));
            }
        }
        shown
    }
}

/// The host a named server runs on.
///
/// # Errors
/// When there is no such server.
pub fn host_of(process: &str) -> Result<Host> {
    Ok(match process {
        "controller" => Host::Controller,
        "gateway-1" => Host::Gateway(1),
        "gateway-2" => Host::Gateway(2),
        "dns" => Host::Dns,
        other => bail!("no server {other}: controller, gateway-1, gateway-2 or dns"),
    })
}
