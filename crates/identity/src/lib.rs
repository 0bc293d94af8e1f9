//! Identity and trust: SPIFFE certificates, the embedded CA, bundles, tokens and TLS configurations.
//!
//! Gateways, controllers, DNS servers and the CLI take everything about "who is that" from here.
//! Never pools the roots of two trust domains, never resumes a session, never sends early data, and
//! opens no socket: connections are made by those who use the configurations.

pub mod cert;
pub mod deny;

pub mod bundle;

pub mod ca;
pub mod rotate;

pub mod store;

pub mod verify;

pub mod tls;

pub mod token;

pub mod fuzzing;
