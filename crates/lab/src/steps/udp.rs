//! `udp`: datagrams of many sizes from many clients, over QUIC and then over HTTP/2.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until, timeout};

use super::Context;
use crate::lab::{Fault, Member};
use crate::lookup;
use crate::promise::calm::Udp;
use crate::report::Verdict;
use crate::spec::MemberId;

const NAME: &str = "telemetry.ops.svc.clusterset.local";
const PORT: u16 = 5140;
const CLIENTS: usize = 50;
/// Datagrams of each client: 50 × 20 = 1,000, one every 250 ms each = 200/s.
const EACH: usize = 20;
/// Longest wait for an echo.
const ECHO: Duration = Duration::from_secs(2);

pub(super) async fn observe(context: &mut Context<'_>, verdict: &mut Verdict) -> Result<()> {
    let lab = context.lab;
    let member = lab.member(MemberId::Rack1);
    let mut seen = Udp { sent: CLIENTS * EACH, ..Udp::default() };
    let result = watch(context, &member, &mut seen).await;
    context.observed("udp", &seen, verdict)?;
    result?;
    seen.judge(verdict);
    Ok(())
}

async fn watch(context: &Context<'_>, member: &Member<'_>, seen: &mut Udp) -> Result<()> {
    let dns = context.lab.plan.dns(member.id);
    let most = member.inside(move || async move { largest(address(dns).await?).await }).await?;
    seen.largest = most;
    seen.echoed = member
        .inside(move || async move { everybody(address(dns).await?, [1, 512, 1200, most]).await })
        .await?;
    let before = dropped(member).await?;
    let beyond = most + Udp::BEYOND;
    seen.beyond_lost =
        member.inside(move || async move { Ok(echo(address(dns).await?, beyond, 7).await.is_err()) }).await?;
    seen.counted = dropped(member).await?.saturating_sub(before);
    over_http2(context, seen).await
}

async fn over_http2(context: &Context<'_>, seen: &mut Udp) -> Result<()> {
    let lab = context.lab;
    // The tunnel's own probes make the counter rise.
    lab.break_(&Fault::Udp).await?;
    let before = lab.counter("tunnel_udp").await?;
    let member = lab.member(MemberId::Rack1);
    let dns = lab.plan.dns(member.id);
    seen.over_http2 = member
        .inside(move || async move {
            let to = address(dns).await?;
            let end = Instant::now() + Duration::from_secs(10);
            while echo(to, 1, 1).await.is_err() {
                ensure!(Instant::now() < end, "no echo within 10 s after UDP was blocked");
            }
            let mut sizes = Vec::new();
            for size in Udp::SIZES {
                sizes.push((size, echo(to, size, 3).await.err().map(|e| format!("{e:#}"))));
            }
            Ok(sizes)
        })
        .await?;
    seen.passed = lab.counter("tunnel_udp").await?.packets - before.packets;
    lab.heal(&Fault::Udp).await.map(drop)
}

async fn address(dns: SocketAddr) -> Result<SocketAddr> {
    let list = lookup::addresses(dns, NAME).await?;
    let ip: IpAddr = list.first().copied().context("no address")?;
    Ok((ip, PORT).into())
}

/// One datagram there and back, unchanged.
async fn echo(to: SocketAddr, size: usize, salt: usize) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(to).await?;
    exchange(&socket, size, salt).await
}

async fn exchange(socket: &UdpSocket, size: usize, salt: usize) -> Result<()> {
    let sent: Vec<u8> = (0..size).map(|n| ((n * 31 + salt * 7) % 251) as u8).collect();
    socket.send(&sent).await?;
    let mut back = vec![0; 65_536];
    let len = timeout(ECHO, socket.recv(&mut back)).await.context("no echo")??;
    ensure!(back.get(..len) == Some(sent.as_slice()), "the echo differs");
    Ok(())
}

/// Flows that all must pass at the largest size: each may take another tunnel.
const FLOWS: usize = 12;

/// The largest size that comes back over every tunnel, between 1,000 and 1,472 bytes.
async fn largest(to: SocketAddr) -> Result<usize> {
    echo(to, 1000, 0).await.context("1,000 bytes")?;
    let (mut good, mut bad) = (1000, 1473);
    while bad - good > 1 {
        let middle = usize::midpoint(good, bad);
        if echo(to, middle, 0).await.is_ok() {
            good = middle;
        } else {
            bad = middle;
        }
    }
    let mut flows = 0;
    while flows < FLOWS {
        match echo(to, good, 0).await {
            Ok(()) => flows += 1,
            Err(_) => (good, flows) = (good - 1, 0),
        }
    }
    // From its 64th flow on, a tunnel needs a byte more for a flow's number.
    Ok(good - 1)
}

/// All clients at once; how many datagrams came back right.
async fn everybody(to: SocketAddr, sizes: [usize; 4]) -> Result<usize> {
    let start = Instant::now();
    let clients = (0..CLIENTS).map(|client| async move {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        socket.connect(to).await?;
        let mut right = 0;
        for turn in 0..EACH {
            let due = start
                + Duration::from_millis(250) * u32::try_from(turn)?
                + Duration::from_millis(5) * u32::try_from(client)?;
            sleep_until(due).await;
            let size = sizes.get((client + turn) % sizes.len()).copied().unwrap_or(1);
            right += usize::from(exchange(&socket, size, client * EACH + turn).await.is_ok());
        }
        Ok::<_, anyhow::Error>(right)
    });
    Ok(futures::future::try_join_all(clients).await?.into_iter().sum())
}

/// Datagrams its gateways dropped because they were too large, as their metrics say.
async fn dropped(member: &Member<'_>) -> Result<u64> {
    let mut sum = 0;
    for gateway in member.gateways() {
        let (_, text) = member.page(gateway, "/metrics").await?;
        sum += text
            .lines()
            .filter(|line| {
                line.starts_with("hansa_") && line.contains("datagram") && line.contains("too_large")
            })
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .map(|value| value as u64)
            .sum::<u64>();
    }
    Ok(sum)
}
