//! Fuzzes `hansa_proto::fuzzing`, target `rows_routes`. Run by `fuzz/run`; never part of a test.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hansa_fuzz::run(
    hansa_proto::fuzzing::TARGETS,
    "rows_routes",
    data
));
