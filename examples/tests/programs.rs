//! The example programs, run as their users run them.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    reason = "all of this is test code, and a failure is to be loud"
)]

use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;

/// Longest run of a program. A second is usual; the rest is for a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

macro_rules! program {
    ($name:literal) => {
        program(env!(concat!("CARGO_BIN_EXE_", $name)))
    };
}

fn program(path: &str) -> Command {
    let mut command = Command::new(path);
    command
        .stdin(Stdio::null())
        // They are for the programs' users; here they would only make the output unforeseeable.
        .env_remove("RUST_LOG")
        .env("RUST_BACKTRACE", "0")
        .kill_on_drop(true);
    command
}

async fn run(command: &mut Command) -> Output {
    tokio::time::timeout(LIMIT, command.output())
        .await
        .unwrap_or_else(|_| panic!("{command:?} did not end within {LIMIT:?}"))
        .unwrap()
}

/// What it printed, if it ended well.
async fn printed(command: &mut Command) -> String {
    let output = run(command).await;
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}{err}", output.status);
    out.into_owned()
}

/// `expected` must be in `text` in this order.
#[track_caller]
fn assert_in_order(text: &str, expected: &[&str]) {
    let mut rest = text;
    for part in expected {
        let Some((_, after)) = rest.split_once(part) else {
            panic!("no {part:?}, or not where it should be, in:\n{text}");
        };
        rest = after;
    }
}

#[tokio::test]
async fn heartbeat_finds_the_connection_dead_at_both_ends_and_makes_another() {
    let text = printed(&mut program!("heartbeat")).await;
    let consumer = [
        "consumer  Hello, world\n",
        " idle for 1.",
        "consumer  ping 1\n",
        "unanswered: 0, round trip: ",
        "forwards nothing any more",
        "consumer  connection closed, ",
        " pings missed: the peer is silent: nothing was read for 3",
        "consumer  HelloService/hello at tcp://127.0.0.1:",
        "nothing was read for 3",
        "consumer  Hello, again\n",
    ];
    assert_in_order(&text, &consumer);
    // Which of the two comes first is decided by the milliseconds between a write and the answer.
    for idle in ["consumer  Reader idle for 1.", "consumer  Writer idle for 1."] {
        assert_in_order(&text, &["consumer  Hello, world\n", idle, "forwards nothing any more"]);
    }
    for end in ["consumer", "provider"] {
        let (_, dead) = text.split_once("forwards nothing any more").unwrap();
        let closed = format!("{end}  connection closed, ");
        assert_in_order(dead, &[&closed, " pings missed: the peer is silent"]);
        let (_, missed) = dead.split_once(&closed).unwrap();
        let missed: u32 = missed.split(' ').next().unwrap().parse().unwrap();
        // One in each interval; a process that is held up may ask once more.
        assert!((2..=4).contains(&missed), "{end} missed {missed}:\n{text}");
    }
}

#[tokio::test]
async fn quickstart_gets_its_greeting_from_another_process_and_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    // With characters that have a meaning in URIs.
    let folder = temporary.path().join("a b%20#?");
    std::fs::create_dir(&folder).unwrap();
    let text = printed(program!("quickstart").env("TMPDIR", &folder).env("TMP", &folder)).await;
    assert_in_order(
        &text,
        &[
            "[provider ",
            "serving HelloService at tcp://127.0.0.1:",
            "{\"service\":\"HelloService\",",
            "[consumer ",
            "found HelloService at tcp://127.0.0.1:",
            "[consumer ",
            "Hello, world\n",
            "[provider ",
            "stopped",
            "no line of HelloService any more",
        ],
    );

    let pid = |role: &str| {
        let (_, rest) = text.split_once(&format!("[{role} ")).unwrap();
        rest.split_once(']').unwrap().0.parse::<u32>().unwrap()
    };
    assert_ne!(pid("provider"), pid("consumer"));
    // The consumer learned the provider's process id from the registry.
    assert!(text.contains(&format!(", process {}\n", pid("provider"))), "{text}");

    let left: Vec<_> = std::fs::read_dir(&folder).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn quickstart_says_why_it_failed_and_fails() {
    let temporary = tempfile::tempdir().unwrap();
    let missing = temporary.path().join("missing");
    let output = run(program!("quickstart").env("TMPDIR", &missing).env("TMP", &missing)).await;
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("cannot make a folder for the registry"), "{error}");
}

#[tokio::test]
async fn transfer_shows_what_it_promises() {
    let text = printed(&mut program!("transfer")).await;
    assert_in_order(
        &text,
        &[
            "a mock saw [(7, -30), (8, 30)]",
            "a local object: 8 has 30",
            "a provider at tcp://127.0.0.1:",
            ": 8 has 30",
            "Insufficient: account 7, balance 70",
            "[credit] asked by tcp://127.0.0.1:",
            " for acme, ",
            "acme has credit: 8 has 1030",
            "and 7 has -930",
            " for slow, ",
            "AccountService/add at tcp://127.0.0.1:",
            "the deadline passed",
            "safe to retry: false",
            "its audit: [\"the example is over\"]",
        ],
    );
}

const FAILOVER: [&str; 12] = [
    "[provider ",
    "serving at tcp://127.0.0.1:",
    "[provider ",
    " calls were answered by process ",
    " is killed while calls are made",
    "None failed; ",
    "50 more were answered by process ",
    "The registry took it off the list ",
    "Another provider takes its place",
    "50 calls were answered by process ",
    "Both are asked to stop",
    "The registry has no provider any more",
];

#[tokio::test]
async fn failover_goes_on_calling_when_a_provider_is_killed_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut failover = program!("failover");
    let text = printed(failover.env("TMPDIR", folder.path()).env("TMP", folder.path())).await;
    assert_in_order(&text, &FAILOVER);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn failover_runs_on_name_servers_too() {
    let server = rpc_nameserver::NameServer::builder()
        .grace(Duration::ZERO)
        .bind("tcp://127.0.0.1:0")
        .await
        .unwrap();
    let registry = server.local_uri().replace("tcp://", "nameserver://") + "?cache=off";
    let text = printed(program!("failover").args(["--registry", &registry])).await;
    assert_in_order(&text, &FAILOVER);
}

#[tokio::test]
async fn failover_says_what_is_wrong_with_a_registry() {
    for (uri, mention) in [
        ("nameserver://127.0.0.1:1?cache=off", "tcp://127.0.0.1:1"),
        ("nameserve://127.0.0.1:1", "did you mean \"nameserver\""),
    ] {
        let output = run(program!("failover").args(["--registry", uri])).await;
        assert!(!output.status.success());
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(mention), "{error}");
    }
}

#[tokio::test]
async fn tls_shows_what_it_promises() {
    let text = printed(&mut program!("tls")).await;
    assert_in_order(
        &text,
        &[
            "serving at tls://127.0.0.1:",
            "Hello, world: you are CN=consumer",
            "a client without a certificate is refused: ",
            "requires a certificate",
            "renewed: the provider is CN=provider (renewed)",
        ],
    );
}

/// A line `[ROLE PID] span ID of trace ID, child of span ID: NAME (KIND)` of the example
/// `interceptors`.
#[derive(Debug)]
struct Span<'t> {
    role: &'t str,
    id: &'t str,
    trace: &'t str,
    parent: &'t str,
    name: &'t str,
}

impl<'t> Span<'t> {
    fn parse(line: &'t str) -> Option<Self> {
        let (process, line) = line.trim_start().strip_prefix('[')?.split_once("] span ")?;
        let (id, line) = line.split_once(" of trace ")?;
        let (trace, line) = line.split_once(", child of ")?;
        let (parent, name) = line.split_once(": ")?;
        let (role, _) = process.split_once(' ')?;
        Some(Self { role, id, trace, parent: parent.trim_start_matches("span "), name })
    }
}

#[tokio::test]
async fn interceptors_refuse_by_token_and_role_and_a_trace_goes_on_in_all_three_processes() {
    let text = printed(&mut program!("interceptors")).await;
    assert_in_order(
        &text,
        &[
            "[stock ",
            "serving at tcp://127.0.0.1:",
            "[orders ",
            "serving at tcp://127.0.0.1:",
            "method=OrderService/place peer=Some(\"tcp://127.0.0.1:",
            "served_by=Some(\"node-7\")",
            "placed: 2 tea for ada, 98 left\n",
            "unauthenticated, safe to retry: true: OrderService/place at tcp://127.0.0.1:",
            "a bearer token is needed\n",
            "permission denied: AdminService/close_shop at tcp://127.0.0.1:",
            "ada does not have the role admin\n",
            "by ada: OrderService/place, ok, ",
            "by a stranger: OrderService/place, unauthenticated, ",
            "by ada: AdminService/close_shop, permission denied, ",
            "by ada: StockService/take, ok, ",
        ],
    );
    assert!(!text.contains("] closed"), "{text}");

    let request = |line: &str| {
        let (before, _) = text.split_once(line).unwrap();
        before.rsplit_once("request ").unwrap().1.to_owned()
    };
    let placed = request(" by ada: OrderService/place, ok");
    assert_eq!(placed, request(" by ada: StockService/take, ok"), "{text}");
    assert_ne!(placed, request(" by a stranger: OrderService/place"), "{text}");

    let spans: Vec<Span<'_>> = text.lines().filter_map(Span::parse).collect();
    let mut parent = "no span";
    let mut traces = Vec::new();
    for (role, name) in [
        ("gateway", "checkout (Internal)"),
        ("gateway", "OrderService/place (Client)"),
        ("orders", "OrderService/place (Server)"),
        ("orders", "StockService/take (Client)"),
        ("stock", "StockService/take (Server)"),
    ] {
        let found = spans
            .iter()
            .find(|span| (span.role, span.name, span.parent) == (role, name, parent))
            .unwrap_or_else(|| panic!("no {name} of {role} below {parent} in {spans:#?}"));
        parent = found.id;
        traces.push(found.trace);
    }
    traces.dedup();
    assert_eq!(traces.len(), 1, "{spans:#?}");
    // The two refused calls have their own.
    let others = spans.iter().filter(|span| span.trace != traces[0]).count();
    assert_eq!((spans.len(), others), (9, 4), "{spans:#?}");
}

#[tokio::test]
async fn a_consumer_finds_the_provider_of_the_other_terminal_and_misses_it_once_it_is_killed() {
    use tokio::io::{AsyncBufReadExt, BufReader};

    let temporary = tempfile::tempdir().unwrap();
    let registry = format!("file://{}", temporary.path().display());
    let mut provider = program!("hello-provider")
        .args(["--registry", &registry])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(provider.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(LIMIT, lines.next_line()).await.unwrap().unwrap().unwrap();
    assert!(line.starts_with("serving HelloService at tcp://127.0.0.1:"), "{line}");

    let text = printed(program!("hello-consumer").args(["--registry", &registry, "Ada"])).await;
    assert_in_order(&text, &["found HelloService at", "Hello, Ada\n"]);

    provider.kill().await.unwrap();
    let output = run(program!("hello-consumer").args(["--registry", &registry])).await;
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("no provider of HelloService"), "{error}");
}
