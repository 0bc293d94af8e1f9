//! Tests of the tunnels through their public interface, with real QUIC and TCP over loopback.
//!
//! Every member has its own CA. Nothing waits for time to pass where a condition can be awaited.

#[cfg(test)]
#[path = "../loopback/logged.rs"]
mod logged;
#[cfg(test)]
mod member;
#[cfg(test)]
mod relay;

#[cfg(test)]
mod access;
#[cfg(test)]
mod early;
#[cfg(test)]
mod failures;
#[cfg(test)]
mod requests;
