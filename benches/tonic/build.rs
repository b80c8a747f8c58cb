//! Generates the contract with protox in place of protoc, so no system tool is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=../schemas/echo.proto");
    let descriptors = protox::compile(["echo.proto"], ["../schemas"])?;
    Ok(tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?)
}
