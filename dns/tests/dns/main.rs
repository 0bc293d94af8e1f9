//! The DNS server: in memory, over real sockets, and behind a controller.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod answers;
mod controller;
mod fixture;
mod forwarding;
mod hostile;
mod sockets;
