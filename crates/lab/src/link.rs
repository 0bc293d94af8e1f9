//! The links between members where there are no namespaces: a forwarder in front of every gateway, which can
//! drop what comes from or goes to a member, or all UDP, or make the way of UDP long and lossy. Run as
//! `hansa lab link`, one process for a lab.

mod control;
mod owner;
mod tcp;
mod udp;
mod wan;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::net::rules::Count;
use crate::spec::{MemberId, Plan};
use crate::state::DemoState;

pub use control::{Answer, Order, ask};
pub use wan::Wan;

/// Arguments of the forwarder.
#[derive(Debug, Clone)]
pub struct LinkArgs {
    /// The lab's folder; its `demo.json` says which gateways there are.
    pub dir: PathBuf,
}

/// What does not pass.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// Members that are cut off.
    pub cut: Vec<MemberId>,
    /// Whether UDP is blocked.
    pub udp: bool,
    /// How long and lossy the way of what passes is.
    pub wan: Wan,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// What all links share.
pub(crate) struct Links {
    pub(crate) dir: PathBuf,
    pub(crate) closed: watch::Sender<Closed>,
    cut: [Tally; 4],
    blocked: Tally,
    udp: Tally,
    tcp: Tally,
    lost: Tally,
}

#[derive(Default)]
struct Tally {
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Tally {
    fn add(&self, bytes: usize) {
        self.packets.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(u64::try_from(bytes).unwrap_or_default(), Ordering::Relaxed);
    }

    fn read(&self) -> Count {
        Count { packets: self.packets.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }
}

impl Links {
    /// Whether a piece passes; either way it is counted.
    pub(crate) fn passes(&self, transport: Transport, pair: &Pair, bytes: usize) -> bool {
        let closed = self.closed.borrow();
        if let Some(member) = pair.cut(&closed) {
            if let Some(tally) = self.cut.get(usize::from(member.index())) {
                tally.add(bytes);
            }
            return false;
        }
        if transport == Transport::Udp && closed.udp {
            self.blocked.add(bytes);
            return false;
        }
        match transport {
            Transport::Udp => self.udp.add(bytes),
            Transport::Tcp => self.tcp.add(bytes),
        }
        true
    }

    /// How long and lossy the way is.
    pub(crate) fn wan(&self) -> Wan {
        self.closed.borrow().wan
    }

    /// Counts a datagram that did not arrive.
    pub(crate) fn lost(&self, sent: bool, bytes: usize) {
        if !sent {
            self.lost.add(bytes);
        }
    }

    /// The counter of that name, as in the filter of a lab with namespaces.
    pub(crate) fn counter(&self, name: &str) -> Option<Count> {
        let tally = match name {
            "tunnel_udp" => &self.udp,
            "tunnel_tcp" => &self.tcp,
            "blocked" => &self.blocked,
            "lost" => &self.lost,
            _ => self.cut.get(name.strip_prefix("cut")?.parse::<usize>().ok()?)?,
        };
        Some(tally.read())
    }
}

/// The two members a flow runs between. Who sent it is looked up only while somebody is cut off, and once:
/// it takes a walk through `/proc`.
pub(crate) struct Pair {
    dir: PathBuf,
    transport: Transport,
    port: u16,
    from: OnceLock<Option<MemberId>>,
    to: MemberId,
}

impl Pair {
    pub(crate) fn new(links: &Links, transport: Transport, port: u16, to: MemberId) -> Self {
        Self { dir: links.dir.clone(), transport, port, from: OnceLock::new(), to }
    }

    /// The member that is cut off, if either is.
    pub(crate) fn cut(&self, closed: &Closed) -> Option<MemberId> {
        if closed.cut.is_empty() {
            return None;
        }
        if closed.cut.contains(&self.to) {
            return Some(self.to);
        }
        let from = self
            .from
            .get_or_init(|| tokio::task::block_in_place(|| owner::of(&self.dir, self.transport, self.port)));
        from.filter(|member| closed.cut.contains(member))
    }
}

/// Where a gateway really is, and where the link in front of it listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) member: MemberId,
    pub(crate) listen: SocketAddr,
    pub(crate) to: SocketAddr,
}

/// Forwards until killed.
///
/// # Errors
/// When there is no lab in the folder or an address cannot be bound.
pub async fn run(args: LinkArgs) -> Result<()> {
    let state = DemoState::load(&args.dir)?.context("link: no demo.json")?;
    let links = Arc::new(Links {
        dir: args.dir.clone(),
        closed: watch::Sender::new(Closed::default()),
        cut: Default::default(),
        blocked: Tally::default(),
        udp: Tally::default(),
        tcp: Tally::default(),
        lost: Tally::default(),
    });
    let mut tasks = tokio::task::JoinSet::new();
    for id in state.members.keys() {
        let member = MemberId::parse(id).map_err(anyhow::Error::msg)?;
        for gateway in [1, 2] {
            let ends = ends(&state.plan, member, gateway);
            tasks.spawn(udp::run(Arc::clone(&links), ends));
            tasks.spawn(tcp::run(Arc::clone(&links), ends));
        }
    }
    tasks.spawn(control::serve(Arc::clone(&links)));
    match tasks.join_next().await {
        Some(ended) => ended.context("link")?,
        None => Ok(()),
    }
}

fn ends(plan: &Plan, member: MemberId, gateway: u8) -> Ends {
    Ends {
        member,
        listen: (plan.advertised(member, gateway), 15443).into(),
        to: (plan.transit(member, gateway), 15443).into(),
    }
}
