//! The processes of the contestants. None outlives the runner.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use harness::report::Totals;
use harness::{Result, Role, Threads};

use crate::contestants::Contestant;

/// Maximum time for the start or the end of a process.
const PATIENCE: Duration = Duration::from_secs(20);

/// The folder of the programs.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    folder: PathBuf,
}

/// The way in which a contestant's program runs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Run<'a> {
    AsItIs,
    /// With a counting allocator.
    Counted,
    /// Under callgrind, which writes to this file.
    Callgrind(&'a Path),
}

impl Programs {
    /// The programs in the folder of this one.
    pub(crate) fn beside_this_one() -> Result<Self> {
        let mut folder = std::env::current_exe()?;
        folder.pop();
        Ok(Self { folder })
    }

    /// The command that runs a contestant in a role. Further arguments may follow.
    pub(crate) fn command(&self, run: Run<'_>, contestant: &Contestant, role: Role) -> Command {
        let program = self.folder.join(contestant.binary);
        let mut command = match run {
            Run::AsItIs => Command::new(program),
            Run::Counted => {
                let mut command = Command::new(self.folder.join("counted"));
                command.arg(contestant.binary);
                command
            }
            Run::Callgrind(out) => {
                let mut command = Command::new("valgrind");
                command.arg("--quiet").arg("--tool=callgrind");
                command.arg(format!("--callgrind-out-file={}", out.display())).arg(program);
                command
            }
        };
        command.arg(name_of(role));
        option(&mut command, "variant", contestant.variant);
        option(&mut command, "threads", name_of(contestant.threads));
        command
    }

    /// Like [`command`](Self::command), with both ends on tokio's current-thread runtime, so that
    /// counts do not depend on races.
    pub(crate) fn on_one_thread(
        &self,
        run: Run<'_>,
        contestant: &Contestant,
        role: Role,
    ) -> Command {
        self.command(run, &Contestant { threads: Threads::One, ..*contestant }, role)
    }
}

/// Adds `--name value`.
pub(crate) fn option(command: &mut Command, name: &str, value: impl AsRef<OsStr>) {
    command.arg(format!("--{name}")).arg(value);
}

/// The name of a value of the contestants' arguments.
pub(crate) fn name_of(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// A process that prints lines. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Process {
    pub(crate) fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| {
            format!("{} does not start: {error}", command.get_program().display())
        })?;
        let input = child.stdin.take();
        let output = child.stdout.take().ok_or("a process without output")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(|line| line.ok()) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, input, lines })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line of its output.
    pub(crate) fn line(&self, patience: Duration) -> Result<String> {
        self.lines.recv_timeout(patience).map_err(|error| match error {
            RecvTimeoutError::Timeout => "it takes too long".into(),
            RecvTimeoutError::Disconnected => "it ended early".into(),
        })
    }

    /// Sends a line to its input.
    pub(crate) fn go_on(&mut self) -> Result<()> {
        let input = self.input.as_mut().ok_or("its input is closed")?;
        Ok(input.write_all(b"\n")?)
    }

    /// Waits for its end and returns its last line.
    pub(crate) fn finish(mut self, patience: Duration) -> Result<String> {
        let deadline = Instant::now() + patience;
        drop(self.input.take());
        let mut last = String::new();
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => last = line,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => return Err("it takes too long".into()),
            }
        }
        // Its output has ended, so it ends soon.
        let status = self.child.wait()?;
        if status.success() { Ok(last) } else { Err(format!("it failed: {status}").into()) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails if it has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A contestant's server.
pub(crate) struct Server {
    process: Process,
    pub(crate) address: String,
}

impl Server {
    pub(crate) fn start(command: Command) -> Result<Self> {
        let process = Process::start(command)?;
        let address = process.line(PATIENCE).map_err(|error| format!("its server: {error}"))?;
        Ok(Self { process, address })
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn stop(self) -> Result<Totals> {
        Ok(serde_json::from_str(&self.process.finish(PATIENCE)?)?)
    }
}

/// Runs a contestant's client to its end and returns its last line.
pub(crate) fn client(command: Command, patience: Duration) -> Result<String> {
    Process::start(command)?.finish(patience).map_err(|error| format!("its client: {error}").into())
}

/// Prints the error of a failed measurement and returns `None`, so that the others continue.
pub(crate) fn unless_it_fails<T>(
    what: &str,
    contestant: &Contestant,
    measured: Result<T>,
) -> Option<T> {
    measured.map_err(|error| eprintln!("{what}, {}: left out: {error}", contestant.name)).ok()
}
