//! The federation controller: moves objects. Sources, peers, merge, certificate authority, feed.
//!
//! Called by the `hansa` binary (`hansa controller`) and by tests. Never touches application traffic.

pub mod config;

pub mod leftovers;
pub mod store;

pub mod authority;
pub mod secrets;

pub mod source;

pub mod index;

pub mod roster;

pub mod nodes;

pub mod vips;

pub mod project;

pub mod feeds;

pub mod fuse;

pub mod listen;
pub mod serve;

pub mod relay;

pub mod peers;

pub mod join;

pub mod plan;

pub mod status;

pub mod control;

pub mod endpoint;

pub mod metrics;

pub mod controller;

pub use config::Config;
pub use controller::{Controller, Process, StartError};
