//! Fuzzes `hansa_gateway::fuzzing`, target `connect`. Run by `fuzz/run`; never part of a test.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hansa_fuzz::run(hansa_gateway::fuzzing::TARGETS, "connect", data));
