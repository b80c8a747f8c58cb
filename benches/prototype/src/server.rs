//! All requests of a read are handled in place, and answered with one write.

use std::net::SocketAddr;

use bytes::{Buf, BytesMut};
use harness::Result;
use harness::work::Order;
use raw::frame::{self, Frame, fill, first};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::{NUMBER, ORDER, TEXT};

pub(crate) async fn serve(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    harness::listening(listener.local_addr()?)?;
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        tokio::spawn(async move {
            if let Err(error) = connection(socket).await {
                eprintln!("{error}");
            }
        });
    }
}

async fn connection(mut socket: TcpStream) -> Result<()> {
    let mut input = BytesMut::with_capacity(4 << 10);
    let mut out = Vec::new();
    while fill(&mut socket, &mut input).await? {
        let mut read = 0;
        while let Some(request) = input.get(read..).and_then(first) {
            answer(request, &mut out).await?;
            read += request.len();
        }
        input.advance(read);
        socket.write_all(&out).await?;
        out.clear();
    }
    Ok(())
}

async fn answer(request: Frame<'_>, out: &mut Vec<u8>) -> Result<()> {
    match request.method {
        ORDER => echo::<Order>(request, out).await,
        TEXT => echo::<String>(request, out).await,
        NUMBER => echo::<u64>(request, out).await,
        method => {
            frame::put(out, request.id, method, request.payload);
            Ok(())
        }
    }
}

async fn echo<T: DeserializeOwned + Serialize>(
    request: Frame<'_>,
    out: &mut Vec<u8>,
) -> Result<()> {
    let value: T = rmp_serde::from_slice(request.payload)?;
    let begin = frame::begin(out, request.id, request.method);
    rmp_serde::encode::write(out, &value)?;
    frame::end(out, begin);
    Ok(())
}
