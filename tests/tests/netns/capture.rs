//! What a stranger on the link between members sees: QUIC on one UDP port, TLS on the same TCP port where UDP is
//! blocked, and nothing of what clients say. On the link inside a member the same words are in clear, so the
//! search can find them.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use hansa_lab::process::Proc;
use hansa_lab::spec::Host;
use hansa_lab::{Fault, Lab, MemberId, sh};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;

/// Bytes of a capture without a packet.
const EMPTY: u64 = 24;
/// The tunnel port.
const TUNNEL: u16 = 15443;
/// Protocol numbers of what is no payload: IPv4 and IPv6 housekeeping.
const HOUSEKEEPING: [u8; 3] = [1, 2, 58];
const TCP: u8 = 6;
const UDP: u8 = 17;

#[tokio::test]
async fn between_members_there_is_one_port_and_nothing_in_clear() {
    crate::addresses::two_members("capture", async |lab| watched(lab).await).await;
}

async fn watched(lab: &Lab) -> anyhow::Result<()> {
    let marker = format!("marker-{}-for-all-to-see", std::process::id());
    // Where the client of rack-1 is plugged in, and where all of aws-eu's tunnels pass.
    let inside = Capture::start(lab, lab.plan.switch_ns(MemberId::Rack1), &Host::Client.role()).await?;
    let quic = Capture::start(lab, lab.plan.transit_ns(), "br1").await?;
    ask(lab, &marker).await.context("over QUIC")?;
    let (inside, quic) = (inside.end().await?, quic.end().await?);
    ensure!(inside.holds(&marker), "the marker is not even seen on the link inside rack-1");
    only_tunnels(&quic, &marker)?;
    ensure!(quic.of(UDP).count() > 10, "no packets over UDP were seen");

    let tls = Capture::start(lab, lab.plan.transit_ns(), "br1").await?;
    lab.break_(&Fault::Udp).await?;
    over(lab, "http2").await?;
    ask(lab, &marker).await.context("over HTTP/2")?;
    let tls = tls.end().await?;
    only_tunnels(&tls, &marker)?;
    ensure!(tls.of(TCP).count() > 10, "nothing over TCP was seen");
    // The handshake record that carries what a client says first; its version field says 3.1 or 3.3.
    let hello = |p: &Packet| p.payload.starts_with(&[0x16, 3]) && p.payload.get(5) == Some(&1);
    ensure!(tls.of(TCP).any(hello), "no TLS handshake was seen");

    let again = Capture::start(lab, lab.plan.transit_ns(), "br1").await?;
    lab.heal(&Fault::Udp).await?;
    over(lab, "quic").await?;
    ask(lab, &marker).await.context("over QUIC again")?;
    let again = again.end().await?;
    only_tunnels(&again, &marker)?;
    // Handshakes alone say what they are: the long header with the version. What follows is greased.
    let long = |p: &&Packet| p.payload.first().is_some_and(|b| b & 0x80 != 0);
    let handshakes: Vec<&Packet> = again.of(UDP).filter(long).collect();
    ensure!(!handshakes.is_empty(), "no handshake was seen");
    let version_1 = |p: &&Packet| p.payload.get(1..5) == Some(&[0, 0, 0, 1]);
    ensure!(handshakes.iter().all(version_1), "a handshake that is not of QUIC version 1");
    Ok(())
}

/// Waits until new streams of rack-1 go over this transport.
async fn over(lab: &Lab, transport: &str) -> anyhow::Result<()> {
    let end = Instant::now() + Duration::from_secs(35);
    loop {
        let status = lab.member(MemberId::Rack1).status().await?;
        if status.peers.iter().all(|p| p.transport == transport) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "not over {transport}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn only_tunnels(seen: &Seen, marker: &str) -> anyhow::Result<()> {
    ensure!(!seen.holds(marker), "the marker is in clear between members");
    let strange = seen.packets.iter().find(|p| !p.ports.contains(&TUNNEL));
    ensure!(strange.is_none(), "not of a tunnel: {:?}", strange.map(|p| (p.protocol, p.ports)));
    Ok(())
}

/// Twenty requests of rack-1's client, each with the marker in its head and its body; the answer repeats it.
async fn ask(lab: &Lab, marker: &str) -> anyhow::Result<()> {
    let member = lab.member(MemberId::Rack1);
    let id = format!("x-request-id: {marker}");
    let url = "http://checkout.shop.svc.clusterset.local/";
    for _ in 0..20 {
        let args = ["-sS", "--max-time", "10", "-H", &id, "-d", marker, url];
        let said = member.exec("curl", &args).await?;
        ensure!(said.contains("aws-eu") && said.contains(marker), "{said}");
    }
    Ok(())
}

/// A running `tcpdump`.
struct Capture {
    child: Child,
    file: PathBuf,
}

impl Capture {
    /// Starts it on a device and waits until it listens.
    async fn start(lab: &Lab, ns: String, device: &str) -> anyhow::Result<Self> {
        let number = hansa_lab::clock::now();
        let file = lab.folder("captures")?.join(format!("{device}-{number}.pcap"));
        let mut command = sh::command_in(Some(&ns), "tcpdump");
        command.args(["-n", "-U", "-s", "0", "-Z", "root", "-i", device, "-w"]).arg(&file);
        let mut child = command.stderr(Stdio::piped()).stdin(Stdio::null()).kill_on_drop(true).spawn()?;
        let mut lines = BufReader::new(child.stderr.take().context("standard error")?).lines();
        let listens = async {
            while let Some(line) = lines.next_line().await? {
                if line.contains("listening on") {
                    return Ok(());
                }
            }
            anyhow::bail!("tcpdump ended by itself")
        };
        tokio::time::timeout(Duration::from_secs(10), listens).await.context("tcpdump listens")??;
        // Read to its end, or tcpdump would stop at a full pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { child, file })
    }

    /// Ends it once the file does not grow any more, and reads what it wrote.
    async fn end(mut self) -> anyhow::Result<Seen> {
        let size = |file: &Path| std::fs::metadata(file).map_or(0, |meta| meta.len());
        let end = Instant::now() + Duration::from_secs(10);
        let mut before = EMPTY;
        // What was captured is handed over once a second.
        while Instant::now() < end && (before == EMPTY || size(&self.file) != before) {
            before = size(&self.file);
            tokio::time::sleep(Duration::from_millis(1500)).await;
        }
        let pid = i32::try_from(self.child.id().context("tcpdump is gone")?)?;
        Proc::of(pid)?.interrupt();
        tokio::time::timeout(Duration::from_secs(10), self.child.wait()).await.context("tcpdump ends")??;
        Seen::read(&self.file)
    }
}

/// What a capture holds.
struct Seen {
    bytes: Vec<u8>,
    packets: Vec<Packet>,
}

/// One IP packet that is not housekeeping.
struct Packet {
    protocol: u8,
    /// Source and destination.
    ports: [u16; 2],
    payload: Vec<u8>,
}

impl Seen {
    /// Reads a file of Ethernet frames, as `tcpdump -w` leaves it on a little-endian machine.
    fn read(file: &Path) -> anyhow::Result<Self> {
        let bytes = std::fs::read(file)?;
        ensure!(bytes.get(..4) == Some(&[0xd4, 0xc3, 0xb2, 0xa1]), "{} is no capture", file.display());
        let (mut packets, mut at) = (Vec::new(), 24);
        while let Some(length) = bytes.get(at + 8..at + 12) {
            let length = u32::from_le_bytes(length.try_into()?) as usize;
            let frame = bytes.get(at + 16..at + 16 + length).context("a capture that is cut")?;
            packets.extend(packet(frame));
            at += 16 + length;
        }
        Ok(Self { bytes, packets })
    }

    fn of(&self, protocol: u8) -> impl Iterator<Item = &Packet> {
        self.packets.iter().filter(move |p| p.protocol == protocol)
    }

    fn holds(&self, text: &str) -> bool {
        self.bytes.windows(text.len()).any(|window| window == text.as_bytes())
    }
}

/// The packet of a frame; none for ARP and housekeeping.
fn packet(frame: &[u8]) -> Option<Packet> {
    let ip = frame.get(14..)?;
    let (protocol, head) = match frame.get(12..14)? {
        [0x08, 0x00] => (*ip.get(9)?, usize::from(ip.first()? & 0x0f) * 4),
        // IPv6 with an extension header in front is housekeeping: multicast membership.
        [0x86, 0xdd] if ip.get(6) == Some(&0) => return None,
        [0x86, 0xdd] => (*ip.get(6)?, 40),
        _ => return None,
    };
    if HOUSEKEEPING.contains(&protocol) {
        return None;
    }
    let segment = ip.get(head..)?;
    let port = |at: usize| Some(u16::from_be_bytes(segment.get(at..at + 2)?.try_into().ok()?));
    let start = if protocol == TCP { usize::from(segment.get(12)? >> 4) * 4 } else { 8 };
    Some(Packet { protocol, ports: [port(0)?, port(2)?], payload: segment.get(start..)?.to_vec() })
}
