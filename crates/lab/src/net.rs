//! The network of a lab in namespaces: one switch per member, one router between the members.
//! Called by bring-up and `down`; touches nothing outside namespaces whose name begins with the lab's tag.

pub mod rules;

use std::fmt::Write as _;

use anyhow::{Context, Result};
use futures::future::try_join_all;
use tokio::process::Command;

use crate::sh;
use crate::spec::{Host, MemberId, Plan};

/// Makes all namespaces, links, addresses and routes, and the filter between members; what the filter lacks.
///
/// # Errors
/// When `ip` or `nft` refuses.
pub async fn up(plan: &Plan, members: &[MemberId]) -> Result<Option<&'static str>> {
    batch(None, &namespaces(plan, members)).await?;
    let mut jobs = vec![(plan.transit_ns(), transit(members))];
    for member in members {
        jobs.push((plan.switch_ns(*member), switch()));
        for host in Host::all() {
            if let Some(ns) = plan.ns(*member, host) {
                jobs.push((ns, host_lines(plan, *member, host)));
            }
        }
    }
    try_join_all(jobs.iter().map(|(ns, lines)| batch(Some(ns), lines))).await?;
    forwarding(plan).await?;
    rules::install(plan, members).await
}

/// Removes every namespace of this lab.
///
/// # Errors
/// When the list of namespaces cannot be read or one refuses to go.
pub async fn down(plan: &Plan) -> Result<()> {
    let mut lines = String::new();
    for ns in existing(plan)? {
        writeln!(lines, "netns del {ns}")?;
    }
    batch(None, &lines).await
}

/// The namespaces of this lab that exist now.
///
/// # Errors
/// When `/run/netns` cannot be read.
pub fn existing(plan: &Plan) -> Result<Vec<String>> {
    let prefix = format!("h{}-", plan.tag);
    let entries = match std::fs::read_dir("/run/netns") {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).context("/run/netns"),
    };
    Ok(entries
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|name| name.starts_with(&prefix))
        .collect())
}

/// Process ids inside the namespaces of this lab.
///
/// # Errors
/// When `ip` refuses.
pub async fn pids(plan: &Plan) -> Result<Vec<i32>> {
    let mut pids = Vec::new();
    for ns in existing(plan)? {
        let mut command = Command::new("ip");
        command.args(["netns", "pids", &ns]);
        let text = sh::run(command, None).await?;
        pids.extend(text.split_whitespace().filter_map(|word| word.parse::<i32>().ok()));
    }
    Ok(pids)
}

async fn batch(ns: Option<&str>, lines: &str) -> Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut command = Command::new("ip");
    if let Some(ns) = ns {
        command.args(["-n", ns]);
    }
    command.args(["-batch", "-"]);
    sh::run(command, Some(lines)).await.map(drop)
}

/// Namespaces, and every cable with both its ends already where they belong.
fn namespaces(plan: &Plan, members: &[MemberId]) -> String {
    let mut lines = format!("netns add {}\n", plan.transit_ns());
    for member in members {
        let switch = plan.switch_ns(*member);
        let mut cables = String::new();
        let _ = writeln!(lines, "netns add {switch}");
        for host in Host::all() {
            let Some(ns) = plan.ns(*member, host) else { continue };
            let role = host.role();
            let _ = writeln!(lines, "netns add {ns}");
            let _ = writeln!(cables, "link add eth0 netns {ns} type veth peer name {role} netns {switch}");
            if let Host::Gateway(n) = host {
                let transit = plan.transit_ns();
                let index = member.index();
                let _ = writeln!(
                    cables,
                    "link add eth1 netns {ns} type veth peer name m{index}gw{n} netns {transit}"
                );
            }
        }
        lines.push_str(&cables);
    }
    lines
}

fn switch() -> String {
    let mut lines =
        String::from("link set lo up\nlink add br0 type bridge forward_delay 0 mcast_snooping 0\n");
    for host in Host::all() {
        let _ = writeln!(lines, "link set {} master br0 up", host.role());
    }
    lines.push_str("link set br0 up\n");
    lines
}

fn transit(members: &[MemberId]) -> String {
    let mut lines = String::from("link set lo up\n");
    for member in members {
        let n = member.index();
        let _ = writeln!(lines, "link add br{n} type bridge forward_delay 0 mcast_snooping 0");
        let _ = writeln!(lines, "link set m{n}gw1 master br{n} up\nlink set m{n}gw2 master br{n} up");
        let _ = writeln!(lines, "link set br{n} up\naddr add 198.18.{n}.1/24 dev br{n}");
        let _ = writeln!(lines, "addr add fd00:198:18:{n}::1/64 dev br{n} nodad");
    }
    lines
}

fn host_lines(plan: &Plan, member: MemberId, host: Host) -> String {
    let inside = plan.inside(member, host);
    let [_, _, c, d] = inside.octets();
    let vips = plan.vip_prefix(member);
    let n = member.index();
    let mut lines = String::from("link set lo up\nlink set eth0 up\n");
    let _ = writeln!(lines, "addr add {inside}/16 dev eth0");
    let _ = writeln!(lines, "addr add fd00:10::{c}:{d}/64 dev eth0 nodad");
    // Per gateway's block one route by the block's anchor: one neighbour entry stands for a whole block,
    // where an on-link prefix would need one for each address and overflow the kernel's table of 1,024.
    let net = vips.trim_end_matches(".0.0/16");
    for block in 0..16 {
        let c = block * 16;
        let _ = writeln!(lines, "route add {net}.{c}.0/20 via {net}.{c}.1 dev eth0 onlink");
    }
    let _ = writeln!(lines, "route add fd{}::/64 dev eth0", 96 + n);
    if let Host::Gateway(gateway) = host {
        let last = 10 + gateway;
        let _ = writeln!(lines, "link set eth1 up\naddr add 198.18.{n}.{last}/24 dev eth1");
        let _ = writeln!(lines, "addr add fd00:198:18:{n}::{last}/64 dev eth1 nodad");
        let _ = writeln!(lines, "route add default via 198.18.{n}.1");
        let _ = writeln!(lines, "route add default via fd00:198:18:{n}::1");
    }
    lines
}

async fn forwarding(plan: &Plan) -> Result<()> {
    let mut command = sh::command_in(Some(&plan.transit_ns()), "sh");
    command.args([
        "-c",
        "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding",
    ]);
    sh::run(command, None).await.map(drop)
}
