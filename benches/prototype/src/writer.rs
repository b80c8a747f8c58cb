//! Combined frames of many callers, written by one of them.

use std::io;
use std::mem::{swap, take};
use std::sync::{Arc, Mutex, Weak};

use harness::Result;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;

use crate::lock;

pub(crate) struct Writer {
    socket: OwnedWriteHalf,
    state: Mutex<State>,
    kick: Notify,
}

#[derive(Default)]
struct State {
    /// Frames that are not being written yet.
    gathered: Vec<u8>,
    /// Bytes that the socket did not accept; [`Writer::finish`] writes them.
    rest: Vec<u8>,
    /// Set while a caller writes. It checks for more frames before it stops.
    writing: bool,
}

impl Writer {
    pub(crate) fn new(socket: OwnedWriteHalf) -> Arc<Self> {
        let writer = Arc::new(Self { socket, state: Mutex::default(), kick: Notify::new() });
        tokio::spawn(Self::finish(Arc::downgrade(&writer)));
        writer
    }

    /// Appends a frame, and writes it unless another caller is writing. If it is not `alone`, it
    /// first lets other callers append their frames. If the caller is dropped meanwhile, the frames
    /// stay unwritten.
    pub(crate) async fn send(
        &self,
        alone: bool,
        append: impl FnOnce(&mut Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        {
            let mut state = lock(&self.state);
            append(&mut state.gathered)?;
            if state.writing {
                return Ok(());
            }
            state.writing = true;
        }
        if !alone {
            tokio::task::yield_now().await;
        }
        self.flush();
        Ok(())
    }

    fn flush(&self) {
        let mut out = take(&mut lock(&self.state).gathered);
        loop {
            let mut written = 0;
            while written < out.len() {
                match self.socket.try_write(out.get(written..).unwrap_or_default()) {
                    Ok(n) => written += n,
                    Err(_) => {
                        out.drain(..written);
                        lock(&self.state).rest = out;
                        self.kick.notify_one();
                        return;
                    }
                }
            }
            out.clear();
            let mut state = lock(&self.state);
            if state.gathered.is_empty() {
                state.gathered = out;
                state.writing = false;
                return;
            }
            swap(&mut out, &mut state.gathered);
        }
    }

    /// Writes the bytes that the socket did not accept. Ends with the connection.
    async fn finish(writer: Weak<Self>) -> io::Result<()> {
        while let Some(writer) = writer.upgrade() {
            writer.kick.notified().await;
            let mut out = take(&mut lock(&writer.state).rest);
            loop {
                let mut written = 0;
                while written < out.len() {
                    writer.socket.writable().await?;
                    match writer.socket.try_write(out.get(written..).unwrap_or_default()) {
                        Ok(n) => written += n,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error),
                    }
                }
                let mut state = lock(&writer.state);
                out.clear();
                if state.gathered.is_empty() {
                    state.writing = false;
                    break;
                }
                swap(&mut out, &mut state.gathered);
            }
        }
        Ok(())
    }
}
