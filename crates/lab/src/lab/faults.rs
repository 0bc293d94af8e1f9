//! Faults and their healing, each confirmed from outside before anybody is judged by it.
//! Used by steps, tests and `hansa demo break|heal`; a fault in force is written down in `demo.json`.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;

use super::Lab;
use crate::clock;
use crate::link::{self, Order};
use crate::net::rules::{self, Count};
use crate::process::{Launch, Proc};
use crate::spec::{MemberId, Sabotage};

/// Longest time to see a fault from outside.
const CONFIRM: Duration = Duration::from_secs(10);

/// What can be broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A process of a member is gone by SIGKILL: a server or, by pod name, a sample server.
    Process(MemberId, String),
    /// Nothing passes to or from a member.
    Member(MemberId),
    /// No UDP passes between members.
    Udp,
}

/// When a fault was undone, monotonic nanoseconds.
#[derive(Debug, Clone, Copy)]
pub struct Undone {
    /// Before it was: nothing that came later came in spite of it.
    pub removed: u64,
    /// After it was; for a process, when it was ready.
    pub ready: u64,
}

impl Fault {
    /// The names `hansa demo break` understands.
    pub const HELP: &'static str = "endpoint, gateway, controller, dns, member, udp; with a target: \
        endpoint:aws-eu/checkout-1, gateway:rack-1/gateway-2, controller:gcp-eu, member:rack-1";
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, target) = text.split_once(':').unwrap_or((text, ""));
        let (member, process) = target.split_once('/').unwrap_or((target, ""));
        if (kind == "udp" && !target.is_empty()) || (kind == "member" && !process.is_empty()) {
            return Err(format!("unknown fault {text:?}: {}", Self::HELP));
        }
        let id = if member.is_empty() { Ok(MemberId::AwsEu) } else { MemberId::parse(member) }?;
        let or = |default: &str| if process.is_empty() { default.to_owned() } else { process.to_owned() };
        Ok(match kind {
            "endpoint" => Self::Process(id, or("checkout-1")),
            "gateway" => Self::Process(id, or("gateway-1")),
            "controller" => Self::Process(id, "controller".into()),
            "dns" => Self::Process(id, "dns".into()),
            "member" => Self::Member(id),
            "udp" => Self::Udp,
            other => return Err(format!("unknown fault {other:?}: {}", Self::HELP)),
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(id, name) if name == "controller" || name == "dns" => write!(f, "{name}:{id}"),
            Self::Process(id, name) if name.starts_with("gateway-") => write!(f, "gateway:{id}/{name}"),
            Self::Process(id, name) => write!(f, "endpoint:{id}/{name}"),
            Self::Member(id) => write!(f, "member:{id}"),
            Self::Udp => f.write_str("udp"),
        }
    }
}

impl Lab {
    /// Breaks something and waits until that is visible from outside; when it was, monotonic nanoseconds.
    ///
    /// # Errors
    /// When it cannot be broken in this mode, or is not seen to be broken.
    pub async fn break_(&self, fault: &Fault) -> Result<u64> {
        self.say(&format!("break {fault}"));
        // Written down first: whatever becomes of it, `heal` and `down` know of it.
        self.note(fault, true)?;
        let confirmed = self.inflict(fault).await;
        if confirmed.is_err() && self.spec.has(Sabotage::NoFault) {
            self.note(fault, false)?;
        }
        confirmed.with_context(|| format!("the fault {fault} was not confirmed"))
    }

    /// How long to look for a fault; where none is made, nobody waits as long for it.
    fn confirm(&self) -> Duration {
        if self.spec.has(Sabotage::NoFault) { CONFIRM / 4 } else { CONFIRM }
    }

    /// How long to wait for what comes back; for what never does, not as long.
    pub(crate) fn patience(&self, limit: Duration) -> Duration {
        if self.spec.has(Sabotage::NoHeal) { limit.min(CONFIRM) / 2 } else { limit }
    }

    async fn inflict(&self, fault: &Fault) -> Result<u64> {
        let really = !self.spec.has(Sabotage::NoFault);
        match fault {
            Fault::Process(id, name) => {
                let proc = self.proc(*id, name)?;
                if really {
                    proc.signal(Signal::KILL);
                }
                proc.gone(self.confirm()).await?;
                Ok(clock::now())
            }
            Fault::Member(id) => {
                if really {
                    self.close(Order::Cut(*id, true)).await?;
                }
                self.rises(&format!("cut{}", id.index())).await
            }
            Fault::Udp => {
                if really {
                    self.close(Order::Udp(true)).await?;
                }
                if self.spec.has(Sabotage::NoFallback) && self.mode().has_namespaces() {
                    rules::block_tcp(&self.plan, true).await?;
                }
                self.rises("blocked").await
            }
        }
    }

    /// Undoes a fault and waits until that is visible from outside.
    ///
    /// # Errors
    /// When it cannot be undone.
    pub async fn heal(&self, fault: &Fault) -> Result<Undone> {
        let removed = clock::now();
        if self.spec.has(Sabotage::NoHeal) {
            self.say(&format!("heal {fault}: left broken on purpose"));
            return Ok(Undone { removed, ready: removed });
        }
        self.say(&format!("heal {fault}"));
        match fault {
            Fault::Process(id, name) => {
                if self.proc(*id, name).is_ok_and(|p| p.alive()) {
                    self.note(fault, false)?;
                    bail!("{fault} is not broken: its process is running");
                }
                self.start(*id, name)?;
                if super::member::host_of(name).is_ok() {
                    self.member(*id).ready(name, Duration::from_secs(20)).await?;
                } else {
                    self.member(*id).listening(name, CONFIRM).await?;
                }
            }
            Fault::Member(id) => self.close(Order::Cut(*id, false)).await?,
            Fault::Udp => {
                self.close(Order::Udp(false)).await?;
                if self.spec.has(Sabotage::NoFallback) && self.mode().has_namespaces() {
                    rules::block_tcp(&self.plan, false).await?;
                }
            }
        }
        self.note(fault, false)?;
        Ok(Undone { removed, ready: clock::now() })
    }

    /// Asks a server to drain and end, and waits until it is seen not to be ready: when the signal was sent,
    /// and when it was seen.
    ///
    /// # Errors
    /// When it is not running, or goes on as if nothing had been asked.
    pub async fn drain(&self, id: MemberId, name: &str) -> Result<(u64, u64)> {
        self.say(&format!("drain {id}/{name}"));
        let proc = self.proc(id, name)?;
        if !proc.alive() {
            bail!("{id}/{name} is not running");
        }
        let at = clock::now();
        if !self.spec.has(Sabotage::NoFault) {
            proc.signal(Signal::TERM);
        }
        let end = Instant::now() + self.confirm();
        // It says so itself, or it is gone; that its page does not answer says nothing.
        while proc.alive() {
            let seen = match self.member(id).page(name, "/readyz").await {
                Ok((503, _)) => break,
                Ok((code, _)) => format!("it answers {code} as before"),
                Err(e) => format!("it does not answer: {e:#}"),
            };
            if Instant::now() >= end {
                bail!("the drain of {id}/{name} was not confirmed: {seen}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok((at, clock::now()))
    }

    /// Closes or opens links.
    async fn close(&self, order: Order) -> Result<()> {
        if !self.mode().has_namespaces() {
            return link::ask(&self.spec.dir, &order).await.map(drop);
        }
        match order {
            Order::Cut(id, true) => rules::cut(&self.plan, id).await,
            Order::Cut(id, false) => rules::uncut(&self.plan, id).await,
            Order::Udp(on) => rules::block_udp(&self.plan, on).await,
            Order::Wan(_) | Order::Count(_) => Ok(()),
        }
    }

    /// What a counter between members has seen: `tunnel_udp`, `tunnel_tcp`, `blocked`, `cut1` to `cut3`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn counter(&self, name: &str) -> Result<Count> {
        if self.mode().has_namespaces() {
            return rules::counter(&self.plan, name).await;
        }
        let answer = link::ask(&self.spec.dir, &Order::Count(name.into())).await?;
        let (packets, bytes) = answer.count.with_context(|| format!("no counter {name}"))?;
        Ok(Count { packets, bytes })
    }

    /// Starts the forwarders of a lab without namespaces.
    pub(super) async fn start_links(&self) -> Result<()> {
        let dir = self.spec.dir.to_string_lossy().into_owned();
        let proc = Proc::start(&Launch {
            ns: None,
            program: self.spec.hansa.clone(),
            args: ["lab", "link", "--dir", &dir].map(String::from).to_vec(),
            output: self.spec.dir.join("link.output.log"),
            mark: self.spec.dir.clone(),
        })?;
        let state = {
            let mut state = self.state();
            state.links = Some(proc);
            state.clone()
        };
        state.save()?;
        let end = Instant::now() + CONFIRM;
        while let Err(e) = self.counter("blocked").await {
            if Instant::now() >= end || !proc.alive() {
                return Err(e);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Waits for the counter to move, which proves that packets are being dropped.
    async fn rises(&self, counter: &str) -> Result<u64> {
        let before = self.counter(counter).await?;
        let (limit, end) = (self.confirm(), Instant::now() + self.confirm());
        while Instant::now() < end {
            if self.counter(counter).await?.packets > before.packets {
                return Ok(clock::now());
            }
        }
        bail!("the counter {counter} did not move for {limit:?}: nothing was dropped")
    }

    fn note(&self, fault: &Fault, on: bool) -> Result<()> {
        let mut state = self.state();
        let name = fault.to_string();
        state.broken.retain(|b| *b != name);
        if on {
            state.broken.push(name);
        }
        state.save()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_read_as_it_is_shown() {
        for (short, long) in [
            ("endpoint", "endpoint:aws-eu/checkout-1"),
            ("gateway", "gateway:aws-eu/gateway-1"),
            ("gateway:rack-1/gateway-2", "gateway:rack-1/gateway-2"),
            ("controller:gcp-eu", "controller:gcp-eu"),
            ("dns:rack-1", "dns:rack-1"),
            ("member:rack-1", "member:rack-1"),
            ("udp", "udp"),
        ] {
            let fault: Fault = short.parse().unwrap();
            assert_eq!(fault.to_string(), long);
            assert_eq!(long.parse::<Fault>().unwrap(), fault);
        }
        assert!("gateway:mars".parse::<Fault>().is_err());
        assert!("power".parse::<Fault>().is_err());
    }
}
