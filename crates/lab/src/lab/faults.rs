//! Faults and their healing, each confirmed from outside before anybody is judged by it.
//! Used by steps, tests and `hansa demo break|heal`; a fault in force is written down in `demo.json`.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::process::Signal;

use super::Lab;
use crate::clock;
use crate::net::rules;
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
        let at = match fault {
            Fault::Process(id, name) => {
                self.proc(*id, name)?.kill().await?;
                clock::now()
            }
            Fault::Member(id) => {
                self.need_namespaces(fault)?;
                rules::cut(&self.plan, *id).await?;
                self.rises(&format!("cut{}", id.index())).await?
            }
            Fault::Udp => {
                self.need_namespaces(fault)?;
                rules::block_udp(&self.plan, true).await?;
                self.rises("blocked").await?
            }
        };
        self.note(fault, true)?;
        Ok(at)
    }

    /// Undoes a fault; when it was undone (for a server: when it was ready again), monotonic nanoseconds.
    ///
    /// # Errors
    /// When it cannot be undone.
    pub async fn heal(&self, fault: &Fault) -> Result<u64> {
        if self.spec.has(Sabotage::NoHeal) {
            self.say(&format!("heal {fault}: left broken on purpose"));
            return Ok(clock::now());
        }
        self.say(&format!("heal {fault}"));
        match fault {
            Fault::Process(id, name) => {
                self.start(*id, name)?;
                if super::member::host_of(name).is_ok() {
                    self.member(*id).ready(name, Duration::from_secs(20)).await?;
                }
            }
            Fault::Member(id) => rules::uncut(&self.plan, *id).await?,
            Fault::Udp => rules::block_udp(&self.plan, false).await?,
        }
        self.note(fault, false)?;
        Ok(clock::now())
    }

    /// Asks a server to drain and end; when the signal was sent, monotonic nanoseconds.
    ///
    /// # Errors
    /// When it is not running.
    pub fn drain(&self, id: MemberId, name: &str) -> Result<u64> {
        self.say(&format!("drain {id}/{name}"));
        let proc = self.proc(id, name)?;
        if !proc.alive() {
            bail!("{id}/{name} is not running");
        }
        proc.signal(Signal::TERM);
        Ok(clock::now())
    }

    fn need_namespaces(&self, fault: &Fault) -> Result<()> {
        if self.mode().has_namespaces() {
            Ok(())
        } else {
            bail!("{fault} needs network namespaces; this demo runs on loopback")
        }
    }

    /// Waits for the counter to move, which proves that packets are being dropped.
    async fn rises(&self, counter: &str) -> Result<u64> {
        let before = rules::counter(&self.plan, counter).await?;
        let end = Instant::now() + CONFIRM;
        while Instant::now() < end {
            if rules::counter(&self.plan, counter).await?.packets > before.packets {
                return Ok(clock::now());
            }
        }
        bail!("the counter {counter} did not move for {CONFIRM:?}: nothing was dropped")
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
