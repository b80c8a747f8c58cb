//! A `memory:` connection whose bytes a test reads and writes.

use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::BytesMut;

use super::{ConnectSettings, ListenSettings, Transport, connect, listen};
use crate::protocol::{Codec, Frame, FrameCodec, HEADER_LEN, Header, Hello, Kind, Output};
use crate::uri::Uri;

/// A connection within the process: the end for the code under test, and the end for the test.
pub(crate) async fn pair() -> (Transport, RawEnd) {
    static NAMES: AtomicUsize = AtomicUsize::new(0);
    let name = format!("memory:raw-{}", NAMES.fetch_add(1, Ordering::Relaxed));
    let uri = Uri::parse(&name).unwrap();
    let mut listener = listen(&uri, &ListenSettings::default()).await.unwrap();
    let raw = RawEnd::connect(&name).await;
    (listener.accept().await.unwrap().open().await.unwrap(), raw)
}

/// An end that reads and writes frames and arbitrary bytes.
pub(crate) struct RawEnd {
    transport: Transport,
    input: BytesMut,
}

impl RawEnd {
    pub(crate) async fn connect(uri: &str) -> Self {
        let transport =
            connect(&Uri::parse(uri).unwrap(), &ConnectSettings::default()).await.unwrap();
        Self { transport, input: BytesMut::new() }
    }

    /// Sends bytes. All of them must fit.
    pub(crate) fn send(&self, bytes: &[u8]) {
        assert_eq!(self.transport.writer.try_write(bytes).unwrap(), bytes.len());
    }

    pub(crate) fn send_frame(&self, header: Header, body: &[u8]) {
        let mut output = Output::default();
        FrameCodec::new(1 << 20).encode(&Frame::new(header, body), &mut output).unwrap();
        self.send(&output.to_vec());
    }

    pub(crate) fn send_hello(&self) {
        self.send_frame(Header::new(Kind::Hello), &Hello::default().encode().unwrap());
    }

    /// Reads some bytes, drops them and returns their number; 0 at the end of the connection.
    pub(crate) async fn read_some(&mut self, limit: usize) -> usize {
        let mut bytes = BytesMut::with_capacity(limit);
        let reader = &mut self.transport.reader;
        let read = poll_fn(|cx| reader.poll_read(cx, &mut bytes, limit)).await;
        read.unwrap()
    }

    /// The next frame; `None` at the end of the connection.
    pub(crate) async fn any_frame(&mut self) -> Option<(Header, Vec<u8>)> {
        loop {
            if let Some(header) = Header::decode(&self.input).unwrap() {
                let end = HEADER_LEN + header.length as usize;
                if self.input.len() >= end {
                    let frame = self.input.split_to(end);
                    return Some((header, frame[HEADER_LEN..].to_vec()));
                }
            }
            self.input.reserve(4096);
            let (reader, input) = (&mut self.transport.reader, &mut self.input);
            let read = poll_fn(|cx| reader.poll_read(cx, input, usize::MAX));
            // One hour of virtual time.
            let read = tokio::time::timeout(Duration::from_secs(3_600), read).await;
            if read.expect("a frame or the end").unwrap() == 0 {
                return None;
            }
        }
    }

    /// The next frame of this kind.
    pub(crate) async fn frame(&mut self, kind: Kind) -> Option<(Header, Vec<u8>)> {
        loop {
            let (header, body) = self.any_frame().await?;
            if header.kind == kind {
                return Some((header, body));
            }
        }
    }
}
