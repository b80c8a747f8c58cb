//! Connections that are opened, used once, and left alone.

use crate::{Args, Result};

/// The first connections pay for what a server sets up once, so they are not counted.
const UNCOUNTED: usize = 16;

/// Opens connections and keeps them. Prints how many there are when the first ones and when all
/// are open, and goes on each time when it is sent a line: the runner looks at the server meanwhile.
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
