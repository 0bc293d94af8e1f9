//! Fuzzes `hansa_http3::fuzzing`, target `qpack_streams`. Run by `fuzz/run`; never part of a test.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hansa_fuzz::run(
    hansa_http3::fuzzing::TARGETS,
    "qpack_streams",
    data
));
