//! `memory:name`: connections within the process, for tests and for services in the same process.
//! Each direction is a bounded pipe, so back-pressure works as on sockets.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use rpc_registry::sync::Mutex;
use tokio::sync::mpsc;

use super::{Reader, Transport, Writer};
use crate::error::RpcError;
use crate::uri::Uri;

/// Capacity of a pipe. Its writer waits when it is full. Linux gives new sockets the same.
const PIPE_BYTES: usize = 128 << 10;

type Listeners = Mutex<HashMap<String, mpsc::UnboundedSender<Transport>>>;

static LISTENERS: LazyLock<Listeners> = LazyLock::new(Listeners::default);

#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn close(&mut self) {
        self.closed = true;
        self.wake();
    }

    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

struct PipeReader(Arc<Mutex<Pipe>>);

impl Reader for PipeReader {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        let mut pipe = self.0.lock();
        let room = limit.min(buffer.capacity() - buffer.len());
        let n = pipe.bytes.len().min(room);
        if n == 0 {
            if pipe.closed {
                return Poll::Ready(Ok(0));
            }
            pipe.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let (front, back) = pipe.bytes.as_slices();
        let from_front = n.min(front.len());
        buffer.extend_from_slice(front.get(..from_front).unwrap_or_default());
        buffer.extend_from_slice(back.get(..n - from_front).unwrap_or_default());
        pipe.bytes.drain(..n);
        if let Some(writer) = pipe.writer.take() {
            writer.wake();
        }
        Poll::Ready(Ok(n))
    }

    fn is_closed(&mut self, _: &mut Context<'_>) -> bool {
        self.0.lock().closed
    }
}

impl Drop for PipeReader {
    fn drop(&mut self) {
        self.0.lock().close();
    }
}

struct PipeWriter {
    out: Arc<Mutex<Pipe>>,
    back: Arc<Mutex<Pipe>>,
}

impl Writer for PipeWriter {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut pipe = self.out.lock();
        if pipe.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let n = bytes.len().min(PIPE_BYTES.saturating_sub(pipe.bytes.len()));
        if n == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        pipe.bytes.extend(bytes.get(..n).unwrap_or_default());
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
        Ok(n)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.out.lock();
        if pipe.closed || pipe.bytes.len() < PIPE_BYTES {
            return Poll::Ready(Ok(()));
        }
        pipe.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    fn shutdown_write(&self) {
        self.out.lock().close();
    }

    fn shutdown(&self) {
        self.out.lock().close();
        self.back.lock().close();
    }
}

impl Drop for PipeWriter {
    fn drop(&mut self) {
        self.shutdown_write();
    }
}

fn pair(server_uri: &Uri) -> (Transport, Transport) {
    let (there, back) = (Arc::<Mutex<Pipe>>::default(), Arc::<Mutex<Pipe>>::default());
    let end = |reads: &Arc<Mutex<Pipe>>, writes: &Arc<Mutex<Pipe>>, peer: String| {
        let writer = PipeWriter { out: Arc::clone(writes), back: Arc::clone(reads) };
        Transport::new(PipeReader(Arc::clone(reads)), writer, peer)
    };
    (end(&back, &there, server_uri.to_string()), end(&there, &back, format!("{server_uri}#client")))
}

pub(super) fn connect(uri: &Uri) -> Result<Transport, RpcError> {
    let (client, server) = pair(uri);
    let accepted =
        LISTENERS.lock().get(uri.rest()).is_some_and(|listener| listener.send(server).is_ok());
    if accepted {
        Ok(client)
    } else {
        Err(RpcError::unavailable(format!("cannot connect: no server listens on {uri}")))
    }
}

pub(crate) struct MemoryListener {
    uri: Uri,
    accepted: mpsc::UnboundedReceiver<Transport>,
}

impl MemoryListener {
    pub(super) fn bind(uri: &Uri) -> Result<Self, RpcError> {
        let mut listeners = LISTENERS.lock();
        if listeners.contains_key(uri.rest()) {
            return Err(RpcError::unavailable(format!(
                "cannot listen on {uri}: the name is already in use"
            )));
        }
        let (sender, accepted) = mpsc::unbounded_channel();
        listeners.insert(uri.rest().to_owned(), sender);
        // Registries need this form of the URI.
        Ok(Self { uri: Uri::parse(&format!("memory://{}", uri.rest()))?, accepted })
    }

    pub(super) async fn accept(&mut self) -> io::Result<Transport> {
        self.accepted.recv().await.ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    pub(super) fn local_uri(&self) -> &Uri {
        &self.uri
    }
}

impl Drop for MemoryListener {
    fn drop(&mut self) {
        LISTENERS.lock().remove(self.uri.rest());
    }
}
