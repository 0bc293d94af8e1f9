//! Turns the `.proto` files into Rust, without protoc. Run by cargo only.

use std::error::Error;

const FILES: [&str; 7] = [
    "hansa/common/v1/common.proto",
    "hansa/catalog/v1/catalog.proto",
    "hansa/routes/v1/routes.proto",
    "hansa/zone/v1/zone.proto",
    "hansa/feed/v1/feed.proto",
    "hansa/trust/v1/trust.proto",
    "hansa/join/v1/join.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .skip_debug(["hansa.trust.v1.EnrollRequest"])
        .include_file("hansa.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
