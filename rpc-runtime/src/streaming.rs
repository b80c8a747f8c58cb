//! [`Streaming`]: many values as one argument or one result.
//!
//! A `Streaming` is serde-serializable, though its items do not travel with it: serialized within a
//! call, it leaves its source with the call, which sends the items after the frame; deserialized
//! within a call, it takes the receiving end. So contracts, arguments and results need no special
//! case for streams, and a stream may be a field of a struct.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::mpsc;

use crate::call::{Items, Source};
use crate::error::RpcError;
use crate::protocol::messagepack::decode_counted;
use crate::protocol::payload::{self, Form, Wire};
use crate::shape::STREAM;

/// Many values as one argument or one result of a remote method.
///
/// The items are sent one by one as the receiver takes them, so a slow receiver slows the sender
/// down. At most 256 KiB and one item are in transit. Dropping the receiving end stops the sender
/// after one message delay. If the connection is lost, the stream ends with an error, so it does
/// not look complete.
///
/// A call may have one stream in each direction. The deadline of a call applies until its response;
/// a stream in the response has no deadline.
///
/// ```
/// use rpc_runtime::{Result, Server, Streaming, rpc_service};
///
/// #[rpc_service]
/// pub trait Numbers {
///     async fn up_to(&self, n: u32) -> Result<Streaming<u32>>;
///     async fn sum(&self, numbers: Streaming<u32>) -> Result<u32>;
/// }
///
/// struct Plain;
/// impl Numbers for Plain {
///     async fn up_to(&self, n: u32) -> Result<Streaming<u32>> {
///         Ok(Streaming::from_items(1..=n))
///     }
///     async fn sum(&self, mut numbers: Streaming<u32>) -> Result<u32> {
///         let mut sum = 0;
///         while let Some(number) = numbers.next().await {
///             sum += number?;
///         }
///         Ok(sum)
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let server = Server::builder().provide(NumbersServer::new(Plain)).bind("memory:numbers").await?;
/// let numbers = NumbersClient::connect("memory:numbers").await?;
/// let up_to_four = numbers.up_to(4).await?;
/// assert_eq!(numbers.sum(up_to_four).await?, 10);
/// # server.shutdown().await
/// # }
/// ```
pub struct Streaming<T>(
    /// Empty once it was serialized. Locked only to be taken from behind serde's `&self`.
    Mutex<Option<Inner<T>>>,
);

enum Inner<T> {
    Local(Pin<Box<dyn Stream<Item = Result<T, RpcError>> + Send>>),
    Remote(Remote, PhantomData<fn() -> T>),
    /// Stands for the items while the shape of a type is found out.
    Traced(Box<T>),
}

impl<T> Inner<T> {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, RpcError>>>
    where
        T: for<'de> Deserialize<'de>,
    {
        match self {
            Self::Local(stream) => stream.as_mut().poll_next(cx),
            Self::Remote(remote, _) => remote.poll_next(cx),
            Self::Traced(_) => Poll::Ready(None),
        }
    }
}

/// Bytes, encoded or in memory, from which an item is large. Decoding it takes tens of microseconds
/// or more.
const LARGE: usize = 64 << 10;

/// The items that a peer sends.
struct Remote {
    items: Box<dyn Items>,
    /// Other tasks get their turn before the next item.
    yields: bool,
}

impl Remote {
    /// The next item. The task yields after a large one: many small items can become large values.
    fn poll_next<T>(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, RpcError>>>
    where
        T: for<'de> Deserialize<'de>,
    {
        if std::mem::take(&mut self.yields) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Some(item) = ready!(self.items.poll_next(cx)) else { return Poll::Ready(None) };
        Poll::Ready(Some(item.and_then(|bytes| {
            let decoded = decode_counted(&bytes, self.items.limits());
            let memory = decoded.as_ref().map_or(LARGE, |decoded| decoded.charged);
            self.yields = memory.max(bytes.len()) >= LARGE;
            decoded.map(|decoded| decoded.value)
        })))
    }
}

/// The sending end of [`Streaming::channel`].
#[derive(Debug)]
pub struct StreamSender<T>(mpsc::Sender<Result<T, RpcError>>);

impl<T> Clone for StreamSender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> StreamSender<T> {
    /// Sends an item, after waiting for room. Cancel safe: either it was sent or not.
    ///
    /// # Errors
    /// The receiver is gone; the item comes back.
    pub async fn send(&self, item: T) -> Result<(), T> {
        match self.0.reserve().await {
            Ok(permit) => {
                permit.send(Ok(item));
                Ok(())
            }
            Err(_) => Err(item),
        }
    }

    /// Ends the stream with an error. Without it, the stream ends well when the last sender is
    /// dropped.
    pub async fn fail(self, error: RpcError) {
        // Fails only if the receiver is gone.
        let _ = self.0.send(Err(error)).await;
    }
}

struct Received<T>(mpsc::Receiver<Result<T, RpcError>>);

impl<T> Stream for Received<T> {
    type Item = Result<T, RpcError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}

struct Iter<I>(I);

/// The iterator is only ever used by reference, nothing is pinned in it.
impl<I> Unpin for Iter<I> {}

impl<I: Iterator> Stream for Iter<I> {
    type Item = Result<I::Item, RpcError>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.0.next().map(Ok))
    }
}

impl<T> Streaming<T> {
    /// The items of `stream`. An error ends it, and is what the receiver gets.
    pub fn from_stream(stream: impl Stream<Item = Result<T, RpcError>> + Send + 'static) -> Self {
        Self::of(Inner::Local(Box::pin(stream)))
    }

    /// The items of `items`, taken as they are wanted.
    pub fn from_items<I>(items: I) -> Self
    where
        I: IntoIterator<Item = T>,
        I::IntoIter: Send + 'static,
        T: 'static,
    {
        Self::from_stream(Iter(items.into_iter()))
    }

    /// What is sent into the sender; `capacity` items (at least 1) wait to be taken.
    pub fn channel(capacity: usize) -> (StreamSender<T>, Self)
    where
        T: Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(capacity.max(1));
        (StreamSender(sender), Self::from_stream(Received(receiver)))
    }

    fn of(inner: Inner<T>) -> Self {
        Self(Mutex::new(Some(inner)))
    }

    fn inner(&mut self) -> Option<&mut Inner<T>> {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut()
    }
}

impl<T: for<'de> Deserialize<'de>> Streaming<T> {
    /// The next item; `None` at the end. Cancel safe: no item is lost.
    pub async fn next(&mut self) -> Option<Result<T, RpcError>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl<T: for<'de> Deserialize<'de>> Stream for Streaming<T> {
    type Item = Result<T, RpcError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.inner().map_or(Poll::Ready(None), |inner| inner.poll_next(cx))
    }
}

impl<T> fmt::Debug for Streaming<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streaming").finish_non_exhaustive()
    }
}

// ---- how a stream gets into a call and out of it ---------------------------------------------

impl<T: Wire> Source for Inner<T> {
    fn poll_next_into(
        &mut self,
        cx: &mut Context<'_>,
        form: Form,
        out: &mut Vec<u8>,
    ) -> Poll<Option<Result<(), RpcError>>> {
        self.poll_next(cx).map(|item| {
            item.map(|item| item.and_then(|item| payload::encode(&item, form, out).map(drop)))
        })
    }
}

/// What streams of the call that this thread encodes or decodes leave here, or find here.
enum Slot {
    /// No call is being encoded or decoded.
    Outside,
    Outgoing(Collected),
    Incoming(Option<Box<dyn Items>>),
}

/// The stream of a value that was encoded. The value may be encoded again, in another form, as long
/// as it stays where it is.
#[derive(Default)]
pub(crate) struct Collected {
    pub(crate) source: Option<Box<dyn Source>>,
    /// The address of the [`Streaming`] that it came from.
    from: usize,
}

thread_local! {
    static SLOT: RefCell<Slot> = const { RefCell::new(Slot::Outside) };
}

/// Puts the outer slot back, also when a user's code panics.
struct Restore(Option<Slot>);

impl Restore {
    fn enter(slot: Slot) -> Self {
        Self(Some(SLOT.replace(slot)))
    }

    fn leave(mut self) -> Slot {
        self.0.take().map_or(Slot::Outside, |outer| SLOT.replace(outer))
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        if let Some(outer) = self.0.take() {
            SLOT.replace(outer);
        }
    }
}

/// Runs `encode`; a stream that is serialized leaves its source in `collected`.
pub(crate) fn collect<R>(collected: &mut Collected, encode: impl FnOnce() -> R) -> R {
    let restore = Restore::enter(Slot::Outgoing(std::mem::take(collected)));
    let result = encode();
    if let Slot::Outgoing(outgoing) = restore.leave() {
        *collected = outgoing;
    }
    result
}

/// Runs `decode`; a stream that is deserialized takes `stream`.
pub(crate) fn offer<R>(stream: Option<Box<dyn Items>>, decode: impl FnOnce() -> R) -> R {
    if stream.is_none() {
        return decode();
    }
    let _restore = Restore::enter(Slot::Incoming(stream));
    decode()
}

impl<T: Wire> Streaming<T> {
    /// Hands the source to the call that is being encoded.
    fn leave(&self, inner: &mut Option<Inner<T>>) -> Result<(), &'static str> {
        let from = std::ptr::from_ref(self).addr();
        SLOT.with_borrow_mut(|slot| match slot {
            Slot::Outgoing(collected) if collected.from == from => Ok(()),
            Slot::Outgoing(Collected { source: Some(_), .. }) => {
                Err("a call can have one stream in each direction, not more")
            }
            Slot::Outgoing(collected) => {
                let source = inner.take().ok_or("this stream was sent already")?;
                *collected = Collected { source: Some(Box::new(source)), from };
                Ok(())
            }
            Slot::Outside | Slot::Incoming(_) => {
                Err("a stream can only be an argument or a result of a remote method")
            }
        })
    }
}

/// Nil on the wire.
impl<T: Wire> Serialize for Streaming<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Inner::Traced(item)) = &*inner {
            return serializer.serialize_newtype_struct(STREAM, item);
        }
        self.leave(&mut inner).map_err(serde::ser::Error::custom)?;
        serializer.serialize_unit()
    }
}

impl<'de, T: Wire> Deserialize<'de> for Streaming<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(STREAM, StreamVisitor(PhantomData))
    }
}

struct StreamVisitor<T>(PhantomData<fn() -> T>);

impl<'de, T: Wire> Visitor<'de> for StreamVisitor<T> {
    type Value = Streaming<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a stream")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, d: D) -> Result<Streaming<T>, D::Error> {
        use serde::de::Error;
        <()>::deserialize(d)?;
        let stream = SLOT.with_borrow_mut(|slot| match slot {
            Slot::Incoming(stream) => stream.take(),
            Slot::Outside | Slot::Outgoing(_) => None,
        });
        let items = stream.ok_or_else(|| D::Error::custom("no stream came with this call"))?;
        Ok(Streaming::of(Inner::Remote(Remote { items, yields: false }, PhantomData)))
    }

    /// Only when the shape of a type is found out: an item in place of the stream.
    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Streaming<T>, D::Error> {
        T::deserialize(d).map(|item| Streaming::of(Inner::Traced(Box::new(item))))
    }
}
