//! Fuzzes `hansa_api::fuzzing`, target `manifests`. Run by `fuzz/run`; never part of a test.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hansa_fuzz::run(hansa_api::fuzzing::TARGETS, "manifests", data));
