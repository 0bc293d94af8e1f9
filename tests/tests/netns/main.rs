//! What needs root and network namespaces: the network of a lab, what is seen on its links, a gateway's addresses
//! when it dies, what a demo leaves behind, and each promise of the demo broken on purpose. Run one at a time by
//! `make test RING=netns`; without root every test fails and says what to do. `ok:true` without a break is what
//! the demo ring shows for every step.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod addresses;
mod broken;
mod capture;
mod check;
mod contract;
mod neighbours;
mod network;
mod wan;

use std::path::PathBuf;

/// Fails where namespaces cannot be made: what did not run proved nothing.
fn needs_root() {
    let mode = hansa_lab::mode::choose(None);
    assert!(
        mode == hansa_lab::NetMode::Netns,
        "this ring makes network namespaces, here is only {}: run `make test RING=netns` as root, \
         with CAP_SYS_ADMIN and CAP_NET_ADMIN; `make check` is what runs without",
        mode.as_str()
    );
}

/// The binary beside this test, as `cargo build -p hansa-cli` leaves it.
fn binary() -> PathBuf {
    let mut path = std::env::current_exe().expect("own path");
    path.pop();
    path.pop();
    path.push("hansa");
    assert!(path.is_file(), "{} is not there: cargo build -p hansa-cli", path.display());
    path
}
