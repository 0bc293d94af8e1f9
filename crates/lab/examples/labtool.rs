//! The hidden verbs `hansa lab …` as a program of its own, so that the lab's parts can be tested alone.
//! Used by `tests/parts.rs`; the product's binary calls the same two functions.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(2).collect();
    match hansa_lab::tools::parse(&args) {
        Ok(tool) => hansa_lab::tools::run(tool),
        Err(e) => {
            eprintln!("{e:#}");
            ExitCode::from(64)
        }
    }
}
