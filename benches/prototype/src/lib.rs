//! A minimal RPC, the reference for the framework.
//!
//! The client combines the frames of its callers into one write. The server handles all requests of
//! a read in place and answers with one write. There are no deadlines, no cancellation, no
//! back-pressure and almost no errors. It shows the possible speed and is not a design to copy.
//!
//! | variant | what |
//! | --- | --- |
//! | `none` | bytes are echoed |
//! | `rmp` | values are serialized with rmp-serde, as arrays |

mod client;
mod server;
mod writer;

use std::sync::{Mutex, MutexGuard, PoisonError};

use harness::{Args, Result, Role, drive};

/// The method numbers in a frame.
const BYTES: u64 = 0;
const ORDER: u64 = 1;
const TEXT: u64 = 2;
const NUMBER: u64 = 3;

/// The contestant.
pub fn run(args: &Args) -> Result<()> {
    let serialized = match args.variant.as_str() {
        "none" => false,
        "rmp" => true,
        other => return Err(format!("unknown variant {other}").into()),
    };
    let runtime = args.runtime()?;
    match args.role {
        Role::Server => runtime.block_on(server::serve(args.address)),
        _ => runtime.block_on(drive(args, async |address| {
            client::Client::connect(address, serialized).await
        })),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
