//! Kubernetes kinds, hansa's own kinds, and the JSON shown to people; converted to core values here.
//!
//! Called by the controller (sources, plan, control socket) and the command line. Never reads a file
//! and never talks to a server.

pub mod kinds;

pub mod convert;

pub mod view;

pub mod control;

pub mod fuzzing;
