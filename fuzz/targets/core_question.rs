//! Fuzzes `hansa_core::fuzzing`, target `question`. Run by `fuzz/run`; never part of a test.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hansa_fuzz::run(hansa_core::fuzzing::TARGETS, "question", data));
