//! Outside referees: implementations we did not write, as clients and servers of ours. Ring
//! `referees`. A tool that is missing is a failure that says how to get it, never a skip.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod aioquic;
mod attacks;
mod codec_asks;
mod codec_hostile;
mod codec_serves;
mod envoy;
mod fabric;
mod gateway;
mod ours;
mod tools;
