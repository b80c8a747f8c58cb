//! An etcd cluster.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::{Process, free_ports, is_installed, until};

pub(crate) struct Etcd {
    folder: tempfile::TempDir,
    /// Of clients and of peers.
    ports: Vec<[u16; 2]>,
    processes: Vec<Option<Process>>,
    /// Added to the command line.
    options: Vec<String>,
    scheme: &'static str,
    /// Added to the command line of `etcdctl`.
    pub(crate) control: Vec<String>,
}

impl Etcd {
    /// Starts so many nodes and waits until they serve; `None` if etcd is not installed.
    pub(crate) async fn start(nodes: usize) -> Option<Self> {
        Self::start_with(nodes, "http", Vec::new(), Vec::new()).await
    }

    /// One node that clients talk to over TLS, with these options for it and for `etcdctl`.
    pub(crate) async fn start_tls(options: Vec<String>, control: Vec<String>) -> Option<Self> {
        Self::start_with(1, "https", options, control).await
    }

    async fn start_with(
        nodes: usize,
        scheme: &'static str,
        options: Vec<String>,
        control: Vec<String>,
    ) -> Option<Self> {
        let packages = "etcd-server etcd-client";
        if !is_installed("etcd", packages) || !is_installed("etcdctl", packages) {
            return None;
        }
        let mut failures = Vec::new();
        // Someone else on this machine may take a port before etcd does.
        while failures.len() < 3 {
            let mut etcd = Self {
                folder: tempfile::tempdir().unwrap(),
                ports: (0..nodes).map(|_| free_ports()).collect(),
                processes: (0..nodes).map(|_| None).collect(),
                options: options.clone(),
                scheme,
                control: control.clone(),
            };
            (0..nodes).for_each(|node| etcd.start_node(node));
            match etcd.serves().await {
                Ok(()) => return Some(etcd),
                Err(ended) => failures.push(ended),
            }
        }
        panic!("etcd does not start: {failures:#?}");
    }

    /// Starts a node that does not run, with the data it has.
    pub(crate) fn start_node(&mut self, node: usize) {
        let [clients, peers] = self.ports[node];
        let clients = format!("{}://127.0.0.1:{clients}", self.scheme);
        let peers = format!("http://127.0.0.1:{peers}");
        let members = self.ports.iter().enumerate();
        let cluster = members.map(|(n, [_, port])| format!("n{n}=http://127.0.0.1:{port}"));
        let cluster = cluster.collect::<Vec<_>>().join(",");
        let mut command = Command::new("etcd");
        command
            .args(["--name", &format!("n{node}"), "--data-dir"])
            .arg(self.data(node))
            .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
            .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
            .args(["--initial-cluster", &cluster, "--initial-cluster-state", "new"])
            .args(&self.options);
        let log = self.folder.path().join(format!("n{node}.log"));
        self.processes[node] = Some(Process::start(&mut command, &log));
    }

    /// Kills a node.
    pub(crate) fn stop_node(&mut self, node: usize) {
        self.processes[node] = None;
    }

    /// The process of a node that runs.
    pub(crate) fn node(&self, node: usize) -> &Process {
        self.processes[node].as_ref().expect("it runs")
    }

    /// Takes all that a stopped node has stored.
    pub(crate) fn wipe(&self, node: usize) {
        assert!(self.processes[node].is_none());
        fs::remove_dir_all(self.data(node)).unwrap();
    }

    /// Waits until all nodes that run can serve.
    pub(crate) async fn ready(&mut self) {
        self.serves().await.unwrap_or_else(|ended| panic!("etcd has ended: {ended}"));
    }

    async fn serves(&mut self) -> Result<(), String> {
        let mut ended = None;
        until("etcd serves", Duration::from_secs(30), async || {
            ended = self.processes.iter_mut().flatten().find_map(Process::has_ended);
            let health = ["endpoint", "health", "--endpoints", &self.running()];
            ended.is_some() || self.run(&health).is_ok()
        })
        .await;
        ended.map_or(Ok(()), Err)
    }

    /// The node that leads the others.
    pub(crate) fn leader(&self) -> usize {
        let endpoints = self.running();
        let status = self.control(&["endpoint", "status", "-w", "json", "--endpoints", &endpoints]);
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let leads =
            |it: &&serde_json::Value| it["Status"]["leader"] == it["Status"]["header"]["member_id"];
        let leader = status.as_array().unwrap().iter().find(leads).expect("there is a leader");
        let port = leader["Endpoint"].as_str().unwrap().rsplit(':').next().unwrap();
        self.ports.iter().position(|[clients, _]| clients.to_string() == port).unwrap()
    }

    /// Runs `etcdctl`.
    pub(crate) fn control(&self, arguments: &[&str]) -> String {
        let endpoints = self.running();
        let arguments = match arguments.contains(&"--endpoints") {
            true => arguments.to_vec(),
            false => [arguments, &["--endpoints", &endpoints]].concat(),
        };
        self.run(&arguments).unwrap_or_else(|error| panic!("etcdctl {arguments:?}: {error}"))
    }

    /// A registry's URI, with all nodes; credentials end in an `@`.
    pub(crate) fn uri(&self, credentials: &str, rest: &str) -> String {
        let hosts = self.ports.iter().map(|[port, _]| format!("127.0.0.1:{port}"));
        format!("etcd://{credentials}{}{rest}", hosts.collect::<Vec<_>>().join(","))
    }

    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(arguments).args(&self.control);
        let output = command.output().unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout).unwrap()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    fn running(&self) -> String {
        let running = self.ports.iter().zip(&self.processes).filter(|(_, it)| it.is_some());
        let urls = running.map(|([port, _], _)| format!("{}://127.0.0.1:{port}", self.scheme));
        urls.collect::<Vec<_>>().join(",")
    }

    fn data(&self, node: usize) -> PathBuf {
        self.folder.path().join(format!("n{node}"))
    }
}
