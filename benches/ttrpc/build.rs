//! Generates the contract with a parser in Rust, so no system tool is needed.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use ttrpc_codegen::{Codegen, Customize};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=../schemas/echo.proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    Codegen::new()
        .out_dir(&out)
        .input("../schemas/echo.proto")
        .include("../schemas")
        .rust_protobuf()
        .customize(Customize { async_all: true, ..Default::default() })
        .run()?;
    // The generated module file cannot be included.
    fs::write(out.join("contract.rs"), "pub mod echo;\npub mod echo_ttrpc;\n")?;
    Ok(())
}
