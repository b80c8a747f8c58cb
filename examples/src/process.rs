//! Child processes that run this program in another role.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// Maximum time of each step. Usually a step takes milliseconds; the rest is for a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Completes when standard input is closed. Closing it is a portable way to stop a process. It is
/// also closed when the parent process ends, so a provider never outlives the example.
pub async fn end_of_input() {
    let mut ignored = Vec::new();
    // An error counts as the end.
    let _ = tokio::io::stdin().read_to_end(&mut ignored).await;
}

/// A child process that runs this program in another role. Killed when dropped.
pub struct Process {
    role: &'static str,
    /// The process id.
    pub pid: u32,
    child: Child,
    /// Closed to stop the process.
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts the process with these arguments.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn start(role: &'static str, args: &[&str]) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start the {role}"))?;
        let stdout = child.stdout.take().context("the child has no output")?;
        Ok(Self {
            role,
            pid: child.id().context("the child has no process id")?,
            stdin: child.stdin.take(),
            lines: BufReader::new(stdout).lines(),
            child,
        })
    }

    /// Prints the output of the process up to a line that contains `expected`.
    ///
    /// # Errors
    /// There is no such line within [`PATIENCE`], or the process ends before.
    pub async fn show_until(&mut self, expected: &str) -> anyhow::Result<()> {
        let seen = async {
            while let Some(line) = self.show_line().await? {
                if line.contains(expected) {
                    return Ok(());
                }
            }
            bail!("the {} ended before it printed {expected:?}", self.role)
        };
        timeout(PATIENCE, seen)
            .await
            .with_context(|| format!("no {expected:?} within {PATIENCE:?}"))?
    }

    /// Stops the process, prints its remaining output and waits for its end.
    ///
    /// # Errors
    /// The process does not end within [`PATIENCE`], or fails.
    pub async fn finish(&mut self) -> anyhow::Result<()> {
        drop(self.stdin.take());
        let ended = async {
            while self.show_line().await?.is_some() {}
            anyhow::Ok(self.child.wait().await?)
        };
        let status = timeout(PATIENCE, ended)
            .await
            .with_context(|| format!("the process did not end within {PATIENCE:?}"))??;
        ensure!(status.success(), "the {} failed: {status}", self.role);
        Ok(())
    }

    /// Kills the process, which has no chance to clean up.
    ///
    /// # Errors
    /// The system cannot kill it.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    async fn show_line(&mut self) -> anyhow::Result<Option<String>> {
        let line = self.lines.next_line().await?;
        if let Some(line) = &line {
            println!("   [{} {}] {line}", self.role, self.pid);
        }
        Ok(line)
    }
}
