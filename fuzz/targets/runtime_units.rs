//! Fuzzes `hansa_runtime::fuzzing`, target `units`. Run by `fuzz/run`; never part of a test.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hansa_fuzz::run(hansa_runtime::fuzzing::TARGETS, "units", data));
