//! Which kind of network is possible here, and how to get into it: by running again under `unshare`
//! or, for a lab that is up, under `nsenter`. Called by the demo before anything else.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};

use crate::process::{Launch, Proc};
use crate::spec::NetMode;
use crate::state::DemoState;

/// Set in a process that is already inside the user namespace: `new`, or `attached`.
const INSIDE: &str = "LAB_INSIDE";
/// The lab's folder, kept across a change of working directory.
pub(crate) const FOLDER: &str = "LAB_FOLDER";
/// The process that keeps the namespaces alive, as `pid`.
const HOLDER: &str = "LAB_HOLDER";

/// The mode asked for, or the best that works here.
#[must_use]
pub fn choose(wanted: Option<NetMode>) -> NetMode {
    if inside() {
        // There one is root; but only of what is inside.
        return NetMode::Userns;
    }
    if let Some(mode) = wanted {
        return mode;
    }
    let works = |args: &[&str]| {
        Command::new("unshare")
            .args(args)
            .arg("true")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    if rustix::process::geteuid().is_root() && works(&["--net", "--mount"]) {
        NetMode::Netns
    } else if works(&["--user", "--map-root-user", "--net", "--mount"]) && tun() {
        NetMode::Userns
    } else {
        NetMode::Loopback
    }
}

/// Gateways hold their addresses on a device that ends with them; its door is closed to users on some
/// machines.
fn tun() -> bool {
    std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun").is_ok()
}

/// For a new lab: in `userns` mode runs this program again inside; returns when it is in place.
///
/// # Errors
/// When the kernel refuses.
pub fn enter_new(mode: NetMode, dir: &Path) -> Result<()> {
    if mode != NetMode::Userns {
        return Ok(());
    }
    match std::env::var(INSIDE).as_deref() {
        Ok("new") => settle(dir),
        _ => again(
            Command::new("unshare").args(["--user", "--map-root-user", "--net", "--mount", "--"]),
            "new",
            dir,
        ),
    }
}

/// For a lab that is up: enters its user namespace, if it has one and it is still there.
///
/// # Errors
/// When the kernel refuses.
pub fn enter_existing(state: &DemoState) -> Result<()> {
    if state.mode != NetMode::Userns || std::env::var(INSIDE).is_ok() {
        return Ok(());
    }
    let Some(holder) = state.holder.filter(Proc::alive) else {
        return Ok(());
    };
    again(
        Command::new("nsenter")
            .args(["--preserve-credentials", "--user", "--mount", "--net", "--target"])
            .arg(holder.pid.to_string())
            .arg("--"),
        "attached",
        &state.dir,
    )
}

/// Whether this process is inside the user namespace of a lab.
#[must_use]
pub fn inside() -> bool {
    std::env::var(INSIDE).is_ok()
}

/// The process that keeps the namespaces of this lab alive.
#[must_use]
pub fn holder() -> Option<Proc> {
    let pid = std::env::var(HOLDER).ok()?.parse().ok()?;
    Proc::of(pid).ok()
}

/// Replaces this process by itself, inside.
fn again(command: &mut Command, how: &str, dir: &Path) -> Result<()> {
    let exe = std::env::current_exe().context("own path")?;
    command.arg(exe).args(std::env::args_os().skip(1));
    let error = command.env(INSIDE, how).env(FOLDER, dir).exec();
    Err(anyhow!(error)).context("cannot enter a user namespace")
}

/// Inside for the first time: a private place for network namespaces, and a holder.
fn settle(dir: &Path) -> Result<()> {
    if holder().is_some() {
        return Ok(());
    }
    let place = if Path::new("/run/netns").is_dir() { "/run/netns" } else { "/run" };
    let status = Command::new("mount").args(["-t", "tmpfs", "lab", place]).status().context("mount")?;
    if !status.success() {
        bail!("cannot mount a private {place}");
    }
    std::fs::create_dir_all("/run/netns")?;
    let holder = Proc::start(&Launch {
        ns: None,
        program: PathBuf::from("sleep"),
        args: vec!["infinity".into()],
        output: PathBuf::from("/dev/null"),
        mark: dir.to_path_buf(),
    })?;
    let exe = std::env::current_exe().context("own path")?;
    let error =
        Command::new(exe).args(std::env::args_os().skip(1)).env(HOLDER, holder.pid.to_string()).exec();
    Err(anyhow!(error)).context("cannot run again")
}

/// Programs a mode needs and this machine has not.
#[must_use]
pub fn missing(mode: NetMode) -> Vec<&'static str> {
    let mut wanted = vec!["redis-server", "redis-cli", "curl"];
    if mode.has_namespaces() {
        wanted.extend(["ip", "nft"]);
    }
    if mode == NetMode::Userns {
        wanted.extend(["unshare", "nsenter", "mount"]);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    wanted.retain(|name| !folders.iter().any(|folder| folder.join(name).is_file()));
    wanted
}
