//! Calls of many callers on one connection.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::{Buf, Bytes, BytesMut};
use harness::work::{self, Call, Order, check};
use harness::{Connection, Result};
use raw::frame::{self, fill, first};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::oneshot;

use crate::writer::Writer;
use crate::{BYTES, NUMBER, ORDER, TEXT, lock};

/// Answers of at least this size are split off the read buffer instead of copied.
const LARGE: usize = 16 << 10;

#[derive(Clone)]
pub(crate) struct Client(Arc<Shared>);

struct Shared {
    writer: Arc<Writer>,
    waiting: Arc<Waiting>,
    next_id: AtomicU64,
    /// Whether values are serialized; otherwise bytes are sent.
    serialized: bool,
    /// The bytes in place of a serialized order.
    order: Vec<u8>,
}

type Waiting = Mutex<HashMap<u64, oneshot::Sender<Bytes>, BuildHasherDefault<IdHasher>>>;

impl Client {
    pub(crate) async fn connect(address: SocketAddr, serialized: bool) -> Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let (reader, writer) = socket.into_split();
        let waiting = Arc::new(Waiting::default());
        tokio::spawn(read(reader, waiting.clone()));
        Ok(Self(Arc::new(Shared {
            writer: Writer::new(writer),
            waiting,
            next_id: AtomicU64::new(0),
            serialized,
            order: rmp_serde::to_vec(&work::order(1 << 40))?,
        })))
    }

    async fn exchange(
        &self,
        method: u64,
        append: impl FnOnce(&mut Vec<u8>) -> Result<()>,
    ) -> Result<Bytes> {
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        let alone = {
            let mut waiting = lock(&self.0.waiting);
            waiting.insert(id, sender);
            waiting.len() == 1
        };
        let append = |out: &mut Vec<u8>| {
            let begin = frame::begin(out, id, method);
            append(out)?;
            frame::end(out, begin);
            Ok(())
        };
        self.0.writer.send(alone, append).await?;
        Ok(answer.await?)
    }

    async fn bytes(&self, bytes: &[u8]) -> Result<Bytes> {
        self.exchange(BYTES, |out| {
            out.extend_from_slice(bytes);
            Ok(())
        })
        .await
    }

    async fn value<T: Serialize + DeserializeOwned>(&self, method: u64, value: &T) -> Result<T> {
        let answer = self.exchange(method, |out| Ok(rmp_serde::encode::write(out, value)?)).await?;
        Ok(rmp_serde::from_slice(&answer)?)
    }
}

impl Connection for Client {
    async fn call(&self, call: Call) -> Result<()> {
        match call {
            Call::Order(id) if self.0.serialized => {
                let answer: Order = self.value(ORDER, &work::order(id)).await?;
                check(answer.id, id)
            }
            Call::Order(_) => check(self.bytes(&self.0.order).await?.len(), self.0.order.len()),
            Call::Text if self.0.serialized => {
                check(self.value(TEXT, &work::TEXT.to_owned()).await?.len(), work::TEXT.len())
            }
            Call::Text => check(self.bytes(work::TEXT.as_bytes()).await?.len(), work::TEXT.len()),
            Call::Blob => check(self.bytes(&work::blob()).await?.len(), work::BLOB_LEN),
            Call::Number(number) => check(self.value(NUMBER, &number).await?, number),
            Call::Wait(_) | Call::Block(_) => Err("the prototype has no slow methods".into()),
        }
    }
}

/// Passes the answers to the waiting callers. Their calls end when it ends.
async fn read(mut reader: OwnedReadHalf, waiting: Arc<Waiting>) -> Result<()> {
    let mut input = BytesMut::new();
    while let Ok(true) = fill(&mut reader, &mut input).await {
        while let Some(answer) = first(&input) {
            let (id, length) = (answer.id, answer.len());
            let payload = if length < LARGE {
                let payload = Bytes::copy_from_slice(answer.payload);
                input.advance(length);
                payload
            } else {
                input.split_to(length).split_off(frame::HEADER).freeze()
            };
            if let Some(caller) = lock(&waiting).remove(&id) {
                // Fails if the caller was dropped.
                let _ = caller.send(payload);
            }
        }
    }
    lock(&waiting).clear();
    Ok(())
}

/// Ids are consecutive, so a simple hash is sufficient.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(self.0 ^ u64::from(*byte));
        }
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
