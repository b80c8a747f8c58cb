//! The limits: frames of bytes are echoed over a socket, without serialization and dispatch.
//!
//! | variant of the client | what |
//! | --- | --- |
//! | `ping-pong` | one caller writes a frame and reads its answer |
//! | `pipelined` | one task for each connection keeps the frames of all callers under way |

pub mod frame;
mod ping_pong;
mod pipelined;
mod server;

use harness::work::{self, Workload};
use harness::{Args, Result, Role, drive};

/// The contestant.
pub fn run(args: &Args) -> Result<()> {
    let runtime = args.runtime()?;
    match (args.role, args.variant.as_str()) {
        (Role::Server, _) => runtime.block_on(server::serve(args.address)),
        (Role::Load, "pipelined") => runtime.block_on(pipelined::load(args)),
        (_, "ping-pong") => {
            let frame = request(args.workload)?;
            runtime.block_on(drive(args, async |address| {
                ping_pong::PingPong::connect(address, frame.clone()).await
            }))
        }
        (role, other) => Err(format!("no variant {other} in the role {role:?}").into()),
    }
}

/// The request frame, with as many bytes as the value of the workload has in compact MessagePack.
fn request(workload: Workload) -> Result<Vec<u8>> {
    let payload = match workload {
        Workload::Order => rmp_serde::to_vec(&work::order(1 << 40))?,
        Workload::Text => rmp_serde::to_vec(work::TEXT)?,
        Workload::Blob => work::blob().to_vec(),
        other => return Err(format!("nothing to echo in {other:?}").into()),
    };
    let mut out = Vec::new();
    frame::put(&mut out, 0, 0, &payload);
    Ok(out)
}
