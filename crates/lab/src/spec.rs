//! What a lab consists of: members, hosts, addresses, ports. Pure arithmetic, no IO.
//! Used by every other module of this crate; never reads the environment.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// How the members are kept apart on one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetMode {
    /// Network namespaces, made by root.
    Netns,
    /// The same, inside an unprivileged user namespace.
    Userns,
    /// Loopback addresses and high ports; no fault on links.
    Loopback,
}

impl NetMode {
    /// Whether network namespaces separate the hosts.
    #[must_use]
    pub fn has_namespaces(self) -> bool {
        !matches!(self, Self::Loopback)
    }

    /// The name used on the command line and in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Netns => "netns",
            Self::Userns => "userns",
            Self::Loopback => "loopback",
        }
    }
}

impl std::str::FromStr for NetMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "netns" => Ok(Self::Netns),
            "userns" => Ok(Self::Userns),
            "loopback" => Ok(Self::Loopback),
            other => Err(format!("unknown net mode {other:?}: netns, userns or loopback")),
        }
    }
}

/// A fault built into the lab so that a test can see a promise broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sabotage {
    /// No member gets a second gateway.
    NoSecondGateway,
    /// rack-1 is joined with an invitation that carries another bundle: `foreign-bundle.json` in the lab's folder.
    WrongBundle,
    /// A fault is never healed.
    NoHeal,
    /// A fault is only said to be there: nobody is killed, nothing is dropped.
    NoFault,
    /// Once the members are joined, every manifest points at a port where nobody listens.
    WrongPort,
    /// gcp-eu has no copy of `checkout.shop`.
    NoSecondCopy,
    /// Where UDP is blocked, TCP is too.
    NoFallback,
    /// Gateways drain for one second instead of thirty.
    ShortDrain,
    /// What returns gets traffic at once.
    NoHoldDown,
}

impl Sabotage {
    /// All of them, by name.
    pub const ALL: [(&'static str, Self); 9] = [
        ("no-second-gateway", Self::NoSecondGateway),
        ("wrong-bundle", Self::WrongBundle),
        ("no-heal", Self::NoHeal),
        ("no-fault", Self::NoFault),
        ("wrong-port", Self::WrongPort),
        ("no-second-copy", Self::NoSecondCopy),
        ("no-fallback", Self::NoFallback),
        ("short-drain", Self::ShortDrain),
        ("no-hold-down", Self::NoHoldDown),
    ];
}

impl std::str::FromStr for Sabotage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(name, _)| *name == text);
        found.map(|(_, sabotage)| *sabotage).ok_or_else(|| {
            let names = Self::ALL.map(|(name, _)| name);
            format!("unknown sabotage {text:?}: {}", names.join(", "))
        })
    }
}

/// What the links between members do not allow, in namespaces. By default both, as the demo promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Links {
    /// rack-1 can only dial out, as behind a NAT.
    pub rack_dials_only: bool,
    /// Between gcp-eu and rack-1 only IPv6 passes.
    pub ipv6_pair: bool,
}

impl Links {
    /// Everything is allowed.
    pub const OPEN: Self = Self { rack_dials_only: false, ipv6_pair: false };
}

impl Default for Links {
    fn default() -> Self {
        Self { rack_dials_only: true, ipv6_pair: true }
    }
}

/// Everything [`crate::Lab::up`] needs to know.
#[derive(Debug, Clone)]
pub struct LabSpec {
    /// Absolute folder that holds all files of this lab.
    pub dir: PathBuf,
    /// The `hansa` binary.
    pub hansa: PathBuf,
    /// How members are kept apart.
    pub mode: NetMode,
    /// Which members to bring up; all three unless a test asks for less.
    pub members: Vec<MemberId>,
    /// Faults built in on purpose.
    pub sabotage: Vec<Sabotage>,
    /// Whether progress lines go to stderr.
    pub progress: bool,
    /// Seed of everything that is left to chance.
    pub seed: u64,
    /// How awkward the links between members are.
    pub links: Links,
}

impl LabSpec {
    /// Three members in `dir`, without sabotage.
    #[must_use]
    pub fn new(dir: &Path, hansa: &Path, mode: NetMode) -> Self {
        Self {
            dir: dir.to_path_buf(),
            hansa: hansa.to_path_buf(),
            mode,
            members: MemberId::ALL.to_vec(),
            sabotage: Vec::new(),
            progress: false,
            seed: 1,
            links: Links::default(),
        }
    }

    /// The seed of one random choice of this lab, the same for the same seed and purpose.
    #[must_use]
    pub fn seed_for(&self, purpose: &str) -> u64 {
        let start = 0xcbf2_9ce4_8422_2325 ^ self.seed;
        purpose.bytes().fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }

    /// One of several, decided by the seed.
    #[must_use]
    pub fn choose<'a, T>(&self, purpose: &str, from: &'a [T]) -> Option<&'a T> {
        use rand::{RngExt as _, SeedableRng as _};
        if from.is_empty() {
            return None;
        }
        from.get(rand::rngs::StdRng::seed_from_u64(self.seed_for(purpose)).random_range(0..from.len()))
    }

    /// Whether this lab carries that sabotage.
    #[must_use]
    pub fn has(&self, what: Sabotage) -> bool {
        self.sabotage.contains(&what)
    }
}

/// One of the three members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemberId {
    /// `aws-eu`, aws/eu-central-1.
    AwsEu,
    /// `gcp-eu`, gcp/europe-west3.
    GcpEu,
    /// `rack-1`, onprem/berlin.
    #[serde(rename = "rack-1")]
    Rack1,
}

impl MemberId {
    /// All members, in order of their index.
    pub const ALL: [Self; 3] = [Self::AwsEu, Self::GcpEu, Self::Rack1];

    /// The cluster id.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AwsEu => "aws-eu",
            Self::GcpEu => "gcp-eu",
            Self::Rack1 => "rack-1",
        }
    }

    /// The locality, cloud and region.
    #[must_use]
    pub fn locality(self) -> &'static str {
        match self {
            Self::AwsEu => "aws/eu-central-1",
            Self::GcpEu => "gcp/europe-west3",
            Self::Rack1 => "onprem/berlin",
        }
    }

    /// 1, 2 or 3: the octet that tells the members apart where addresses may differ.
    #[must_use]
    pub fn index(self) -> u8 {
        match self {
            Self::AwsEu => 1,
            Self::GcpEu => 2,
            Self::Rack1 => 3,
        }
    }

    /// The member with this cluster id.
    ///
    /// # Errors
    /// When there is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|m| m.as_str() == text)
            .ok_or_else(|| format!("unknown member {text:?}: aws-eu, gcp-eu or rack-1"))
    }
}

impl std::fmt::Display for MemberId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A place inside a member that has an address of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Host {
    /// The controller.
    Controller,
    /// Gateway 1 or 2.
    Gateway(u8),
    /// The DNS server.
    Dns,
    /// Where clients run.
    Client,
    /// A sample server, from 1.
    App(u8),
}

impl Host {
    /// All hosts of a member.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut hosts = vec![Self::Controller, Self::Gateway(1), Self::Gateway(2), Self::Dns, Self::Client];
        hosts.extend((1..=4).map(Self::App));
        hosts
    }

    /// The short role used in namespace names.
    #[must_use]
    pub fn role(self) -> String {
        match self {
            Self::Controller => "ctl".into(),
            Self::Gateway(n) => format!("gw{n}"),
            Self::Dns => "dns".into(),
            Self::Client => "cli".into(),
            Self::App(n) => format!("app{n}"),
        }
    }

    /// The last two octets of the inside address.
    fn octets(self) -> (u8, u8) {
        match self {
            Self::Controller => (0, 10),
            Self::Gateway(n) => (0, 10 + n),
            Self::Dns => (0, 53),
            Self::Client => (0, 100),
            Self::App(n) => (1, n),
        }
    }
}

/// The addresses and names of one lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// How members are kept apart.
    pub mode: NetMode,
    /// Four hex digits of the folder's hash: the start of every namespace name.
    pub tag: String,
    /// Loopback only: which block of 127/8 this lab uses, so that two labs can live side by side.
    pub block: u8,
    /// What the links do not allow.
    pub links: Links,
}

impl Plan {
    /// The plan of the lab in `dir`; `block` counts only in loopback mode.
    #[must_use]
    pub fn new(dir: &Path, mode: NetMode, block: u8) -> Self {
        Self { mode, tag: tag(dir), block, links: Links::OPEN }
    }

    fn octet(&self, member: MemberId) -> u8 {
        member.index() + 4 * self.block
    }

    /// The inside address of a host: the same in all members where namespaces separate them.
    #[must_use]
    pub fn inside(&self, member: MemberId, host: Host) -> Ipv4Addr {
        let (c, d) = host.octets();
        if self.mode.has_namespaces() {
            Ipv4Addr::new(10, 0, c, d)
        } else {
            Ipv4Addr::new(127, self.octet(member), c, d)
        }
    }

    /// Where a gateway listens for its peers.
    #[must_use]
    pub fn transit(&self, member: MemberId, gateway: u8) -> Ipv4Addr {
        if self.mode.has_namespaces() {
            Ipv4Addr::new(198, 18, member.index(), 10 + gateway)
        } else {
            self.inside(member, Host::Gateway(gateway))
        }
    }

    /// Where peers are told to reach a gateway: where links are forwarders, in front of it.
    #[must_use]
    pub fn advertised(&self, member: MemberId, gateway: u8) -> Ipv4Addr {
        if self.mode.has_namespaces() {
            self.transit(member, gateway)
        } else {
            Ipv4Addr::new(127, self.octet(member), 0, 20 + gateway)
        }
    }

    /// The prefix from which imported services get addresses.
    #[must_use]
    pub fn vip_prefix(&self, member: MemberId) -> String {
        if self.mode.has_namespaces() {
            format!("10.{}.0.0/16", 96 + member.index())
        } else {
            format!("127.{}.0.0/16", 96 + self.octet(member))
        }
    }

    /// The DNS server's address and port.
    #[must_use]
    pub fn dns(&self, member: MemberId) -> SocketAddr {
        let port = if self.mode.has_namespaces() { 53 } else { 8053 };
        SocketAddr::from((self.inside(member, Host::Dns), port))
    }

    /// The admin endpoint of the server on a host: on loopback where it has one of its own.
    #[must_use]
    pub fn admin(&self, member: MemberId, host: Host) -> SocketAddr {
        SocketAddr::from((self.local(member, host), 15020))
    }

    /// The health endpoint of the server on a host.
    #[must_use]
    pub fn health(&self, member: MemberId, host: Host) -> SocketAddr {
        SocketAddr::from((self.local(member, host), 15021))
    }

    fn local(&self, member: MemberId, host: Host) -> Ipv4Addr {
        if self.mode.has_namespaces() { Ipv4Addr::LOCALHOST } else { self.inside(member, host) }
    }

    /// The port of the HTTP sample service: 80, or a high one where low ports need privileges.
    #[must_use]
    pub fn http_port(&self) -> u16 {
        if self.mode.has_namespaces() { 80 } else { 8080 }
    }

    /// The network namespace of a host.
    #[must_use]
    pub fn ns(&self, member: MemberId, host: Host) -> Option<String> {
        self.mode.has_namespaces().then(|| format!("h{}-{}{}", self.tag, member.index(), host.role()))
    }

    /// The namespace that holds a member's inside switch.
    #[must_use]
    pub fn switch_ns(&self, member: MemberId) -> String {
        format!("h{}-{}sw", self.tag, member.index())
    }

    /// The namespace between the members.
    #[must_use]
    pub fn transit_ns(&self) -> String {
        format!("h{}-transit", self.tag)
    }
}

/// Four hex digits of the FNV-1a hash of the folder's path.
fn tag(dir: &Path) -> String {
    let mut hash: u32 = 0x811c_9dc5;
    for byte in dir.as_os_str().as_encoded_bytes() {
        hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    }
    format!("{:04x}", (hash >> 16) ^ (hash & 0xffff))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_decides_and_repeats() {
        let spec = |seed| {
            let spec = LabSpec::new(Path::new("/tmp/x"), Path::new("hansa"), NetMode::Loopback);
            LabSpec { seed, ..spec }
        };
        let both = ["gateway-1", "gateway-2"];
        let victims: Vec<_> = (0..64).map(|seed| spec(seed).choose("gateway-kill local", &both)).collect();
        let again: Vec<_> = (0..64).map(|seed| spec(seed).choose("gateway-kill local", &both)).collect();
        assert_eq!(victims, again);
        for gateway in &both {
            assert!(victims.contains(&Some(gateway)), "{gateway} is never chosen");
        }
        assert_ne!(spec(1).seed_for("a"), spec(1).seed_for("b"));
        assert_ne!(spec(1).seed_for("a"), spec(2).seed_for("a"));
        assert_eq!(spec(1).choose("nothing", &[] as &[u8]), None);
    }

    #[test]
    fn a_sabotage_is_read_by_its_name() {
        for (name, sabotage) in Sabotage::ALL {
            assert_eq!(name.parse(), Ok(sabotage));
        }
        assert!("none".parse::<Sabotage>().is_err());
    }
}
