//! A gateway without file descriptors: it waits, says so, and serves everyone once there are some.
//!
//! A test binary of its own, because the limit holds for the whole process.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "loopback/world.rs"]
#[expect(dead_code, reason = "shared with the other loopback tests, which use all of it")]
mod world;

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

use world::{Echo, LONG, World};

const CLIENTS: usize = 60;

fn limit(soft: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(soft), maximum }).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_descriptors_clients_wait_and_are_served_later() {
    let mut world = World::start(&[("a", 1), ("b", 1)]).await;
    let echo = Echo::start("b:").await;
    world.member("b").export("shop/web", &[echo.port]);
    world.publish().await;
    world.connected("a").await;
    let vip = world.vip("a", "shop/web");
    let open = |_| Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let clients: Vec<Socket> = (0..CLIENTS).map(open).collect();
    let before = getrlimit(Resource::Nofile).current.unwrap_or(1 << 16);
    let highest = clients.iter().map(AsRawFd::as_raw_fd).max().unwrap();
    limit(highest as u64 + 2);
    for client in &clients {
        client.connect(&vip.into()).unwrap();
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    limit(before);
    let asked = tokio::task::spawn_blocking(move || {
        for mut client in clients {
            client.set_read_timeout(Some(LONG)).unwrap();
            client.write_all(b"x").unwrap();
            let mut answer = [0; 3];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"b:x");
        }
    });
    asked.await.unwrap();
    let exhausted = world.members[0].nodes[0].metric("hansa_accept_exhausted_total").await;
    assert!(exhausted >= 1.0, "{exhausted}");
}
