//! `demo.json`: what a lab has started, written early and atomically so that `down` can undo it.
//! Written by bring-up and faults, read by every later command and by checks from outside.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::process::Proc;
use crate::spec::{NetMode, Plan};

/// A process of a member.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessState {
    /// Which process it is now; absent before its first start.
    #[serde(flatten)]
    pub proc: Option<Proc>,
    /// Its network namespace.
    pub net: Option<String>,
    /// Admin endpoint, reached from within its namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<String>,
    /// Health endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
    /// Address towards the other members; gateways alone have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Inside address.
    pub inside: String,
    /// Program and arguments, as started.
    pub command: Vec<String>,
    /// Standard output and standard error.
    pub output: PathBuf,
}

/// A member.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberState {
    /// Cluster id.
    pub id: String,
    /// Network namespace of its client, or `loopback`.
    pub net: String,
    /// Address and port of its DNS server.
    pub dns: String,
    /// Where imported services get their addresses from.
    pub vip_prefix: String,
    /// Its controller's socket.
    pub socket: PathBuf,
    /// Its manifests.
    pub manifests: PathBuf,
    /// `controller`, `gateway-1`, `gateway-2`, `dns`.
    pub processes: BTreeMap<String, ProcessState>,
    /// The sample servers, by pod name.
    pub samples: BTreeMap<String, ProcessState>,
}

/// The whole file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DemoState {
    /// Folder of the lab.
    pub dir: PathBuf,
    /// How members are kept apart.
    pub mode: NetMode,
    /// Names and addresses.
    pub plan: Plan,
    /// The binary in use.
    pub hansa: PathBuf,
    /// In `userns` mode the process that keeps the namespaces alive.
    pub holder: Option<Proc>,
    /// In `loopback` mode the process that forwards between members.
    #[serde(default)]
    pub links: Option<Proc>,
    /// What the filter between members lacks on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lacking: Option<String>,
    /// Whether the lab stays up after the command that made it.
    pub kept: bool,
    /// Faults that are in force, by name.
    #[serde(default)]
    pub broken: Vec<String>,
    /// The members by id.
    pub members: BTreeMap<String, MemberState>,
}

impl DemoState {
    /// Where the file is.
    #[must_use]
    pub fn path(dir: &Path) -> PathBuf {
        dir.join("demo.json")
    }

    /// Reads the state of the lab in `dir`; `None` where there is no lab.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn load(dir: &Path) -> Result<Option<Self>> {
        let path = Self::path(dir);
        match std::fs::read(&path) {
            Ok(bytes) => {
                Ok(Some(serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| path.display().to_string()),
        }
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save(&self) -> Result<()> {
        write_atomic(&Self::path(&self.dir), &serde_json::to_vec_pretty(self)?)
    }

    /// Every process this lab has written down.
    pub fn processes(&self) -> impl Iterator<Item = Proc> + '_ {
        self.members
            .values()
            .flat_map(|m| m.processes.values().chain(m.samples.values()))
            .filter_map(|p| p.proc)
            .chain(self.links)
    }
}

/// Writes a file beside its place and renames it there: a reader sees the old or the new one, never half.
///
/// # Errors
/// When the disk refuses.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let name = path.file_name().context("a path without a name")?.to_string_lossy();
    let temp = path.with_file_name(format!(".{name}.tmp"));
    let mut file = std::fs::File::create(&temp).with_context(|| temp.display().to_string())?;
    file.write_all(bytes)?;
    file.sync_data()?;
    std::fs::rename(&temp, path).with_context(|| path.display().to_string())
}
