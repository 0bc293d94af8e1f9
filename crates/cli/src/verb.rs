//! The verbs, one file each; each prints one value.

pub(crate) mod check;
pub(crate) mod completion;
pub(crate) mod config;
pub(crate) mod demo;
pub(crate) mod dns;
pub(crate) mod enroll;
pub(crate) mod explain;
pub(crate) mod get;
pub(crate) mod lab;
pub(crate) mod peer;
pub(crate) mod server;
pub(crate) mod services;
pub(crate) mod status;
pub(crate) mod trust;
pub(crate) mod version;
