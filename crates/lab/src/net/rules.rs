//! The packet filter between members: only tunnels pass; faults are elements of named sets.
//! Called by bring-up and by faults; lives in the lab's transit namespace and nowhere else.

use std::fmt::Write as _;

use anyhow::{Context, Result};

use crate::sh;
use crate::spec::{MemberId, Plan};

/// Said where rack-1 is not held to dialling out.
pub const NO_TRACKING: &str =
    "no connection tracking here: rack-1 only dials out because it wants to, strangers are not held off";

/// What a counter has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Loads the filter. A reply is told by its source port, and faults come before everything else, so a set
/// changed here acts on the very next packet. Where the kernel cannot track connections, the filter is loaded
/// without the NAT of rack-1, and what is lacking then is returned.
///
/// # Errors
/// When `nft` refuses the filter for any other reason.
pub async fn install(plan: &Plan, members: &[MemberId]) -> Result<Option<&'static str>> {
    let tracked = nft(plan, &script(plan, members, plan.links.rack_dials_only)).await;
    if tracked.is_ok() || !plan.links.rack_dials_only {
        return tracked.map(|()| None);
    }
    nft(plan, &script(plan, members, false)).await.map(|()| Some(NO_TRACKING))
}

fn script(plan: &Plan, members: &[MemberId], track: bool) -> String {
    let mut text = String::from("table inet lab {\n");
    for name in ["tunnel_udp", "tunnel_tcp", "refused", "blocked"] {
        let _ = writeln!(text, " counter {name} {{ }}");
    }
    for member in members {
        let _ = writeln!(text, " counter cut{} {{ }}", member.index());
        let _ = writeln!(text, " set cut{0}v4 {{ type ipv4_addr; flags interval; }}", member.index());
        let _ = writeln!(text, " set cut{0}v6 {{ type ipv6_addr; flags interval; }}", member.index());
    }
    text.push_str(" set blocked { type inet_proto; }\n chain forward {\n  type filter hook forward priority 0; policy drop;\n");
    for member in members {
        let n = member.index();
        for (family, set) in [("ip", "v4"), ("ip6", "v6")] {
            let _ = writeln!(text, "  {family} saddr @cut{n}{set} counter name cut{n} drop");
            let _ = writeln!(text, "  {family} daddr @cut{n}{set} counter name cut{n} drop");
        }
    }
    if track {
        // What a NAT does: answers pass, strangers do not.
        text.push_str("  ip daddr 198.18.3.0/24 ct state new counter name refused drop\n");
        text.push_str("  ip6 daddr fd00:198:18:3::/64 ct state new counter name refused drop\n");
    }
    if plan.links.ipv6_pair {
        text.push_str("  ip saddr 198.18.2.0/24 ip daddr 198.18.3.0/24 counter name refused drop\n");
        text.push_str("  ip saddr 198.18.3.0/24 ip daddr 198.18.2.0/24 counter name refused drop\n");
    }
    text.push_str(
        "  meta l4proto @blocked counter name blocked drop\n  \
         udp dport 15443 counter name tunnel_udp accept\n  \
         udp sport 15443 counter name tunnel_udp accept\n  \
         tcp dport 15443 counter name tunnel_tcp accept\n  \
         tcp sport 15443 tcp flags & (syn|ack) != syn counter name tunnel_tcp accept\n  \
         icmpv6 type packet-too-big accept\n  \
         icmp type destination-unreachable icmp code frag-needed accept\n  \
         counter name refused drop\n }\n}\n",
    );
    text
}

/// Drops everything from and to a member, silently.
///
/// # Errors
/// When `nft` refuses.
pub async fn cut(plan: &Plan, member: MemberId) -> Result<()> {
    nft(plan, &cut_script("add", member)).await
}

/// Ends [`cut`].
///
/// # Errors
/// When `nft` refuses.
pub async fn uncut(plan: &Plan, member: MemberId) -> Result<()> {
    nft(plan, &cut_script("delete", member)).await
}

/// Drops all UDP between members, or lets it pass again.
///
/// # Errors
/// When `nft` refuses.
pub async fn block_udp(plan: &Plan, on: bool) -> Result<()> {
    let verb = if on { "add" } else { "delete" };
    nft(plan, &format!("{verb} element inet lab blocked {{ udp }}\n")).await
}

/// Drops all TCP between members too, or lets it pass again: what no fault of the demo does.
///
/// # Errors
/// When `nft` refuses.
pub async fn block_tcp(plan: &Plan, on: bool) -> Result<()> {
    let verb = if on { "add" } else { "delete" };
    nft(plan, &format!("{verb} element inet lab blocked {{ tcp }}\n")).await
}

/// Reads a named counter: `tunnel_udp`, `tunnel_tcp`, `refused`, `blocked`, or `cut1`, `cut2`, `cut3`.
///
/// # Errors
/// When `nft` refuses or answers something else.
pub async fn counter(plan: &Plan, name: &str) -> Result<Count> {
    let mut command = sh::command_in(Some(&plan.transit_ns()), "nft");
    command.args(["-j", "list", "counter", "inet", "lab", name]);
    let text = sh::run(command, None).await?;
    let value: serde_json::Value = serde_json::from_str(&text).context("nft -j")?;
    let counter = value["nftables"]
        .as_array()
        .and_then(|items| items.iter().find_map(|item| item.get("counter")))
        .with_context(|| format!("nft shows no counter {name}"))?;
    Ok(Count {
        packets: counter["packets"].as_u64().unwrap_or_default(),
        bytes: counter["bytes"].as_u64().unwrap_or_default(),
    })
}

fn cut_script(verb: &str, member: MemberId) -> String {
    let n = member.index();
    format!(
        "{verb} element inet lab cut{n}v4 {{ 198.18.{n}.0/24 }}\n\
         {verb} element inet lab cut{n}v6 {{ fd00:198:18:{n}::/64 }}\n"
    )
}

async fn nft(plan: &Plan, script: &str) -> Result<()> {
    let mut command = sh::command_in(Some(&plan.transit_ns()), "nft");
    command.args(["-f", "-"]);
    sh::run(command, Some(script)).await.map(drop)
}
