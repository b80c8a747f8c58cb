//! [`Reader`] and [`Writer`] for sockets of the kernel.

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::{BufMut, BytesMut};
use rpc_registry::sync::{Mutex, MutexGuard};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, Interest};

use super::{Reader, Writer};

/// The writing half of a socket of any family.
pub(super) trait WriteHalf: Send + Sync + 'static {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;

    fn try_write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize>;

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Shuts down the socket, which the reading half shares.
    fn shutdown(&self, how: Shutdown) -> io::Result<()>;
}

macro_rules! halves_of {
    ($stream:path, $read_half:path, $write_half:path) => {
        impl Reader for $read_half {
            fn poll_read(
                &mut self,
                cx: &mut Context<'_>,
                buffer: &mut BytesMut,
                limit: usize,
            ) -> Poll<io::Result<usize>> {
                // Limited by the capacity, or the buffer would grow.
                let room = limit.min(buffer.capacity() - buffer.len());
                pin!(self.read_buf(&mut buffer.limit(room))).poll(cx)
            }

            fn is_closed(&mut self, cx: &mut Context<'_>) -> bool {
                match pin!(self.ready(Interest::READABLE)).poll(cx) {
                    Poll::Ready(Ok(ready)) => ready.is_read_closed(),
                    Poll::Ready(Err(_)) => true,
                    Poll::Pending => false,
                }
            }
        }

        impl WriteHalf for $write_half {
            fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
                self.try_write(bytes)
            }

            fn try_write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
                self.try_write_vectored(pieces)
            }

            fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                AsRef::<$stream>::as_ref(self).poll_write_ready(cx)
            }

            fn shutdown(&self, how: Shutdown) -> io::Result<()> {
                SockRef::from(AsRef::<$stream>::as_ref(self)).shutdown(how)
            }
        }
    };
}

halves_of!(tokio::net::TcpStream, tokio::net::tcp::OwnedReadHalf, tokio::net::tcp::OwnedWriteHalf);
#[cfg(unix)]
halves_of!(
    tokio::net::UnixStream,
    tokio::net::unix::OwnedReadHalf,
    tokio::net::unix::OwnedWriteHalf
);

/// Drops its socket on shutdown. Tasks that still run for the connection keep the channel, and must
/// not keep the file descriptor open.
pub(super) struct SocketWriter<W>(Mutex<Option<W>>);

impl<W: WriteHalf> SocketWriter<W> {
    pub(super) fn new(half: W) -> Self {
        Self(Mutex::new(Some(half)))
    }

    fn locked(&self) -> MutexGuard<'_, Option<W>> {
        self.0.lock()
    }
}

impl<W: WriteHalf> Writer for SocketWriter<W> {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match &*self.locked() {
            Some(socket) => socket.try_write(bytes),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn try_write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match &*self.locked() {
            Some(socket) => socket.try_write_vectored(pieces),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &*self.locked() {
            Some(socket) => socket.poll_write_ready(cx),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn shutdown_write(&self) {
        if let Some(socket) = &*self.locked() {
            // Fails only if the connection is already closed.
            let _ = socket.shutdown(Shutdown::Write);
        }
    }

    fn shutdown(&self) {
        if let Some(socket) = self.locked().take() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}
