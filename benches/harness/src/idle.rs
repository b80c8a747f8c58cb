//! Connections that are opened, used once, and left alone.

use crate::{Args, Result};

/// The first connections cause one-time work of the server, so they are not counted.
const UNCOUNTED: usize = 16;

/// Opens connections and keeps them open. Prints their number when the first ones and when all are
/// open, and then waits for a line of input while the runner measures the server.
pub(crate) async fn run<T>(args: &Args, open: impl AsyncFn() -> Result<T>) -> Result<()> {
    let mut open_ones = Vec::new();
    for goal in [UNCOUNTED, UNCOUNTED + args.connections] {
        while open_ones.len() < goal {
            open_ones.push(open().await?);
        }
        println!("{goal}");
        tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await??;
    }
    Ok(())
}
