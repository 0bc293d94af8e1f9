//! The vocabulary and the decisions of hansa.
//!
//! Everything here is a pure value or a pure function: no IO, no async, no clock, no randomness, no
//! environment and no logging. Time ([`Millis`]) and random draws are arguments, so every decision
//! can be replayed. The products convert at their doors and use these types inside.

pub mod code;
pub mod name;

pub mod spiffe;

pub mod locality;

pub mod catalog;

pub mod table;

pub mod merge;

pub mod mesh;

pub mod services;

pub mod reach;

pub mod route;

pub mod policy;

pub mod zone;

pub mod backoff;

pub mod fuzzing;

/// Milliseconds since the Unix epoch, or since any fixed start where only differences matter.
pub type Millis = u64;
