//! A program that plays several roles, in processes of its own.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// How long each step may take. Milliseconds do; the rest is for a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Ready when standard input ends: the way to ask a process to stop that works on every system.
/// It also ends with the process at the other end, so a provider never outlives the example.
pub async fn end_of_input() {
    let mut ignored = Vec::new();
    // An input that fails is as much at its end as one that is closed.
    let _ = tokio::io::stdin().read_to_end(&mut ignored).await;
}

/// This program in another process and another role. Killed when dropped.
pub struct Process {
    role: &'static str,
    /// Its id.
    pub pid: u32,
    child: Child,
    /// Closing it asks the process to stop.
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts it with these arguments.
    ///
    /// # Errors
    /// It can't be started.
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

    /// Shows what the process prints, up to a line that contains `expected`.
    ///
    /// # Errors
    /// There is none within [`PATIENCE`], or the process ends first.
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

    /// Asks the process to stop, and shows what it prints until it has ended well.
    ///
    /// # Errors
    /// It does not within [`PATIENCE`], or fails.
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

    /// Kills it: it can't do anything about it, nor say anything.
    ///
    /// # Errors
    /// The system refuses.
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
