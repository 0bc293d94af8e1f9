//! Fuzzes `hansa_identity::fuzzing`, target `signing_request`. Run by `fuzz/run`; never part of a test.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hansa_fuzz::run(
    hansa_identity::fuzzing::TARGETS,
    "signing_request",
    data
));
