//! Peers that speak in raw frames, and in worse.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rpc_runtime::RpcError;
use rpc_runtime::protocol::{Flags, HEADER_LEN, Header, Hello, Kind};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::probe::method;
use crate::waiting::soon;

/// The bytes of a frame. The header's length is that of the body.
pub fn frame(header: Header, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap();
    let mut bytes = Header { length, ..header }.encode().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

/// Arguments as they travel: a tuple, or a one-element array where there is one.
pub fn arguments(values: &impl Serialize) -> Vec<u8> {
    rmp_serde::to_vec_named(values).unwrap()
}

/// The header of a request for a method of the probe; ten seconds to go.
pub fn request_header(id: u64, name: &str) -> Header {
    Header { id, method: method(name).id(), deadline_ms: 10_000, ..Header::new(Kind::Request) }
}

/// A request for a method of the probe.
pub fn request(id: u64, name: &str, values: &impl Serialize) -> Vec<u8> {
    frame(request_header(id, name), &arguments(values))
}

/// A frame with nothing behind its header.
pub fn bare(kind: Kind, id: u64) -> Vec<u8> {
    frame(Header { id, ..Header::new(kind) }, &[])
}

/// The answer `value` to the request `id`.
pub fn ok(id: u64, value: &impl Serialize) -> Vec<u8> {
    frame(Header { id, ..Header::new(Kind::Response) }, &arguments(value))
}

/// One end of a TCP connection, in the test's own hands.
#[derive(Debug)]
pub struct RawPeer {
    stream: TcpStream,
    input: Vec<u8>,
}

/// A frame that a [`RawPeer`] read.
#[derive(Clone, Debug)]
pub struct RawFrame {
    /// Its header.
    pub header: Header,
    /// Its payload.
    pub body: Vec<u8>,
}

impl RawFrame {
    /// The error in it.
    pub fn error(&self) -> RpcError {
        rmp_serde::from_slice(&self.body).unwrap()
    }

    /// The value in it.
    pub fn value<T: serde::de::DeserializeOwned>(&self) -> T {
        assert_eq!(self.header.status, 0, "{self:?}");
        rmp_serde::from_slice(&self.body).unwrap()
    }

    /// The header says that the method surely did not run.
    pub fn is_unexecuted(&self) -> bool {
        self.header.flags.contains(Flags::UNEXECUTED)
    }
}

impl RawPeer {
    /// Connects to a server's URI.
    pub async fn connect(uri: &str) -> Self {
        let address = uri.strip_prefix("tcp://").unwrap();
        Self::new(soon("connecting", TcpStream::connect(address)).await.unwrap())
    }

    /// Takes over a connection.
    pub fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self { stream, input: Vec::new() }
    }

    /// The socket itself.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Sends these bytes.
    pub async fn send(&mut self, bytes: &[u8]) {
        soon("sending", self.stream.write_all(bytes)).await.unwrap();
    }

    /// Sends what still goes out; the other end may have closed.
    pub async fn try_send(&mut self, bytes: &[u8]) {
        let _ = soon("sending", self.stream.write_all(bytes)).await;
    }

    /// Sends these bytes repeatedly for a time, or until the other end closes, and discards
    /// received bytes. Returns the number of bytes sent.
    pub async fn flood(&mut self, bytes: &[u8], time: Duration) -> u64 {
        let (mut from, mut to) = self.stream.split();
        let mut sent = 0;
        let send = async {
            while let Ok(n @ 1..) = to.write(bytes.get(sent % bytes.len()..).unwrap()).await {
                sent += n;
            }
        };
        let drop_all = async {
            let mut dropped = vec![0; 64 << 10];
            while matches!(from.read(&mut dropped).await, Ok(n) if n > 0) {}
        };
        let both = async { tokio::join!(send, drop_all) };
        let _ = tokio::time::timeout(time, both).await;
        u64::try_from(sent).unwrap()
    }

    /// The same without reading anything.
    pub async fn flood_unread(&mut self, bytes: &[u8], time: Duration) -> u64 {
        let mut sent = 0;
        let send = async {
            while let Ok(n @ 1..) =
                self.stream.write(bytes.get(sent % bytes.len()..).unwrap()).await
            {
                sent += n;
            }
        };
        let _ = tokio::time::timeout(time, send).await;
        u64::try_from(sent).unwrap()
    }

    /// The next frame of any kind; `None` at the end of the connection.
    pub async fn any_frame(&mut self) -> Option<RawFrame> {
        loop {
            if let Some(header) = Header::decode(&self.input).unwrap() {
                let end = HEADER_LEN + header.length as usize;
                if self.input.len() >= end {
                    let body = self.input[HEADER_LEN..end].to_vec();
                    self.input.drain(..end);
                    return Some(RawFrame { header, body });
                }
            }
            let read = soon("a frame", self.stream.read_buf(&mut self.input)).await;
            // A reset is an end, too.
            if !matches!(read, Ok(n) if n > 0) {
                assert!(self.input.is_empty(), "the connection ended within a frame");
                return None;
            }
        }
    }

    /// The next frame that is no hello; `None` at the end of the connection.
    pub async fn next(&mut self) -> Option<RawFrame> {
        loop {
            let frame = self.any_frame().await?;
            if frame.header.kind != Kind::Hello {
                return Some(frame);
            }
        }
    }

    /// The next frame, which must be the answer to this request.
    pub async fn answer(&mut self, id: u64) -> RawFrame {
        let frame = self.next().await.expect("an answer and not the end of the connection");
        assert_eq!((frame.header.kind, frame.header.id), (Kind::Response, id), "{frame:?}");
        frame
    }

    /// Asks for a sum and checks it: the connection is as good as new.
    pub async fn check(&mut self) {
        let id = u64::MAX - 1;
        self.send(&request(id, "add", &(40, 2))).await;
        assert_eq!(self.answer(id).await.value::<i64>(), 42);
    }

    /// The next frame, which must be a connection-wide error, and then the end.
    pub async fn last_words(&mut self) -> RpcError {
        let frame = self.next().await.expect("an error frame before the end");
        assert_eq!((frame.header.kind, frame.header.id), (Kind::Error, 0), "{frame:?}");
        let more = self.next().await;
        assert!(more.is_none(), "after the last words: {more:?}");
        frame.error()
    }

    /// The next request.
    pub async fn requested(&mut self) -> Option<RawFrame> {
        loop {
            let frame = self.next().await?;
            if frame.header.kind == Kind::Request {
                return Some(frame);
            }
        }
    }

    /// Takes in and drops whatever comes, until the end of the connection.
    pub async fn drain(&mut self) {
        let mut dropped = [0; 4096];
        while matches!(self.stream.read(&mut dropped).await, Ok(n) if n > 0) {}
    }
}

/// The hello of an end that provides nothing and has no limits.
pub fn hello() -> Vec<u8> {
    frame(Header::new(Kind::Hello), &arguments(&Hello::default()))
}

/// A server that does what a script says with each connection.
#[derive(Debug)]
pub struct RawServer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl RawServer {
    /// Listens on a free port of the loopback address, and greets.
    pub async fn start<F>(script: impl Fn(RawPeer) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let script = Arc::new(script);
        Self::start_rude(move |mut peer| {
            let script = Arc::clone(&script);
            async move {
                peer.try_send(&hello()).await;
                script(peer).await;
            }
        })
        .await
    }

    /// Listens on a free port of the loopback address, and says nothing but what the script does.
    pub async fn start_rude<F>(script: impl Fn(RawPeer) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            // Ends its connections with itself.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(script(RawPeer::new(stream)));
            }
        });
        Self { address, task }
    }

    /// Where it listens.
    pub fn uri(&self) -> String {
        format!("tcp://{}", self.address)
    }
}

impl Drop for RawServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
