//! Addresses on three hosts (network namespaces) on one switch. Runs as root only: elsewhere there
//! is nothing to look at. The test runs itself again inside the namespaces.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{announce, route};

const VIP: &str = "10.97.1.7:8080";
const ROLE: &str = "HANSA_VIP_TEST_ROLE";

fn ip(line: &str) -> bool {
    Command::new("ip").args(line.split(' ')).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

struct Hosts(String);

impl Hosts {
    fn new() -> Option<Self> {
        let tag = format!("hvt{}", std::process::id());
        if !rustix::process::geteuid().is_root() || !ip(&format!("netns add {tag}-s")) {
            return None;
        }
        let hosts = Self(tag.clone());
        let mut good = ip(&format!("-n {tag}-s link add br0 type bridge forward_delay 0"));
        good &= ip(&format!("-n {tag}-s link set br0 up"));
        for (n, host) in ["c", "1", "2"].into_iter().enumerate() {
            good &= ip(&format!("netns add {tag}-{host}"));
            good &=
                ip(&format!("link add eth0 netns {tag}-{host} type veth peer name p{host} netns {tag}-s"));
            good &= ip(&format!("-n {tag}-s link set p{host} master br0 up"));
            good &= ip(&format!("-n {tag}-{host} link set lo up"));
            good &= ip(&format!("-n {tag}-{host} link set eth0 up"));
            good &= ip(&format!("-n {tag}-{host} addr add 10.0.0.{}/24 dev eth0", n + 1));
            good &= ip(&format!("-n {tag}-{host} route add 10.97.0.0/16 dev eth0"));
        }
        good.then_some(hosts)
    }

    fn start(&self, host: &str, role: &str) -> Child {
        let exe = std::env::current_exe().unwrap();
        let namespace = format!("{}-{host}", self.0);
        Command::new("ip")
            .args(["netns", "exec", &namespace])
            .arg(exe)
            .args(["vip::tests::inside", "--exact", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for host in ["c", "1", "2", "s"] {
            ip(&format!("netns del {}-{host}", self.0));
        }
    }
}

/// Waits for a line that ends so, and returns it.
fn line(child: &mut Child, word: &str) -> String {
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    lines.find_map(|line| line.ok().filter(|line| line.contains(word))).unwrap_or_default()
}

#[test]
fn a_dead_hosts_addresses_move_to_its_sibling_within_a_second() {
    let Some(hosts) = Hosts::new() else { return };
    let mut first = hosts.start("1", "gateway 10.0.0.2");
    line(&mut first, "up");
    let mut client = hosts.start("c", "client");
    assert!(line(&mut client, "reached").contains("10.0.0.2"));
    first.kill().unwrap();
    first.wait().unwrap();
    let begun = Instant::now();
    let mut second = hosts.start("2", "gateway 10.0.0.3");
    line(&mut second, "up");
    client.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    assert!(line(&mut client, "reached").contains("10.0.0.3"));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    for mut child in [second, client] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// Not a test by itself: what runs inside a namespace.
#[tokio::test]
async fn inside() {
    let Ok(role) = std::env::var(ROLE) else { return };
    match role.strip_prefix("gateway ") {
        Some(own) => gateway(own),
        None => client(),
    }
}

fn gateway(own: &str) {
    let _device = route::Device::new(&["10.97.1.0/24".parse().unwrap()]).unwrap();
    let near: IpAddr = own.parse().unwrap();
    let announcer = announce::Announcer::new(None, &[near]).unwrap();
    let listener = TcpListener::bind(VIP).unwrap();
    announcer.send(&["10.97.1.7".parse().unwrap()]).unwrap();
    println!("up");
    for stream in listener.incoming() {
        stream.unwrap().write_all(format!("{own}\n").as_bytes()).unwrap();
    }
}

/// Connects until it works, says to whom, and begins again after a line.
fn client() {
    loop {
        loop {
            let Ok(stream) = TcpStream::connect_timeout(&VIP.parse().unwrap(), Duration::from_millis(100))
            else {
                continue;
            };
            let mut name = String::new();
            if BufReader::new(stream).read_line(&mut name).is_ok() && !name.is_empty() {
                println!("reached {name}");
                break;
            }
        }
        let mut go = String::new();
        std::io::stdin().read_line(&mut go).unwrap();
    }
}
