//! Fuzzes `hansa_dns::fuzzing`, target `upstream`. Run by `fuzz/run`; never part of a test.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hansa_fuzz::run(hansa_dns::fuzzing::TARGETS, "upstream", data));
