//! Compiles the `.proto` files to Rust with protox: no protoc is needed.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=proto");

    let files = protox::compile(["inference.proto"], ["proto"])?;
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out_dir.join("descriptor_set.bin"), files.encode_to_vec())?;

    tonic_prost_build::configure()
        // A payload is then a slice of the received message and not a copy of it.
        .bytes(".")
        // One order for everything that is printed, whatever the hash seed.
        .btree_map(".")
        .compile_fds(files)?;
    Ok(())
}
