//! A gateway as a process of its own, attacked by somebody who holds a valid certificate of a
//! peer, or a bad one: it stays within 256 MiB, says why, and serves everyone else meanwhile.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "../tunnel/member.rs"]
#[expect(dead_code, reason = "shared with the tests of the tunnels, which use all of it")]
mod member;

mod attacker;
mod certificates;
mod floods;
mod victim;
