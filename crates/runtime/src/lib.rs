//! What every server and command of the workspace needs around its own work: configuration,
//! logs, the admin endpoint, readiness, drain, owned tasks, metrics plumbing and careful files.
//!
//! Called by the gateway, the controller, the DNS server and the command line. It knows nothing
//! of clusters, services or tunnels, and never will: a domain word here is a mistake.

pub mod admin;
pub mod config;
pub mod drain;
pub mod files;
pub mod fuzzing;
pub mod limits;
pub mod logs;
pub mod metrics;
pub mod ready;
pub mod settings;
pub mod shards;
pub mod source;
pub mod tasks;
pub mod units;
