//! Dials one of our own endpoints: the less loaded of two that are up, the next if it refuses.
//!
//! Called by inbound for peers, by outbound where the own cluster is the candidate, and by probes.
//! It never leaves the cluster.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hansa_core::catalog::{LocalService, Protocol};
use hansa_core::name::Label;
use hansa_core::reach::{Event, Track};
use rand::RngExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::reach::{Path, Tracks};

/// All dials of one request together take at most so many times the limit of one. Whoever waits for the answer
/// must hear of the last one in time.
const TRIES: u32 = 2;

/// Pause before a dial is tried again that failed for lack of descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// Why no endpoint could be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DialError {
    /// There is no ready endpoint for that port.
    #[error("no ready endpoint")]
    None,
    /// All refused; the last one so.
    #[error("{0}: {1}")]
    Refused(SocketAddr, String),
    /// The last one did not answer in time.
    #[error("{0}: no answer to the dial")]
    Timeout(SocketAddr),
    /// This gateway itself lacks something, such as descriptors.
    #[error("the gateway cannot dial: {0}")]
    Own(String),
}

/// A connection to an endpoint, counted as load while it lives.
#[derive(Debug)]
pub(crate) struct Dialed {
    /// The connection.
    pub(crate) stream: TcpStream,
    /// Where to.
    pub(crate) endpoint: SocketAddr,
    /// Held as long as the connection.
    pub(crate) load: Load,
}

/// One unit of load on an endpoint.
#[derive(Debug)]
pub(crate) struct Load(Arc<AtomicUsize>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Dials endpoints. Clones share the load counts.
#[derive(Debug, Clone)]
pub(crate) struct Dialer {
    tracks: Tracks,
    loads: Arc<Mutex<HashMap<SocketAddr, Arc<AtomicUsize>>>>,
    limit: Duration,
}

/// An endpoint that may be dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Choice {
    address: SocketAddr,
    /// 0: gets traffic; 1: proved by a probe; 2: down.
    rank: u8,
    load: usize,
}

impl Dialer {
    /// A dialler that gives one endpoint `limit` to answer.
    pub(crate) fn new(tracks: Tracks, limit: Duration) -> Self {
        Self { tracks, loads: Arc::default(), limit }
    }

    /// Connects to a ready endpoint of `port`, or to the one with that host name.
    pub(crate) async fn dial(
        &self,
        local: &LocalService,
        port: u16,
        host: Option<&Label>,
    ) -> Result<Dialed, DialError> {
        let end = Instant::now() + self.limit * TRIES;
        let mut last = DialError::None;
        for choice in self.order(&targets(local, Protocol::Tcp, port, host)) {
            if Instant::now() >= end {
                break;
            }
            match self.connect(choice.address, end.min(Instant::now() + self.limit)).await {
                Ok(dialed) => return Ok(dialed),
                Err(error @ DialError::Own(_)) => return Err(error),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Connects to one endpoint before `end` and records how it went.
    async fn connect(&self, address: SocketAddr, end: Instant) -> Result<Dialed, DialError> {
        let load = self.take(address);
        let path = Path::Endpoint(address);
        let connected = loop {
            match tokio::time::timeout_at(end, TcpStream::connect(address)).await {
                // Connections end all the time, and give back what is short.
                Ok(Err(error)) if is_own(&error) && Instant::now() + PAUSE < end => {
                    tokio::time::sleep(PAUSE).await;
                }
                other => break other,
            }
        };
        match connected {
            Ok(Ok(stream)) => {
                self.tracks.record(&path, Event::Succeeded);
                // Nagle would hold back the small writes of what passes through.
                let _ = stream.set_nodelay(true);
                Ok(Dialed { stream, endpoint: address, load })
            }
            Ok(Err(error)) if is_own(&error) => Err(DialError::Own(error.to_string())),
            Ok(Err(error)) => {
                self.tracks.record(&path, Event::Failed);
                Err(DialError::Refused(address, error.to_string()))
            }
            Err(_) => {
                self.tracks.record(&path, Event::Failed);
                Err(DialError::Timeout(address))
            }
        }
    }

    /// Takes a place on an endpoint; for UDP flows, which are not dialled.
    pub(crate) fn take(&self, address: SocketAddr) -> Load {
        let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        if loads.len() > 1_024 {
            // Endpoints come and go; a count nobody holds means nothing.
            loads.retain(|_, load| Arc::strong_count(load) > 1);
        }
        let load = loads.entry(address).or_default().clone();
        load.fetch_add(1, Ordering::Relaxed);
        Load(load)
    }

    /// The best of the targets, for UDP.
    pub(crate) fn choose(&self, local: &LocalService, port: u16, host: Option<&Label>) -> Option<SocketAddr> {
        self.order(&targets(local, Protocol::Udp, port, host)).first().map(|choice| choice.address)
    }

    fn order(&self, targets: &[SocketAddr]) -> Vec<Choice> {
        let view = self.tracks.snapshot();
        let mut rng = rand::rng();
        let loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        let mut choices: Vec<Choice> = targets
            .iter()
            .map(|&address| {
                let load = loads.get(&address).map_or(0, |load| load.load(Ordering::Relaxed));
                let weight = self.tracks.weight(&view, &Path::Endpoint(address));
                let rank = match view.track(&Path::Endpoint(address)) {
                    Track::Down { .. } => 2,
                    // On a ramp, its share of the draws.
                    _ if weight < 1.0 && rng.random::<f64>() >= weight => 1,
                    _ => 0,
                };
                Choice { address, rank, load }
            })
            .collect();
        drop(loads);
        let first = rng.random::<u64>();
        let second = rng.random::<u64>();
        prefer(&mut choices, first, second);
        choices
    }
}

/// Sorts by rank, with the less loaded of two drawn ones first in each rank.
fn prefer(choices: &mut [Choice], first: u64, second: u64) {
    choices.sort_by_key(|c| c.rank);
    let mut rest = choices;
    while let Some(head) = rest.first().copied() {
        let n = rest.iter().take_while(|c| c.rank == head.rank).count();
        let (group, after) = std::mem::take(&mut rest).split_at_mut(n);
        let (a, b) = ((first % n as u64) as usize, (second % n as u64) as usize);
        let best = if group[b].load < group[a].load { b } else { a };
        group.swap(0, best);
        rest = after;
    }
}

/// Addresses of the ready endpoints for one port; for a named host the endpoint's own port counts too.
fn targets(local: &LocalService, protocol: Protocol, port: u16, host: Option<&Label>) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for endpoint in local.endpoints.iter().filter(|e| e.ready) {
        if host.is_some() && endpoint.hostname.as_ref() != host {
            continue;
        }
        let ports = || endpoint.ports.iter().filter(|t| t.protocol == protocol);
        let by_service = ports().find(|t| t.service == port);
        let by_target = || ports().find(|t| host.is_some() && t.target == port);
        if let Some(target) = by_service.or_else(by_target) {
            found.push(SocketAddr::new(endpoint.address, target.target));
        }
    }
    found
}

fn is_own(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let Some(errno) = Errno::from_io_error(error) else { return false };
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL].contains(&errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(port: u16, rank: u8, load: usize) -> Choice {
        Choice { address: SocketAddr::from(([127, 0, 0, 1], port)), rank, load }
    }

    #[test]
    fn ranks_come_first_and_then_the_less_loaded_of_two() {
        let mut choices = [choice(1, 2, 0), choice(2, 0, 9), choice(3, 0, 1), choice(4, 1, 0)];
        prefer(&mut choices, 0, 1);
        let ports: Vec<u16> = choices.iter().map(|c| c.address.port()).collect();
        assert_eq!(ports, [3, 2, 4, 1]);
    }

    #[tokio::test]
    async fn a_refused_endpoint_is_passed_over_and_remembered() {
        let up = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let down = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let ports = [up.local_addr().unwrap().port(), down.local_addr().unwrap().port()];
        drop(down);
        let endpoints = ports
            .map(|target| hansa_core::catalog::LocalEndpoint {
                address: "127.0.0.1".parse().unwrap(),
                hostname: None,
                ready: true,
                locality: Default::default(),
                ports: vec![hansa_core::catalog::TargetPort { protocol: Protocol::Tcp, service: 80, target }],
            })
            .to_vec();
        let local = LocalService { export_to: None, endpoints };
        let tracks = Tracks::default();
        let dialer = Dialer::new(tracks.clone(), Duration::from_secs(2));
        for _ in 0..20 {
            assert_eq!(dialer.dial(&local, 80, None).await.unwrap().endpoint.port(), ports[0]);
        }
        assert!(tracks.snapshot().shown().len() <= 1);
        assert_eq!(dialer.dial(&local, 81, None).await.unwrap_err(), DialError::None);
    }
}
