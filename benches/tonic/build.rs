//! Generates the contract. protox stands in for protoc, so no tool of the system is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=../schemas/echo.proto");
    let descriptors = protox::compile(["echo.proto"], ["../schemas"])?;
    Ok(tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?)
}
