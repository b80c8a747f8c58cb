//! Frames of many callers, gathered and written together by one of them.

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
    /// Frames that nobody writes yet.
    gathered: Vec<u8>,
    /// What the socket did not take; [`Writer::finish`] writes it.
    rest: Vec<u8>,
    /// Somebody writes, and looks at what has gathered before it stops.
    writing: bool,
}

impl Writer {
    pub(crate) fn new(socket: OwnedWriteHalf) -> Arc<Self> {
        let writer = Arc::new(Self { socket, state: Mutex::default(), kick: Notify::new() });
        tokio::spawn(Self::finish(Arc::downgrade(&writer)));
        writer
    }

    /// Appends a frame, and writes it if nobody else does. Unless it is `alone`, it first lets
    /// others append theirs. A caller that is dropped meanwhile leaves the frames unwritten.
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

    /// Writes what the socket did not take at once. Ends with the connection.
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
