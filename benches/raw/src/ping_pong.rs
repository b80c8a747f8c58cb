//! One frame at a time on a connection: the limit for a lone call.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use harness::work::Call;
use harness::{Connection, Result};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::frame::{fill, first};

/// A connection that sends the same frame each time.
#[derive(Clone)]
pub(crate) struct PingPong {
    frame: Arc<Vec<u8>>,
    socket: Arc<Mutex<(TcpStream, BytesMut)>>,
}

impl PingPong {
    pub(crate) async fn connect(address: SocketAddr, frame: Vec<u8>) -> Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let socket = Arc::new(Mutex::new((socket, BytesMut::new())));
        Ok(Self { frame: Arc::new(frame), socket })
    }
}

impl Connection for PingPong {
    async fn call(&self, _: Call) -> Result<()> {
        let (socket, answer) = &mut *self.socket.lock().await;
        socket.write_all(&self.frame).await?;
        answer.clear();
        while first(answer).is_none() {
            if !fill(socket, answer).await? {
                return Err("the server is gone".into());
            }
        }
        Ok(())
    }
}
