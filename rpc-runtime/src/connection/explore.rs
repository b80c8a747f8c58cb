//! Interleavings of callers, tasks, driver and peer, explored with shuttle.
//!
//! Tasks switch at the channel's lock (`sync.rs`) and at the socket. No time passes, so what would
//! only be put right by a timer is found: shuttle reports a deadlock if a call hangs.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use shuttle::future::{JoinHandle, block_on, spawn};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use tokio::runtime::Builder;

use super::driver::{self, Batch, RequestHandler};
use super::sync::{EXPLORING, switch};
use super::*;
use crate::error::RpcError;
use crate::handlers::{Heartbeat, HeartbeatMode};
use crate::observe::{Observer, Side};
use crate::protocol::{Codec, Decoded, Frame, FrameCodec, HEADER_LEN, Header, Hello, Kind, Output};
use crate::status::Status;
use crate::transport::{Reader, Transport, Writer};

/// Bytes that fit into a socket: a frame and a half, so that most writes are cut.
const ROOM: usize = 100;
/// Interleavings of each scenario, with each scheduler.
const ITERATIONS: usize = 1_500;

/// One direction of a socket. Its lock is never held where tasks switch.
#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Pipe>>);

impl Shared {
    /// Changes it and wakes who waits for that.
    fn change<R>(&self, change: impl FnOnce(&mut Pipe) -> R) -> R {
        switch();
        let mut pipe = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = (pipe.bytes.len(), pipe.closed);
        let result = change(&mut pipe);
        let after = (pipe.bytes.len(), pipe.closed);
        let reader = if after != before { pipe.reader.take() } else { None };
        let writer = if after != before { pipe.writer.take() } else { None };
        drop(pipe);
        reader.into_iter().chain(writer).for_each(Waker::wake);
        result
    }

    fn close(&self) {
        self.change(|pipe| pipe.closed = true);
    }
}

/// An end of a socket: what it reads, and what it writes.
#[derive(Clone, Default)]
struct Socket {
    input: Shared,
    output: Shared,
}

impl Socket {
    fn pair() -> (Self, Self) {
        let one = Self::default();
        let other = Self { input: one.output.clone(), output: one.input.clone() };
        (one, other)
    }
}

impl Reader for Socket {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        self.input.change(|pipe| {
            let bytes = pipe.bytes.len().min(limit).min(buffer.capacity() - buffer.len());
            if bytes == 0 && !pipe.closed {
                pipe.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
            buffer.extend(pipe.bytes.drain(..bytes));
            Poll::Ready(Ok(bytes))
        })
    }

    fn is_closed(&mut self, _: &mut Context<'_>) -> bool {
        self.input.change(|pipe| pipe.closed)
    }
}

impl Writer for Socket {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.output.change(|pipe| {
            if pipe.closed {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let fits = bytes.len().min(ROOM.saturating_sub(pipe.bytes.len()));
            if fits == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            pipe.bytes.extend(&bytes[..fits]);
            Ok(fits)
        })
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.output.change(|pipe| {
            if pipe.closed || pipe.bytes.len() < ROOM {
                return Poll::Ready(Ok(()));
            }
            pipe.writer = Some(cx.waker().clone());
            Poll::Pending
        })
    }

    fn shutdown_write(&self) {
        self.output.close();
    }

    fn shutdown(&self) {
        self.output.close();
        self.input.close();
    }
}

/// The peer, which reads and writes frames by hand.
struct RawPeer {
    socket: Socket,
    bytes: BytesMut,
}

impl RawPeer {
    /// The next frame; `None` at the end.
    async fn frame(&mut self) -> Option<Header> {
        loop {
            let mut codec = FrameCodec::new(1 << 20);
            if let Ok(Decoded::Frame { frame, consumed }) = codec.decode(&self.bytes) {
                let header = frame.header;
                let _ = self.bytes.split_to(consumed);
                return Some(header);
            }
            self.bytes.reserve(1_024);
            let (socket, bytes) = (&mut self.socket, &mut self.bytes);
            let read = poll_fn(|cx| socket.poll_read(cx, bytes, HEADER_LEN + 3)).await;
            if read.unwrap() == 0 {
                return None;
            }
        }
    }

    async fn send(&self, header: Header) {
        let mut output = Output::default();
        FrameCodec::new(1 << 20).encode(&Frame::bare(header), &mut output).unwrap();
        let bytes = output.to_vec();
        let mut left = &bytes[..];
        while !left.is_empty() {
            match self.socket.try_write(left) {
                Ok(written) => left = &left[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll_fn(|cx| self.socket.poll_write_ready(cx)).await.unwrap();
                }
                Err(_) => return,
            }
        }
    }

    /// Answers each request, and ends the connection once it is asked to, or after `goaway` answers
    /// has said that it will.
    async fn serve(mut self, goaway: usize) {
        let mut answers = 0;
        while let Some(header) = self.frame().await {
            if header.kind == Kind::Request {
                self.send(Header::response(header.id, Status::Ok)).await;
                answers += 1;
                if answers == goaway {
                    self.send(Header::new(Kind::GoAway)).await;
                }
            }
        }
        self.socket.shutdown();
    }
}

/// Answers each request from a task of its own.
struct Answering;

impl RequestHandler for Answering {
    fn handle(&mut self, channel: &Arc<Channel>, batch: Batch<'_>, _: &mut Context<'_>) -> Instant {
        for request in &batch.requests {
            let id = request.header.id;
            let Some(work) = channel.start_work(id, false, 1) else { continue };
            let channel = Arc::clone(channel);
            drop(spawn(async move {
                let answer = Frame::bare(Header::response(id, Status::Ok));
                channel.answer(work, answer).await;
            }));
        }
        batch.now
    }

    fn limits_reading(&self) -> bool {
        true
    }
}

fn open(side: Side) -> (Arc<Channel>, JoinHandle<()>, RawPeer) {
    let (ours, theirs) = Socket::pair();
    let heartbeat = Heartbeat::default().mode(HeartbeatMode::Off);
    let observer = Observer::new(side, false);
    let settings = ChannelSettings {
        side,
        observer,
        heartbeat,
        max_in_flight: 2,
        ..ChannelSettings::default()
    };
    let transport = Transport::new(ours.clone(), ours, String::new());
    let (channel, reader) = Channel::new(transport, settings, &Hello::default(), None).unwrap();
    let driver = spawn(driver::run(Arc::clone(&channel), reader, Answering));
    (channel, driver, RawPeer { socket: theirs, bytes: BytesMut::new() })
}

/// Makes a call. It is given up when it has been polled so many times. Returns whether it got its
/// answer; an error if another channel may do.
async fn call(channel: Arc<Channel>, polls: usize) -> Result<bool, RpcError> {
    let mut body = Output::from(vec![7; 40]);
    let now = clock();
    let header = Header::new(Kind::Request);
    let deadline = now + Duration::from_secs(3_600);
    let request = Request { header, body: &mut body, deadline, now };
    let mut upload = None;
    let mut call = pin!(channel.call(request, &mut upload));
    let mut polled = 0;
    poll_fn(|cx| {
        polled += 1;
        if polled > polls {
            return Poll::Ready(Ok(false));
        }
        if polled == polls {
            // Given up at the next poll, which is soon.
            cx.waker().wake_by_ref();
        }
        match call.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(_)) => Poll::Ready(Ok(true)),
            Poll::Ready(Err(CallError::NotOpen(error) | CallError::Failed(error))) => {
                Poll::Ready(Err(error))
            }
        }
    })
    .await
}

/// Runs a scenario with many interleavings.
fn explore<F: Future<Output = ()> + Send + 'static>(scenario: fn() -> F) {
    let run = |scheduler: Box<dyn Scheduler + Send>| {
        let mut config = shuttle::Config::new();
        config.stack_size = 1 << 20;
        config.silence_warnings = true;
        shuttle::Runner::new(scheduler, config).run(move || block_on(scenario()));
    };
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let _entered = runtime.enter();
    EXPLORING.set(true);
    run(Box::new(RandomScheduler::new(ITERATIONS)));
    run(Box::new(PctScheduler::new(3, ITERATIONS)));
    EXPLORING.set(false);
}

#[test]
fn no_call_hangs_though_others_are_dropped_and_the_socket_takes_little_at_a_time() {
    explore(|| async {
        let (channel, driver, peer) = open(Side::Client);
        let peer = spawn(peer.serve(0));
        let calls: Vec<_> = [usize::MAX, 2, 1, usize::MAX]
            .map(|polls| (polls, spawn(call(Arc::clone(&channel), polls))))
            .into_iter()
            .collect();
        for (polls, call) in calls {
            let answered = call.await.unwrap().unwrap();
            assert!(answered || polls < usize::MAX);
        }
        channel.drain();
        driver.await.unwrap();
        peer.await.unwrap();
    });
}

#[test]
fn each_call_ends_once_its_connection_is_closed_by_another_task() {
    explore(|| async {
        let (channel, driver, peer) = open(Side::Client);
        let peer = spawn(peer.serve(0));
        let calls = [(); 3].map(|()| spawn(call(Arc::clone(&channel), usize::MAX)));
        let closing = Arc::clone(&channel);
        let close = spawn(async move { closing.close(RpcError::unavailable("over")) });
        for call in calls {
            let _ = call.await.unwrap();
        }
        close.await.unwrap();
        driver.await.unwrap();
        peer.await.unwrap();
    });
}

#[test]
fn calls_that_cross_the_goaway_are_answered_or_were_not_sent() {
    explore(|| async {
        let (channel, driver, peer) = open(Side::Client);
        let peer = spawn(peer.serve(1));
        let calls = [(); 3].map(|()| spawn(call(Arc::clone(&channel), usize::MAX)));
        let mut answered = 0;
        for call in calls {
            match call.await.unwrap() {
                Ok(_) => answered += 1,
                Err(error) => assert!(error.is_unexecuted(), "{error}"),
            }
        }
        assert!(answered > 0);
        driver.await.unwrap();
        peer.await.unwrap();
    });
}

#[test]
fn answers_of_tasks_all_leave_and_the_last_one_ends_a_connection_that_drains() {
    explore(|| async {
        let (channel, driver, mut peer) = open(Side::Server);
        for id in 1..4 {
            peer.send(Header { id, ..Header::new(Kind::Request) }).await;
        }
        let ending = Arc::clone(&channel);
        let end = spawn(async move { ending.goaway() });
        let mut answers = 0;
        while answers < 3 {
            let header = peer.frame().await.expect("all requests are answered");
            answers += usize::from(header.kind == Kind::Response);
        }
        end.await.unwrap();
        peer.socket.shutdown();
        driver.await.unwrap();
    });
}
