//! A ZooKeeper ensemble.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rpc_registry::testing::{Fixture, Outage};
use rpc_registry::{BoxFuture, Registry, RegistryError, connect};

use super::{Process, free_ports, is_installed};

/// Where Debian's package has it.
const JAR: &str = "/usr/share/java/zookeeper.jar";
/// How long servers may take to start on a machine that has other things to do.
const START: Duration = Duration::from_secs(60);

/// As a fixture, the registry with the root `/test`.
pub(crate) struct ZooKeeper {
    folder: tempfile::TempDir,
    /// For clients, for followers, and for elections.
    ports: Vec<[u16; 3]>,
    processes: Mutex<Vec<Option<Process>>>,
    /// Of the URI.
    parameters: String,
}

impl ZooKeeper {
    /// Starts so many servers and waits until they serve; `None` if ZooKeeper is not installed.
    pub(crate) async fn start(servers: usize, parameters: &str) -> Option<Self> {
        if !is_installed(JAR, "zookeeper") {
            return None;
        }
        let zookeeper = Self {
            folder: tempfile::tempdir().unwrap(),
            ports: (0..servers).map(|_| free_ports()).collect(),
            processes: Mutex::new((0..servers).map(|_| None).collect()),
            parameters: parameters.to_owned(),
        };
        zookeeper.run().await;
        Some(zookeeper)
    }

    /// Starts those that don't run, with the data they have, and waits until all serve.
    pub(crate) async fn run(&self) {
        for server in 0..self.ports.len() {
            let is_down = self.processes()[server].is_none();
            if is_down {
                let process = self.start_one(server);
                self.processes()[server] = Some(process);
            }
        }
        let begun = Instant::now();
        while (0..self.ports.len()).any(|server| self.mode(server).is_none()) {
            self.processes().iter_mut().flatten().for_each(Process::assert_runs);
            assert!(begun.elapsed() < START, "ZooKeeper does not serve within {START:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Kills all.
    pub(crate) fn kill(&self) {
        self.processes().iter_mut().for_each(|process| *process = None);
    }

    /// Kills the one that leads the others.
    pub(crate) fn kill_leader(&self) {
        let leads = |server: &usize| self.mode(*server).as_deref() == Some("leader");
        let leader = (0..self.ports.len()).find(leads).expect("there is a leader");
        self.processes()[leader] = None;
    }

    /// Stops all in their tracks.
    pub(crate) fn freeze(&self) {
        self.processes().iter().flatten().for_each(Process::freeze);
    }

    /// Lets all go on.
    pub(crate) fn thaw(&self) {
        self.processes().iter().flatten().for_each(Process::thaw);
    }

    /// Takes all that the killed servers have stored.
    pub(crate) fn wipe(&self) {
        for server in 0..self.ports.len() {
            assert!(self.processes()[server].is_none());
            fs::remove_dir_all(self.data(server)).unwrap();
        }
    }

    /// `host:port` of each server, separated by commas.
    pub(crate) fn servers(&self) -> String {
        let servers = self.ports.iter().map(|[port, ..]| format!("127.0.0.1:{port}"));
        servers.collect::<Vec<_>>().join(",")
    }

    /// A registry's URI; credentials end in an `@`.
    pub(crate) fn uri(&self, credentials: &str, root: &str) -> String {
        format!("zookeeper://{credentials}{}/{root}?{}", self.servers(), self.parameters)
    }

    /// Another connection to the registry `/test`.
    pub(crate) async fn registry(&self) -> Arc<dyn Registry> {
        connect(self.uri("", "test")).await.unwrap()
    }

    /// One that believes every list.
    pub(crate) async fn unprotected(&self) -> Arc<dyn Registry> {
        connect(self.uri("", "test") + "&protect_percent=100").await.unwrap()
    }

    fn start_one(&self, server: usize) -> Process {
        let folder = self.folder.path();
        let data = self.data(server);
        fs::create_dir_all(&data).unwrap();
        fs::write(data.join("myid"), server.to_string()).unwrap();
        let [port, ..] = self.ports[server];
        let mut config = format!(
            "tickTime=200\ninitLimit=50\nsyncLimit=25\ndataDir={}\nclientPort={port}\n\
             clientPortAddress=127.0.0.1\nadmin.enableServer=false\n\
             4lw.commands.whitelist=srvr\nmaxClientCnxns=0\n",
            data.display(),
        );
        if self.ports.len() > 1 {
            for (server, [_, peers, election]) in self.ports.iter().enumerate() {
                config.push_str(&format!("server.{server}=127.0.0.1:{peers}:{election}\n"));
            }
        }
        let path = folder.join(format!("{server}.cfg"));
        fs::write(&path, config).unwrap();
        let mut command = Command::new("java");
        command
            .args(["-Xmx96m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            // Services that are empty go soon; a killed server keeps what it has written.
            .args(["-Dznode.container.checkIntervalMs=500", "-Dzookeeper.forceSync=no"])
            .args(["-cp", JAR, "org.apache.zookeeper.server.quorum.QuorumPeerMain"])
            .arg(path)
            .current_dir(folder);
        Process::start(&mut command, &folder.join(format!("{server}.log")))
    }

    /// `standalone`, `leader` or `follower`; `None` if it does not serve.
    fn mode(&self, server: usize) -> Option<String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[server][0]));
        let second = Duration::from_secs(1);
        let mut stream = TcpStream::connect_timeout(&address, second).ok()?;
        stream.set_read_timeout(Some(second)).ok()?;
        stream.write_all(b"srvr").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let mode = answer.lines().find_map(|line| line.strip_prefix("Mode: "))?;
        Some(mode.to_owned())
    }

    fn data(&self, server: usize) -> PathBuf {
        self.folder.path().join(format!("data{server}"))
    }

    fn processes(&self) -> MutexGuard<'_, Vec<Option<Process>>> {
        self.processes.lock().unwrap()
    }
}

impl Fixture for ZooKeeper {
    fn connect(&self) -> BoxFuture<'_, Result<Arc<dyn Registry>, RegistryError>> {
        Box::pin(async { connect(self.uri("", "test")).await })
    }
}

impl Outage for ZooKeeper {
    fn stop(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.kill() })
    }

    fn start(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.run())
    }
}
