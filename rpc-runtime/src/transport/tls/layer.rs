//! TLS between a channel and the transport below it.
//!
//! `rustls` does no I/O; it converts plaintext to ciphertext and back. The reading and the writing
//! half share its state.
//!
//! The writer reports bytes as written once the transport below has accepted all of their
//! ciphertext. So the channel needs no special handling of TLS, neither for back-pressure nor for
//! the close after the last write. If the ciphertext does not fit completely, nothing is reported
//! as written. The plaintext is already `encrypted`, though, and must be passed again, by the rule
//! of [`Writer::try_write`].

use std::future::poll_fn;
use std::io::{self, BufRead, IoSlice, Write};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use rpc_registry::sync::{Mutex, MutexGuard};
use rustls::Connection;
use tokio::sync::Semaphore;
use tokio::task::yield_now;

use super::explain;
use crate::transport::{Reader, Writer};

/// The name of this protocol within TLS (ALPN). A peer that names only others is refused.
pub(super) const PROTOCOL: &[u8] = b"rpc/1";

/// Maximum ciphertext per read: two records of maximum size.
const READ_BYTES: usize = 32 << 10;
/// Maximum plaintext that is encrypted before the transport has accepted its ciphertext. A peer
/// that reads less than this within the slow-reader timeout appears not to read at all.
const WRITE_BYTES: usize = 32 << 10;

struct Session {
    tls: Connection,
    /// Bytes of plaintext that are encrypted and not yet reported as written.
    encrypted: usize,
}

impl Session {
    /// Writes all ciphertext to the transport.
    ///
    /// # Errors
    /// `WouldBlock` if some of it does not fit.
    fn flush(&mut self, below: &dyn Writer) -> io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut CiphertextWriter(below)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Encrypts and writes. Returns how many bytes of plaintext have left.
    fn write(&mut self, pieces: &[IoSlice<'_>], below: &dyn Writer) -> io::Result<usize> {
        self.flush(below)?;
        if self.encrypted == 0 {
            self.encrypted = self.tls.writer().write_vectored(pieces)?;
            self.flush(below)?;
        }
        Ok(std::mem::take(&mut self.encrypted))
    }

    /// Decrypts some of `ciphertext` and removes it.
    fn decrypt(&mut self, ciphertext: &mut BytesMut) -> io::Result<()> {
        match self.tls.read_tls(&mut &**ciphertext)? {
            // The peer has closed TLS. Bytes after that are ignored.
            0 => ciphertext.clear(),
            read => ciphertext.advance(read),
        }
        self.tls.process_new_packets().map(drop).map_err(explain::error)
    }

    /// Appends decrypted bytes, at most `room`. `Ok(0)` is the end.
    ///
    /// # Errors
    /// `WouldBlock` if there is none.
    fn take_plaintext(&mut self, buffer: &mut BytesMut, room: usize) -> io::Result<usize> {
        let mut reader = self.tls.reader();
        let mut taken = 0;
        while taken < room {
            match reader.fill_buf() {
                Ok([]) => break,
                Ok(chunk) => {
                    let part = chunk.get(..room - taken).unwrap_or(chunk);
                    buffer.extend_from_slice(part);
                    let part = part.len();
                    reader.consume(part);
                    taken += part;
                }
                Err(_) if taken > 0 => break,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(explain::truncated());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(taken)
    }

    /// Sends the TLS close. Never waits: if the transport is full, it is not sent.
    fn close(&mut self, below: &dyn Writer) {
        self.tls.send_close_notify();
        let _ = self.flush(below);
    }
}

/// Adapts the transport to the writer of `rustls`.
struct CiphertextWriter<'w>(&'w dyn Writer);

impl Write for CiphertextWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The shared state of the two halves.
struct Layer {
    session: Mutex<Session>,
    below: Box<dyn Writer>,
}

impl Layer {
    fn locked(&self) -> MutexGuard<'_, Session> {
        self.session.lock()
    }

    /// Writes waiting ciphertext: messages of TLS itself, such as key updates, and the rest of the
    /// last write.
    fn poll_flush(&self, cx: &mut Context<'_>) -> io::Result<()> {
        loop {
            match self.locked().flush(&*self.below) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            match self.below.poll_write_ready(cx) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => return Ok(()),
            }
        }
    }
}

pub(super) struct TlsReader {
    layer: Arc<Layer>,
    below: Box<dyn Reader>,
    /// Received bytes that are not yet decrypted. Without memory while the peer is silent.
    ciphertext: BytesMut,
    /// Reported after the plaintext that precedes it.
    failed: Option<io::Error>,
}

impl Reader for TlsReader {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        let room = limit.min(buffer.capacity() - buffer.len());
        let mut taken = 0;
        loop {
            let mut session = self.layer.locked();
            loop {
                match session.take_plaintext(buffer, room - taken) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => self.failed = self.failed.take().or(Some(error)),
                    Ok(0) => return Poll::Ready(Ok(taken)),
                    Ok(n) => taken += n,
                }
                if self.failed.is_some() || self.ciphertext.is_empty() || taken == room {
                    break;
                }
                self.failed = session.decrypt(&mut self.ciphertext).err();
            }
            drop(session);
            if taken > 0 {
                return Poll::Ready(Ok(taken));
            }
            if let Some(error) = self.failed.take() {
                // Sends the reason to the peer, if it fits.
                let _ = self.layer.poll_flush(cx);
                return Poll::Ready(Err(error));
            }
            self.ciphertext.reserve(READ_BYTES);
            match self.below.poll_read(cx, &mut self.ciphertext, usize::MAX)? {
                Poll::Ready(0) => {
                    self.layer.locked().tls.read_tls(&mut io::empty())?;
                }
                Poll::Ready(_) => {}
                Poll::Pending => {
                    self.ciphertext = BytesMut::new();
                    self.layer.poll_flush(cx)?;
                    return Poll::Pending;
                }
            }
        }
    }

    fn is_closed(&mut self, cx: &mut Context<'_>) -> bool {
        self.below.is_closed(cx)
    }
}

pub(super) struct TlsWriter(Arc<Layer>);

impl Writer for TlsWriter {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.try_write_vectored(&[IoSlice::new(bytes)])
    }

    fn try_write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.locked().write(pieces, &*self.0.below)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.below.poll_write_ready(cx)
    }

    fn shutdown_write(&self) {
        self.0.locked().close(&*self.0.below);
        self.0.below.shutdown_write();
    }

    fn shutdown(&self) {
        self.0.locked().close(&*self.0.below);
        self.0.below.shutdown();
    }
}

/// A connection during its handshake.
pub(super) struct Handshake {
    session: Session,
    reader: Box<dyn Reader>,
    writer: Box<dyn Writer>,
    ciphertext: BytesMut,
    /// Reported after the alert was sent to the peer.
    failed: Option<io::Error>,
}

impl Handshake {
    pub(super) fn new(
        mut tls: Connection,
        reader: Box<dyn Reader>,
        writer: Box<dyn Writer>,
    ) -> Self {
        tls.set_buffer_limit(Some(WRITE_BYTES));
        let session = Session { tls, encrypted: 0 };
        Self { session, reader, writer, ciphertext: BytesMut::new(), failed: None }
    }

    /// Performs the handshake. When it returns, the last message of this end was sent, also if that
    /// is an alert.
    ///
    /// Computations, such as a signature, wait for one of `permits`.
    pub(super) async fn run(&mut self, permits: Option<&Semaphore>) -> io::Result<()> {
        while poll_fn(|cx| self.poll_received(cx)).await? {
            let permit = match permits {
                // The semaphore is never closed.
                Some(permits) => permits.acquire().await.ok(),
                None => None,
            };
            self.process_received();
            if permit.is_some() {
                // Released only after other ready tasks had a chance to run.
                yield_now().await;
            }
        }
        Ok(())
    }

    /// Processes received bytes. Bytes after the handshake are left for the reader.
    fn process_received(&mut self) {
        while self.failed.is_none()
            && !self.ciphertext.is_empty()
            && self.session.tls.is_handshaking()
        {
            self.failed = self.session.decrypt(&mut self.ciphertext).err();
        }
    }

    /// Whether there are more bytes to process; otherwise the handshake is complete.
    fn poll_received(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let flushed = self.poll_flush(cx)?;
        if self.failed.is_some() || !self.session.tls.is_handshaking() {
            ready!(flushed);
            return Poll::Ready(self.failed.take().map_or(Ok(false), Err));
        }
        // Reads also while it cannot write: both ends may have to write at the same time.
        self.ciphertext.reserve(READ_BYTES);
        let Poll::Ready(read) = self.reader.poll_read(cx, &mut self.ciphertext, usize::MAX) else {
            // Everything was processed. Free the buffer, so that slow peers cost little.
            self.ciphertext = BytesMut::new();
            return Poll::Pending;
        };
        if read? == 0 {
            let why = "the peer closed the connection within the TLS handshake";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, why)));
        }
        Poll::Ready(Ok(true))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.session.flush(&*self.writer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
            ready!(self.writer.poll_write_ready(cx))?;
        }
    }

    /// Reads and ignores bytes until the peer has closed. Without this, a reset could destroy the
    /// alert before the peer reads it.
    pub(super) async fn linger(&mut self) {
        self.writer.shutdown_write();
        let Self { reader, ciphertext, .. } = self;
        loop {
            ciphertext.clear();
            ciphertext.reserve(READ_BYTES);
            match poll_fn(|cx| reader.poll_read(cx, ciphertext, usize::MAX)).await {
                Ok(read) if read > 0 => {}
                _ => return,
            }
        }
    }

    pub(super) fn session(&self) -> &Connection {
        &self.session.tls
    }

    pub(super) fn into_halves(self) -> (TlsReader, TlsWriter) {
        let Self { session, reader, writer, ciphertext, failed } = self;
        let layer = Arc::new(Layer { session: Mutex::new(session), below: writer });
        let reader = TlsReader { layer: Arc::clone(&layer), below: reader, ciphertext, failed };
        (reader, TlsWriter(layer))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::task::Waker;

    use rcgen::generate_simple_self_signed;
    use rustls::pki_types::ServerName;
    use rustls::{ClientConnection, ServerConnection};

    use super::*;
    use crate::transport::tls::{ClientTls, ServerTls};

    /// One direction, which takes next to nothing at a time.
    #[derive(Default)]
    struct Narrow {
        bytes: VecDeque<u8>,
        room: usize,
        closed: bool,
        waker: Option<Waker>,
    }

    #[derive(Clone, Default)]
    struct End(Arc<Mutex<Narrow>>);

    impl End {
        fn with_room(room: usize) -> Self {
            Self(Arc::new(Mutex::new(Narrow { room, ..Narrow::default() })))
        }
    }

    impl Reader for End {
        fn poll_read(
            &mut self,
            cx: &mut Context<'_>,
            buffer: &mut BytesMut,
            _: usize,
        ) -> Poll<io::Result<usize>> {
            let mut pipe = self.0.lock();
            let all: Vec<u8> = pipe.bytes.drain(..).collect();
            buffer.extend_from_slice(&all);
            let other = pipe.waker.replace(cx.waker().clone());
            other.into_iter().for_each(Waker::wake);
            match all.len() {
                0 if !pipe.closed => Poll::Pending,
                n => Poll::Ready(Ok(n)),
            }
        }

        fn is_closed(&mut self, _: &mut Context<'_>) -> bool {
            self.0.lock().closed
        }
    }

    impl Writer for End {
        fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
            let mut pipe = self.0.lock();
            let n = bytes.len().min(pipe.room - pipe.bytes.len());
            if n == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            pipe.bytes.extend(&bytes[..n]);
            pipe.waker.take().into_iter().for_each(Waker::wake);
            Ok(n)
        }

        fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            let mut pipe = self.0.lock();
            if pipe.bytes.len() < pipe.room {
                return Poll::Ready(Ok(()));
            }
            let other = pipe.waker.replace(cx.waker().clone());
            other.into_iter().for_each(Waker::wake);
            Poll::Pending
        }

        fn shutdown_write(&self) {
            self.0.lock().closed = true;
        }

        fn shutdown(&self) {
            self.shutdown_write();
        }
    }

    /// Two ends that know each other, over pipes with so much room.
    async fn pair(room: usize) -> [(TlsReader, TlsWriter); 2] {
        let certificate = generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let pem = certificate.cert.pem();
        let key = certificate.signing_key.serialize_pem();
        let server = ServerTls::from_pem(pem.as_bytes(), key.as_bytes()).unwrap();
        let client = ClientTls::roots_pem(pem.as_bytes()).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let client = client.config(client.verifier(None).unwrap()).unwrap();
        let client = ClientConnection::new(Arc::new(client), name).unwrap();
        let server = ServerConnection::new(Arc::new(server.config(None).unwrap())).unwrap();
        let (there, back) = (End::with_room(room), End::with_room(room));
        let mut client =
            Handshake::new(client.into(), Box::new(back.clone()), Box::new(there.clone()));
        let mut server = Handshake::new(server.into(), Box::new(there), Box::new(back));
        let permits = Semaphore::new(1);
        let (at_client, at_server) = tokio::join!(client.run(None), server.run(Some(&permits)));
        at_client.and(at_server).unwrap();
        [client.into_halves(), server.into_halves()]
    }

    async fn write_all(writer: &TlsWriter, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (front, back) = bytes.split_at(bytes.len() / 3);
            let written = writer.try_write_vectored(&[IoSlice::new(front), IoSlice::new(back)]);
            match written {
                Ok(n) => {
                    assert!(!writer.0.locked().tls.wants_write(), "it has not left");
                    bytes = &bytes[n..];
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll_fn(|cx| writer.poll_write_ready(cx)).await.unwrap();
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// All there is until the end, in reads of at most `limit`.
    async fn read_all(reader: &mut TlsReader, limit: usize) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        let mut buffer = BytesMut::with_capacity(40_000);
        loop {
            buffer.clear();
            let read = poll_fn(|cx| reader.poll_read(cx, &mut buffer, limit)).await?;
            assert!(read == buffer.len() && read <= limit, "{read}");
            if read == 0 {
                return Ok(all);
            }
            all.extend_from_slice(&buffer);
        }
    }

    fn payload(seed: u8, len: usize) -> Vec<u8> {
        (0..len).map(|at| (at / 251) as u8 ^ at as u8 ^ seed).collect()
    }

    #[tokio::test]
    async fn bytes_arrive_in_order_through_pipes_that_take_next_to_nothing() {
        for (room, limit, len) in [
            (1, usize::MAX, 2_000),
            (100, 7, 40_000),
            (5_000, 1_000, 200_000),
            (70_000, usize::MAX, 200_000),
        ] {
            let [(mut reader, writer), (mut other_reader, other_writer)] = pair(room).await;
            let (one, other) = (payload(1, len), payload(2, len / 2));
            let send = async |writer: &TlsWriter, bytes: &[u8]| {
                let (first, second) = bytes.split_at(bytes.len() / 2);
                write_all(writer, first).await;
                // Keys change while bytes are under way in both directions.
                writer.0.locked().tls.refresh_traffic_keys().unwrap();
                write_all(writer, second).await;
                // Only the last word must find room at once.
                poll_fn(|cx| writer.poll_write_ready(cx)).await.unwrap();
                writer.0.locked().tls.send_close_notify();
                poll_fn(|cx| {
                    writer.0.poll_flush(cx).unwrap();
                    match writer.0.locked().tls.wants_write() {
                        true => Poll::Pending,
                        false => Poll::Ready(()),
                    }
                })
                .await;
            };
            let (_, _, at_one, at_other) = tokio::join!(
                send(&writer, &one),
                send(&other_writer, &other),
                read_all(&mut reader, limit),
                read_all(&mut other_reader, limit),
            );
            assert!(at_one.unwrap() == other && at_other.unwrap() == one, "room {room}");
        }
    }

    #[tokio::test]
    async fn an_end_without_a_tls_close_is_an_error_behind_what_came_before() {
        let [(_, writer), (mut reader, _)] = pair(70_000).await;
        write_all(&writer, b"before").await;
        writer.0.below.shutdown();
        let mut buffer = BytesMut::with_capacity(100);
        assert_eq!(poll_fn(|cx| reader.poll_read(cx, &mut buffer, 100)).await.unwrap(), 6);
        let error = poll_fn(|cx| reader.poll_read(cx, &mut buffer, 100)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);

        let [(_, writer), (mut reader, _)] = pair(70_000).await;
        write_all(&writer, b"before").await;
        writer.shutdown();
        assert_eq!(read_all(&mut reader, 100).await.unwrap(), b"before");
    }

    #[test]
    fn a_handshake_that_waits_keeps_no_buffer() {
        let certificate = generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let key = certificate.signing_key.serialize_pem();
        let server = ServerTls::from_pem(certificate.cert.pem().as_bytes(), key.as_bytes());
        let config = Arc::new(server.unwrap().config(None).unwrap());
        let (there, back) = (End::with_room(100), End::with_room(100));
        let tls = ServerConnection::new(config).unwrap();
        let mut handshake = Handshake::new(tls.into(), Box::new(there.clone()), Box::new(back));
        let mut cx = Context::from_waker(Waker::noop());
        // The front of a ClientHello.
        for part in [&[][..], &[0x16, 3, 1, 2], &[0, 1, 0, 1, 0xfc, 3, 3]] {
            assert!(part.is_empty() || there.try_write(part).unwrap() == part.len());
            if !part.is_empty() {
                assert!(matches!(handshake.poll_received(&mut cx), Poll::Ready(Ok(true))));
                handshake.process_received();
            }
            assert!(handshake.poll_received(&mut cx).is_pending());
            assert_eq!(handshake.ciphertext.capacity(), 0);
        }
    }

    #[tokio::test]
    async fn an_idle_reader_keeps_no_memory() {
        let [(_, writer), (mut reader, _)] = pair(70_000).await;
        write_all(&writer, &payload(1, 20_000)).await;
        let mut buffer = BytesMut::with_capacity(20_000);
        while buffer.len() < 20_000 {
            poll_fn(|cx| reader.poll_read(cx, &mut buffer, usize::MAX)).await.unwrap();
        }
        buffer.reserve(1);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(reader.poll_read(&mut cx, &mut buffer, 1).is_pending());
        assert_eq!(reader.ciphertext.capacity(), 0);
    }
}
