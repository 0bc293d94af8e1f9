//! Fuzzes `hansa_identity::fuzzing`, target `ca_state`. Run by `fuzz/run`; never part of a test.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hansa_fuzz::run(hansa_identity::fuzzing::TARGETS, "ca_state", data));
