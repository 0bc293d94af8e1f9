//! The gateway: moves bytes between clients, peers' gateways and the own cluster's endpoints.
//!
//! Run by the command line ([`Gateway::bind`], [`Gateway::run`]). It has two mouths, outbound (virtual
//! addresses of imported services) and inbound (requests of peers), with tunnels between them. It
//! never talks to Kubernetes and never decides who is a peer.

pub mod config;
pub mod fuzzing;
pub mod gateway;
pub mod tunnel;

mod dial;
mod explain;
mod follow;
mod inbound;
mod listen;
mod metrics;
mod outbound;
mod outcome;
mod plane;
mod reach;
mod relay;
mod report;
mod sibling;
mod splice;
mod table;
mod udp;
mod vip;

pub use config::Config;
pub use gateway::{Gateway, Process, StartError, Table};
pub use metrics::metric_rows;
