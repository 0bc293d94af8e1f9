//! The workspace's own tools: `tidy` holds the tree to its written rules, `rings` runs the tests
//! ring by ring and writes the report, `mutants` asks whether the tests notice faults.
//!
//! Called by the Makefile through `cargo run -p hansa-xtask`, and by this crate's own test. It
//! never changes a source file.

pub mod mutants;
pub mod rings;
pub mod tidy;
