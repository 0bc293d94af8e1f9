//! Mesh DNS: answers names of the clusterset from the zone, and forwards everything else.
//!
//! Called by the `hansa` binary (`hansa dns`) and by tests: [`Server::bind`], then [`Server::run`].
//! Never answers for `cluster.local` itself, and never says that a name does not exist before it
//! has a zone.

pub mod config;
pub mod fuzzing;
pub mod message;

mod answer;
mod forward;
mod metrics;
mod server;
mod tcp;
mod udp;
mod zone;

pub use answer::{Forward, Outcome, Responder, Via};
pub use config::Config;
pub use forward::Forwarder;
pub use metrics::DnsMetrics;
pub use server::{Process, RunError, Server, StartError};
pub use zone::{Served, Shelf};
