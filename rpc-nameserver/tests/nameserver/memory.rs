//! What one client can make the program take.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "all of this is test code")]
#![cfg(target_os = "linux")]

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use crate::common::{instance, within};
use rpc_nameserver::{Change, NameError, NameService, NameServiceClient, Why, pack};
use rpc_registry::Instance;
use rpc_runtime::{Blob, Client};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// What the program says that it takes, and what a process has besides.
const LIMIT: usize = (256 + 64) << 20;

async fn serve() -> (Child, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rpc-nameserver"));
    command.args(["--listen", "tcp://127.0.0.1:0", "--grace", "0s"]).env_remove("RUST_LOG");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = within(lines.next_line()).await.unwrap().unwrap();
    (child, line.strip_prefix("name server at ").unwrap().to_owned())
}

/// The most that the process ever had in memory, in bytes.
fn peak(child: &Child) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id().unwrap())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

async fn stub(place: &str) -> NameServiceClient {
    let client = Client::builder().max_payload(64 << 20).timeout(Duration::from_secs(90));
    NameServiceClient::new(client.connect(place).await.unwrap())
}

/// Short instances, as many as fit.
fn report_of(bytes: usize) -> Blob {
    let register =
        |n: usize| Change::Register { instance: instance(&n.to_string()), new: true, secret: None };
    let each = pack(&register(0)).unwrap().len() + 4;
    pack(&(0..bytes / each).map(register).collect::<Vec<_>>()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_of_any_size_takes_no_more_than_the_program_says() {
    let (child, place) = serve().await;
    let stub = stub(&place).await;
    let _session = stub.attend(7, 600_000).await.unwrap();
    let refused = stub.report(7, 1, report_of(33 << 20)).await;
    assert!(matches!(&refused, Err(NameError::Rpc(error)) if error.is_too_large()), "{refused:?}");
    for bytes in [15 << 20, 5 << 20] {
        let refused = stub.report(7, 1, report_of(bytes)).await;
        assert!(matches!(refused, Err(NameError::Invalid(_))), "{refused:?}");
    }
    // Those that are short in bytes and long in what they say.
    let many =
        [&[0xdd, 0, 0x0f, 0xff, 0xff][..], &[0x81, 0x01, 0x93, 0xa0, 0xa0, 0].repeat(0xf_ffff)];
    let refused = stub.report(7, 1, Blob::from(many.concat())).await;
    assert!(matches!(refused, Err(NameError::Invalid(_))), "{refused:?}");
    let peak = peak(&child);
    eprintln!("{} MiB", peak >> 20);
    assert!(peak < LIMIT / 2, "{} MiB", peak >> 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_that_registers_all_it_can_is_held_to_its_quota() {
    let (child, place) = serve().await;
    let mut refused = 0;
    let mut kept = Vec::new();
    for session in 0..8_u64 {
        let stub = stub(&place).await;
        kept.push(stub.attend(session, 600_000).await.unwrap());
        for part in 0..8 {
            let changes: Vec<_> = (0..250)
                .map(|n| {
                    let service = format!("svc-{session}-{}", part * 250 + n);
                    let mut instance = Instance::new(service, "tcp://127.0.0.1:1");
                    for n in 0..4 {
                        instance = instance.with_metadata(n.to_string(), "x".repeat(4_000));
                    }
                    Change::Register { instance, new: true, secret: None }
                })
                .collect();
            let refusals = stub.report(session, 1, pack(&changes).unwrap()).await;
            match refusals {
                Ok(refusals) => {
                    assert!(refusals.iter().all(|it| it.why == Why::Full));
                    refused += refusals.len();
                }
                Err(error) => panic!("{error:?}"),
            }
        }
        kept.push(stub.attend(session + 100, 600_000).await.unwrap());
    }
    assert!(refused > 8_000, "{refused}");
    let peak = peak(&child);
    eprintln!("{} MiB, {refused} refused", peak >> 20);
    assert!(peak < LIMIT, "{} MiB", peak >> 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_that_take_many_times_their_length_are_not_decoded_all_at_once() {
    let (child, place) = serve().await;
    let mut reports = Vec::new();
    let mut kept = Vec::new();
    for session in 0..6_u64 {
        let stub = stub(&place).await;
        kept.push(stub.attend(session, 600_000).await.unwrap());
        // Metadata of many short pairs, of which nothing is registered: the URI is none.
        let changes: Vec<_> = (0..4_096)
            .map(|n| {
                let mut instance = Instance::new("svc", "").with_id(n.to_string());
                for n in 0..60 {
                    instance = instance.with_metadata(format!("{n:05}"), "");
                }
                Change::Register { instance, new: true, secret: None }
            })
            .collect();
        let report = pack(&changes).unwrap();
        for _ in 0..4 {
            let (stub, report) = (stub.clone(), report.clone());
            reports.push(tokio::spawn(async move { stub.report(session, 1, report).await }));
        }
    }
    for report in reports {
        let refusals = report.await.unwrap();
        let refusals = refusals.unwrap();
        assert!(refusals.len() == 4_096 && refusals[0].why == Why::Invalid, "{:?}", refusals[0]);
    }
    let peak = peak(&child);
    eprintln!("{} MiB", peak >> 20);
    assert!(peak < LIMIT, "{} MiB", peak >> 20);
}
