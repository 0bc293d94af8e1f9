//! The load generator: open loop, half on new connections and half on kept ones, one line per outcome.
//! Run as `hansa lab load` in a client's place; never retries, never drops a request silently.

mod exchange;
mod kept;
mod record;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;

pub use exchange::{Protocol, request};
pub use record::{ConnKind, Outcome};

use crate::{clock, lookup};

/// Connections that may be opening at one time; a request beyond that is a failure called `overload`.
const MOST_IN_FLIGHT: usize = 4096;
/// Kept connections at one time.
const KEPT: u64 = 25;

/// Arguments of the load generator.
#[derive(Debug, Clone)]
pub struct LoadArgs {
    /// The member's DNS server.
    pub dns: SocketAddr,
    /// The service's name.
    pub name: String,
    /// The service's port.
    pub port: u16,
    /// What is spoken.
    pub protocol: Protocol,
    /// Requests per second.
    pub rate: u32,
    /// How long; zero means until SIGTERM.
    pub duration: Duration,
    /// How long a kept connection lives.
    pub keep: Duration,
    /// Longest time to connect; on a connection of its own an answer later than this after the intended start
    /// is not good.
    pub connect_limit: Duration,
    /// Longest time from the request to its whole answer.
    pub answer_limit: Duration,
    /// Members that may answer; empty means any.
    pub members: Vec<String>,
    /// Takes one JSON line per outcome.
    pub out: PathBuf,
    /// First part of every request id.
    pub prefix: String,
    /// Decides which of several addresses a connection takes, and when within its slot a request starts.
    pub seed: u64,
    /// For tests of the generator alone: connect here instead of asking DNS.
    pub fixed: Option<IpAddr>,
}

/// What all parts of a running generator share.
pub(crate) struct Shared {
    pub(crate) args: LoadArgs,
    pub(crate) writer: record::Writer,
    conns: AtomicU64,
    /// Whether nothing more is begun.
    pub(crate) over: AtomicBool,
    /// Drawn from by every connection.
    dice: Mutex<StdRng>,
}

impl Shared {
    /// A new connection, to an address from a fresh answer of DNS, chosen at random.
    pub(crate) async fn connect(&self) -> Result<Conn, String> {
        let begun = clock::now();
        let addresses = match self.args.fixed {
            Some(ip) => vec![ip],
            None => lookup::addresses(self.args.dns, &self.args.name).await.map_err(|e| e.to_string())?,
        };
        let draw: usize =
            self.dice.lock().unwrap_or_else(PoisonError::into_inner).random_range(0..usize::MAX);
        let pick = draw.checked_rem(addresses.len()).unwrap_or_default();
        let ip = *addresses.get(pick).ok_or("dns: no address")?;
        let dial = TcpStream::connect((ip, self.args.port));
        let stream = tokio::time::timeout(self.args.connect_limit, dial)
            .await
            .map_err(|_| format!("connect: timeout {ip}"))?
            .map_err(|e| format!("connect: {} {ip}", e.kind()))?;
        // Small requests must not wait for an acknowledgement.
        stream.set_nodelay(true).map_err(|e| format!("connect: {e}"))?;
        let id = self.conns.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(Conn { stream, id, address: ip, begun, opened: Instant::now() })
    }
}

/// An open connection.
pub(crate) struct Conn {
    pub(crate) stream: TcpStream,
    pub(crate) id: u64,
    pub(crate) address: IpAddr,
    /// When it was begun, with the question to DNS; monotonic nanoseconds.
    pub(crate) begun: u64,
    pub(crate) opened: Instant,
}

/// One request as planned.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) id: String,
    /// Monotonic nanoseconds at which it should start.
    pub(crate) intended: u64,
}

/// Runs the load until its time is over or SIGTERM or Ctrl-C arrives, then waits for what is under way.
///
/// # Errors
/// When the output file cannot be written.
pub async fn run(args: LoadArgs) -> Result<()> {
    let (writer, written) = record::Writer::open(&args.out).context("load: output file")?;
    let answer_limit = args.answer_limit + args.connect_limit;
    let dice = Mutex::new(StdRng::seed_from_u64(args.seed));
    let (conns, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let shared = Arc::new(Shared { args, writer, conns, over, dice });
    let slots = kept::Slots::start(&shared, KEPT);
    let in_flight = Arc::new(Semaphore::new(MOST_IN_FLIGHT));
    tokio::select! {
        () = pace(&shared, &slots, &in_flight) => {}
        () = stopped() => {}
    }
    slots.finish(answer_limit, &shared).await;
    let all = u32::try_from(MOST_IN_FLIGHT).unwrap_or(u32::MAX);
    // Whatever is still open after its own limits has been recorded as failed.
    let _ = tokio::time::timeout(answer_limit + lookup::LIMIT, in_flight.acquire_many(all)).await;
    drop(shared);
    written.await.context("load: writer")?
}

/// Starts every request at its time, whatever became of the ones before.
async fn pace(shared: &Arc<Shared>, slots: &kept::Slots, in_flight: &Arc<Semaphore>) {
    let gap = Duration::from_secs(1) / shared.args.rate.max(1);
    // One clock alone: a start that was read off a second one a little later is too late for the whole run.
    let start = clock::now();
    // A stream of its own: how many connections were made has no part in when requests start.
    let mut dice = StdRng::seed_from_u64(shared.args.seed ^ 0x70ac_e5ed);
    for number in 0_u32.. {
        if !shared.args.duration.is_zero() && gap * number >= shared.args.duration {
            break;
        }
        let offset = gap * number + gap.mul_f64(dice.random_range(0.0..1.0));
        let intended = start + u64::try_from(offset.as_nanos()).unwrap_or(u64::MAX);
        tokio::time::sleep(Duration::from_nanos(intended.saturating_sub(clock::now()))).await;
        let job = Job { id: format!("{}-{number}", shared.args.prefix), intended };
        if number % 2 == 1 {
            slots.give(u64::from(number / 2), job, shared);
        } else if let Ok(permit) = Arc::clone(in_flight).try_acquire_owned() {
            let shared = Arc::clone(shared);
            tokio::spawn(async move {
                fresh(&shared, job).await;
                drop(permit);
            });
        } else {
            shared.writer.put(Outcome::failed(&job, ConnKind::New, 0, "overload"));
        }
    }
}

/// One request on a connection of its own.
async fn fresh(shared: &Shared, job: Job) {
    let begun = clock::now();
    let outcome = match shared.connect().await {
        Err(error) => Outcome::unconnected(&job, ConnKind::New, begun, &error),
        Ok(mut conn) => {
            let result = exchange::once(shared, &mut conn, &job.id, true).await;
            Outcome::of(&job, ConnKind::New, &conn, result)
        }
    };
    shared.writer.put(outcome.within(shared.args.connect_limit));
}

async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut term) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        // Without Ctrl-C there is still SIGTERM.
        _ = tokio::signal::ctrl_c() => {}
    }
}
