//! What a server tells the runner, and how it ends.

use std::io::Read;
use std::net::SocketAddr;

use crate::Result;
use crate::allocations::print_totals;

/// Says that the server listens at `address`. From now on the process ends, with its totals
/// printed, when its standard input does: so no server outlives its runner.
pub fn listening(address: SocketAddr) -> Result<()> {
    println!("{address}");
    std::thread::Builder::new().name("until-stdin-ends".into()).spawn(|| {
        let ended = std::io::stdin().read_to_end(&mut Vec::new()).is_ok();
        let printed = print_totals().is_ok();
        std::process::exit(i32::from(!(ended && printed)))
    })?;
    Ok(())
}
