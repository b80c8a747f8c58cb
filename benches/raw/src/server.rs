//! Echoes all frames of a read with one write.

use std::net::SocketAddr;

use bytes::{Buf, BytesMut};
use harness::Result;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::frame::{fill, first};

pub(crate) async fn serve(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    harness::listening(listener.local_addr()?)?;
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        tokio::spawn(echo(socket));
    }
}

async fn echo(mut socket: TcpStream) -> Result<()> {
    let mut input = BytesMut::with_capacity(4 << 10);
    let (mut reader, mut writer) = socket.split();
    while fill(&mut reader, &mut input).await? {
        let mut whole = 0;
        while let Some(frame) = input.get(whole..).and_then(first) {
            whole += frame.len();
        }
        writer.write_all(input.get(..whole).unwrap_or_default()).await?;
        input.advance(whole);
    }
    Ok(())
}
