//! A server with one connection at a time, whose peer violates the protocol: the server sends only
//! valid frames, and nothing of the connection remains.

use std::cell::Cell;
use std::time::Duration;

use rpc_runtime::__fuzz::RawEnd;
use rpc_runtime::protocol::{Codec, Decoded, Flags, FrameCodec, HEADER_LEN, Header, Kind};
use rpc_runtime::{Result, Server, Streaming, rpc_service};
use tokio::runtime::Runtime;
use tokio::task::yield_now;

use crate::input::Input;

/// Steps of one input.
const STEPS: usize = 200;
const URI: &str = "memory:fuzz-server";

#[rpc_service(name = "fuzz.Zoo")]
pub(crate) trait Zoo {
    async fn echo(&self, text: String, number: u64) -> Result<String>;
    async fn wait(&self) -> Result<()>;
    #[rpc(spawn)]
    async fn later(&self, milliseconds: u16) -> Result<u16>;
    #[rpc(oneway)]
    async fn note(&self, text: String) -> Result<()>;
    async fn sum(&self, items: Streaming<u32>) -> Result<u64>;
    async fn hold(&self, items: Streaming<Vec<u8>>) -> Result<()>;
    async fn endless(&self, bytes: u16) -> Result<Streaming<String>>;
    async fn both(&self, items: Streaming<u32>) -> Result<Streaming<u32>>;
}

thread_local! {
    /// Running methods.
    static UNDER_WAY: Cell<i64> = const { Cell::new(0) };
    static WORLD: (Runtime, Server) = world();
}

struct UnderWay;

impl UnderWay {
    fn new() -> Self {
        UNDER_WAY.set(UNDER_WAY.get() + 1);
        Self
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        // A thread's end may have taken it before.
        let _ = UNDER_WAY.try_with(|count| count.set(count.get() - 1));
    }
}

pub(crate) struct Provider;

impl Zoo for Provider {
    async fn echo(&self, text: String, _: u64) -> Result<String> {
        Ok(text)
    }

    async fn wait(&self) -> Result<()> {
        let _under_way = UnderWay::new();
        std::future::pending().await
    }

    async fn later(&self, milliseconds: u16) -> Result<u16> {
        let _under_way = UnderWay::new();
        tokio::time::sleep(Duration::from_millis(milliseconds.into())).await;
        Ok(milliseconds)
    }

    async fn note(&self, _: String) -> Result<()> {
        Ok(())
    }

    async fn sum(&self, mut items: Streaming<u32>) -> Result<u64> {
        let _under_way = UnderWay::new();
        let mut sum = 0;
        while let Some(item) = items.next().await {
            sum += u64::from(item?);
        }
        Ok(sum)
    }

    async fn hold(&self, items: Streaming<Vec<u8>>) -> Result<()> {
        let _under_way = UnderWay::new();
        let _items = items;
        std::future::pending().await
    }

    async fn endless(&self, bytes: u16) -> Result<Streaming<String>> {
        let under_way = UnderWay::new();
        Ok(Streaming::from_items(std::iter::repeat_with(move || {
            let _under_way = &under_way;
            "e".repeat(bytes.into())
        })))
    }

    async fn both(&self, items: Streaming<u32>) -> Result<Streaming<u32>> {
        Ok(items)
    }
}

fn world() -> (Runtime, Server) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let server = Server::builder().provide(ZooServer::new(Provider)).bind(URI);
    let server = runtime.block_on(server).unwrap();
    (runtime, server)
}

pub(crate) fn run(data: &[u8]) {
    WORLD.with(|(runtime, server)| runtime.block_on(attack(server, Input::new(data))));
}

async fn attack(server: &Server, mut input: Input<'_>) {
    let mut peer = Peer::new(RawEnd::connect(URI).await.unwrap());
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        step(&mut peer, &mut input).await;
    }
    settle().await;
    peer.read();
    drop(peer);
    // Maximum wait after the peer has closed.
    for _ in 0..10 {
        if server.channels().is_empty() && UNDER_WAY.get() == 0 {
            return;
        }
        settle().await;
        tokio::time::advance(Duration::from_secs(10)).await;
    }
    assert!(server.channels().is_empty(), "the connection is still there");
    assert_eq!(UNDER_WAY.get(), 0, "methods of a peer that is gone go on");
}

/// Runs everything that needs no time to pass.
pub(crate) async fn settle() {
    for _ in 0..30 {
        yield_now().await;
    }
}

async fn step(peer: &mut Peer, input: &mut Input<'_>) {
    let what = input.byte();
    let id = u64::from(input.byte() % 8);
    match what % 12 {
        0 => peer.write(input.bytes(usize::from(what) + 1)),
        1 => {
            let header = Header {
                id,
                flags: Flags::from_bits(input.byte().into()),
                status: input.byte().into(),
                method: method(input.byte()),
                ..Header::new(Kind::from_wire(input.byte() % 16))
            };
            let length = usize::from(input.byte());
            peer.frame(header, input.bytes(length));
        }
        2 | 3 => {
            let method = method(input.byte());
            let flags = Flags::from_bits(input.byte().into());
            let deadline_ms = u32::from(input.u16());
            let kind = if what.is_multiple_of(2) { Kind::Request } else { Kind::Oneway };
            let length = usize::from(input.byte());
            let header = Header { id, flags, method, deadline_ms, ..Header::new(kind) };
            peer.frame(header, input.bytes(length));
        }
        4 => {
            // A good request for a stream.
            let (at, body): (u8, &[u8]) = match what / 12 % 4 {
                0 => (4, &[0x91, 0xc0]),
                1 => (5, &[0x91, 0xc0]),
                2 => (6, &[0x91, 0x20]),
                _ => (7, &[0x91, 0xc0]),
            };
            let flags = if at == 6 { Flags::default() } else { Flags::STREAM };
            peer.frame(
                Header { id, flags, method: method(at), ..Header::new(Kind::Request) },
                body,
            );
        }
        5 => peer.frame(Header { id, ..Header::new(Kind::Cancel) }, &[]),
        6 => {
            let length = usize::from(what / 12) * 4;
            peer.frame(Header { id, ..Header::new(Kind::StreamData) }, input.bytes(length));
        }
        7 => {
            let credit = input.u32().to_be_bytes();
            peer.frame(Header { id, ..Header::new(Kind::StreamCredit) }, &credit);
        }
        8 => {
            let status = input.byte().into();
            peer.frame(Header { id, status, ..Header::new(Kind::StreamEnd) }, &[]);
        }
        9 => peer.read(),
        10 => {
            settle().await;
            tokio::time::advance(Duration::from_millis(input.u16().into())).await;
        }
        _ if what > 250 => peer.end.shutdown_write(),
        _ => settle().await,
    }
}

pub(crate) fn method(at: u8) -> u64 {
    let methods = ZOO_DESCRIPTOR.methods();
    methods.get(usize::from(at)).map_or_else(|| at.into(), |method| method.id())
}

/// The end of the attacker.
pub(crate) struct Peer {
    pub(crate) end: RawEnd,
    codec: FrameCodec,
    input: Vec<u8>,
    /// Received requests.
    pub(crate) requests: Vec<u64>,
}

impl Peer {
    pub(crate) fn new(end: RawEnd) -> Self {
        Self { end, codec: FrameCodec::new(8 << 20), input: Vec::new(), requests: Vec::new() }
    }

    pub(crate) fn write(&self, bytes: &[u8]) {
        self.end.write(bytes);
    }

    pub(crate) fn frame(&self, header: Header, body: &[u8]) {
        let length = u32::try_from(body.len()).unwrap();
        let mut bytes = Vec::with_capacity(HEADER_LEN + body.len());
        bytes.extend_from_slice(&Header { length, ..header }.encode());
        bytes.extend_from_slice(body);
        self.write(&bytes);
    }

    /// Reads received bytes, which must be valid frames.
    pub(crate) fn read(&mut self) {
        self.input.extend(self.end.read().unwrap_or_default());
        loop {
            let consumed = match self.codec.decode(&self.input).expect("no frame was sent") {
                Decoded::Frame { frame, consumed } => {
                    let known = !matches!(frame.header.kind, Kind::Unknown(_));
                    assert!(known, "a frame of an unknown kind was sent");
                    if frame.header.kind == Kind::Request && self.requests.len() < 100 {
                        self.requests.push(frame.header.id);
                    }
                    consumed
                }
                Decoded::Discarded { consumed } => consumed,
                _ => break,
            };
            self.input.drain(..consumed);
        }
    }
}
