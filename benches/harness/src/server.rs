//! The report of a server's address, and its end.

use std::io::Read;
use std::net::SocketAddr;

use crate::Result;
use crate::allocations::print_totals;

/// Reports that the server listens at `address`. From then on, the process prints its totals and
/// ends when its standard input ends, so no server outlives the runner.
pub fn listening(address: SocketAddr) -> Result<()> {
    println!("{address}");
    std::thread::Builder::new().name("until-stdin-ends".into()).spawn(|| {
        let ended = std::io::stdin().read_to_end(&mut Vec::new()).is_ok();
        let printed = print_totals().is_ok();
        std::process::exit(i32::from(!(ended && printed)))
    })?;
    Ok(())
}
