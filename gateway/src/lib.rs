//! Placeholder.

pub mod tunnel;
