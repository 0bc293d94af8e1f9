//! Tests of hansa-identity through its public interface, real handshakes over TCP and QUIC included.
//!
//! Needs nothing but the loopback interface; no test waits for time to pass.

#[cfg(test)]
mod fixture;

#[cfg(test)]
mod authority;
#[cfg(test)]
mod bundles;
#[cfg(test)]
mod files;
#[cfg(test)]
mod hostile_bytes;
#[cfg(test)]
mod quic;
#[cfg(test)]
mod tcp;
#[cfg(test)]
mod tokens;
#[cfg(test)]
mod verification;
