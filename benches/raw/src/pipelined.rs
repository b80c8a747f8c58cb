//! The frames of all callers in flight at the same time, with one task for each connection: the
//! limit for clients that must wake their callers.

use std::time::Instant;

use bytes::{Buf, BytesMut};
use harness::{Args, Histogram, Result, Window, report_load};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use crate::frame::{self, fill, first};
use crate::request;

/// Larger frames are written by a separate task. If they were written and read in turns, both ends
/// would wait for the other to read.
const LARGE: usize = 64 << 10;

pub(crate) async fn load(args: &Args) -> Result<()> {
    let request = request(args.workload)?;
    let callers = args.callers / args.connections.max(1);
    let window = Window::new(args);
    let mut tasks = Vec::new();
    for _ in 0..args.connections {
        let socket = TcpStream::connect(args.address).await?;
        socket.set_nodelay(true)?;
        let request = request.clone();
        tasks.push(tokio::spawn(async move {
            let (reader, writer) = socket.into_split();
            if request.len() < LARGE {
                small(reader, writer, &request, callers, window).await
            } else {
                large(reader, writer, request, callers, window).await
            }
        }));
    }
    report_load(args, window, tasks).await
}

async fn small(
    mut reader: OwnedReadHalf,
    mut writer: OwnedWriteHalf,
    request: &[u8],
    callers: usize,
    window: Window,
) -> Result<Histogram> {
    let payload = request.get(frame::HEADER..).unwrap_or_default();
    let mut latencies = Histogram::default();
    let (mut out, mut input) = (Vec::new(), BytesMut::new());
    let mut sent = vec![Instant::now(); callers];
    for caller in 0..callers {
        frame::put(&mut out, caller as u64, 0, payload);
    }
    loop {
        writer.write_all(&out).await?;
        out.clear();
        if !fill(&mut reader, &mut input).await? {
            return Err("the server is gone".into());
        }
        let now = Instant::now();
        let mut read = 0;
        while let Some(answer) = input.get(read..).and_then(first) {
            read += answer.len();
            let sent = sent.get_mut(answer.id as usize).ok_or("an answer to nobody")?;
            if *sent >= window.begin && now <= window.end {
                latencies.record((now - *sent).as_nanos() as u64);
            }
            *sent = now;
            frame::put(&mut out, answer.id, 0, payload);
        }
        input.advance(read);
        if now >= window.end {
            return Ok(latencies);
        }
    }
}

async fn large(
    mut reader: OwnedReadHalf,
    mut writer: OwnedWriteHalf,
    request: Vec<u8>,
    callers: usize,
    window: Window,
) -> Result<Histogram> {
    let (answered, mut may_send) = mpsc::unbounded_channel();
    let (begun, mut sent) = mpsc::unbounded_channel();
    for _ in 0..callers {
        answered.send(())?;
    }
    let writing = tokio::spawn(async move {
        while may_send.recv().await.is_some() {
            if begun.send(Instant::now()).is_err() || writer.write_all(&request).await.is_err() {
                return;
            }
        }
    });
    let mut latencies = Histogram::default();
    let mut input = BytesMut::new();
    while fill(&mut reader, &mut input).await? {
        while let Some(answer) = first(&input).map(|answer| answer.len()) {
            input.advance(answer);
            let before = sent.recv().await.ok_or("an answer to nobody")?;
            let now = Instant::now();
            if before >= window.begin && now <= window.end {
                latencies.record((now - before).as_nanos() as u64);
            }
            if now >= window.end {
                writing.abort();
                return Ok(latencies);
            }
            answered.send(())?;
        }
    }
    Err("the server is gone".into())
}
