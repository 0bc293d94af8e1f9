//! The codec over real QUIC on the loopback: between two of ours in both roles,
//! against raw bytes, and against the `h3` crate.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod datagrams;
mod goaway;
mod hostile;
mod interop;
mod limits;
mod net;
mod tunnel;
