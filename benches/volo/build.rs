//! Generates the contract with a parser in Rust, so no system tool is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=../schemas/echo.thrift");
    volo_build::Builder::thrift().add_service("../schemas/echo.thrift").write()?;
    Ok(())
}
