//! The server, in a process of its own.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use harness::Result;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use ours::{EchoServer, Service};
use rpc_runtime::Server;

/// Set for a process that is to be the server.
const SERVER: &str = "RPC_BENCH_SERVER";
/// More than any list has instances.
const MAX_CONNECTIONS: usize = 100_000;

pub(crate) fn is_server() -> bool {
    std::env::var_os(SERVER).is_some()
}

/// Each connection takes a file at either end.
pub(crate) fn allow_many_files() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

pub(crate) async fn serve() -> Result<()> {
    allow_many_files()?;
    let server = Server::builder()
        .provide(EchoServer::new(Service))
        .max_connections(MAX_CONNECTIONS)
        .bind("tcp://0.0.0.0:0")
        .await?;
    println!("{}", server.local_uri());
    // Ends with the process that started it.
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    server.serve_until(ended).await?;
    Ok(())
}

/// A server in a process of its own, which ends when this is dropped.
pub(crate) struct ServerProcess {
    child: Child,
    port: u16,
}

impl ServerProcess {
    pub(crate) fn start() -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .env(SERVER, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut uri = String::new();
        let stdout = child.stdout.take().ok_or("the server has no output")?;
        BufReader::new(stdout).read_line(&mut uri)?;
        let port = uri.trim().rsplit(':').next().unwrap_or_default().parse()?;
        Ok(Self { child, port })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It has ended, or is about to.
        let _ = self.child.wait();
    }
}
