//! The YAML files of a lab: one configuration per server, and the sample manifests.
//! Called by bring-up and by the `names` step; only builds text.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;

use crate::spec::{Host, LabSpec, MemberId, Plan, Sabotage};

/// What every server configuration needs.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    /// The process's folder: state, log and configuration live there.
    pub home: &'a Path,
    /// The member's manifests.
    pub manifests: &'a Path,
    /// How patient the servers are.
    pub tuning: Tuning,
}

/// What the demo sets shorter than the defaults, seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// How long what returns gets no traffic after its probe passed.
    pub hold_down: u8,
    /// How long its share then grows.
    pub ramp: u8,
    /// How long a gateway that ends waits for its connections.
    pub drain: u8,
}

impl Tuning {
    /// As promised; shorter in a lab that is to break a promise.
    #[must_use]
    pub fn of(spec: &LabSpec) -> Self {
        let held = !spec.has(Sabotage::NoHoldDown);
        let drain = if spec.has(Sabotage::ShortDrain) { 1 } else { 30 };
        Self { hold_down: if held { 2 } else { 0 }, ramp: if held { 3 } else { 0 }, drain }
    }
}

/// The controller's configuration.
#[must_use]
pub fn controller(plan: &Plan, member: MemberId, files: Files<'_>) -> String {
    let listen = plan.inside(member, Host::Controller);
    let mut text =
        format!("cluster: {member}\ntrustDomain: {member}.demo.hansa.dev\nlocality: {}\n", member.locality());
    let _ = writeln!(text, "stateDir: {}", quoted(&files.home.join("state")));
    let _ = writeln!(text, "source:\n  folder: {}", quoted(files.manifests));
    let _ = writeln!(text, "listen: [\"{listen}:15012\"]");
    let _ = writeln!(text, "vip:\n  prefixes: [\"{}\"]", plan.vip_prefix(member));
    let Tuning { hold_down, ramp, .. } = files.tuning;
    let _ = writeln!(text, "failover:\n  holdDown: {hold_down}s\n  ramp: {ramp}s");
    common(&mut text, plan, (member, Host::Controller), files.home);
    text
}

/// A gateway's configuration.
#[must_use]
pub fn gateway(plan: &Plan, member: MemberId, number: u8, files: Files<'_>) -> String {
    let host = Host::Gateway(number);
    let zone = if number == 1 { "a" } else { "b" };
    let mut text = format!("id: gateway-{number}\n");
    enrolled(&mut text, plan, member, files.home);
    let _ = writeln!(text, "locality: {}/{zone}", member.locality());
    text.push_str(&tunnel(plan, member, number));
    let _ = writeln!(text, "relay:\n  listen: \"{}:15014\"", plan.inside(member, host));
    let _ = writeln!(text, "drain:\n  deadline: {}s", files.tuning.drain);
    common(&mut text, plan, (member, host), files.home);
    text
}

fn tunnel(plan: &Plan, member: MemberId, number: u8) -> String {
    let v4 = plan.transit(member, number);
    let (listen, advertise) = if plan.links.ipv6_pair {
        let v6 = format!("fd00:198:18:{}::{}", member.index(), 10 + number);
        ("\"0.0.0.0:15443\", \"[::]:15443\"".to_owned(), format!("\"[{v6}]:15443\", \"{v4}:15443\""))
    } else if plan.mode.has_namespaces() {
        ("\"0.0.0.0:15443\"".to_owned(), format!("\"{v4}:15443\""))
    } else {
        (format!("\"{v4}:15443\""), format!("\"{}:15443\"", plan.advertised(member, number)))
    };
    let dial_only = plan.links.rack_dials_only && member == MemberId::Rack1;
    let advertise = if dial_only { String::new() } else { advertise };
    format!("tunnel:\n  listen: [{listen}]\n  advertise: [{advertise}]\n  dialOnly: {dial_only}\n")
}

/// The DNS server's configuration.
#[must_use]
pub fn dns(plan: &Plan, member: MemberId, files: Files<'_>) -> String {
    let mut text = String::from("id: dns\n");
    enrolled(&mut text, plan, member, files.home);
    let _ = writeln!(text, "listen: [\"{}\"]\nforward:\n  upstreams: []", plan.dns(member));
    common(&mut text, plan, (member, Host::Dns), files.home);
    text
}

fn enrolled(text: &mut String, plan: &Plan, member: MemberId, home: &Path) {
    let controller = plan.inside(member, Host::Controller);
    let _ = writeln!(text, "cluster: {member}\nstateDir: {}", quoted(&home.join("state")));
    let _ = writeln!(text, "controller: [\"{controller}:15012\"]");
    let _ = writeln!(text, "enrollToken: {}", quoted(&home.join("enroll.token")));
}

fn common(text: &mut String, plan: &Plan, (member, host): (MemberId, Host), home: &Path) {
    let _ = writeln!(text, "admin:\n  listen: \"{}\"", plan.admin(member, host));
    let _ = writeln!(text, "health:\n  listen: \"{}\"", plan.health(member, host));
    let _ = writeln!(text, "log:\n  file: {}\n  level: info", quoted(&home.join("log.jsonl")));
}

/// A path as a YAML string; JSON strings are YAML.
fn quoted(path: &Path) -> String {
    serde_json::Value::from(path.to_string_lossy().into_owned()).to_string()
}

/// A port of a sample service.
#[derive(Debug, Clone, Copy)]
pub struct Port {
    /// Its name.
    pub name: &'static str,
    /// What clients use.
    pub port: u16,
    /// Where the servers listen.
    pub target: u16,
    /// `TCP` or `UDP`.
    pub protocol: &'static str,
}

/// One exported service with its endpoints.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Service name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Its one port.
    pub port: Port,
    /// Pod name and address of each endpoint.
    pub pods: Vec<(String, Ipv4Addr)>,
    /// Whether the service is headless and its pods have names in DNS.
    pub headless: bool,
}

impl Sample {
    /// The Service, EndpointSlice and `ServiceExport` as one YAML text.
    #[must_use]
    pub fn yaml(&self) -> String {
        let (name, namespace) = (&self.name, &self.namespace);
        let Port { name: port_name, port, target, protocol } = self.port;
        let meta = format!("metadata:\n  name: {name}\n  namespace: {namespace}\n");
        let mut text = format!("apiVersion: v1\nkind: Service\n{meta}spec:\n");
        if self.headless {
            text.push_str("  clusterIP: None\n");
        }
        let _ = writeln!(
            text,
            "  ports:\n  - name: {port_name}\n    port: {port}\n    protocol: {protocol}\n    targetPort: {target}"
        );
        let _ = writeln!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-1\n  \
             namespace: {namespace}\n  labels:\n    kubernetes.io/service-name: {name}\naddressType: IPv4\n\
             ports:\n- name: {port_name}\n  port: {target}\n  protocol: {protocol}\nendpoints:"
        );
        for (pod, address) in &self.pods {
            let _ = writeln!(text, "- addresses: [\"{address}\"]\n  conditions:\n    ready: true");
            if self.headless {
                let _ = writeln!(text, "  hostname: {pod}");
            }
            let _ =
                writeln!(text, "  targetRef:\n    kind: Pod\n    name: {pod}\n    namespace: {namespace}");
        }
        let _ = writeln!(text, "---\napiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\n{meta}");
        text
    }

    /// The name under which every member finds it.
    #[must_use]
    pub fn fqdn(&self) -> String {
        format!("{}.{}.svc.clusterset.local", self.name, self.namespace)
    }
}
