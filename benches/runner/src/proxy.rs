//! A TCP proxy that counts bytes.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use harness::Result;

/// Forwards connections to a server until it is dropped.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    to_server: AtomicU64,
    to_client: AtomicU64,
    over: AtomicBool,
}

impl Proxy {
    pub(crate) fn to(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let counts = Arc::new(Counts::default());
        let shared = counts.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(|client| client.ok()) {
                if shared.over.load(Ordering::Relaxed) || connect(client, server, &shared).is_err()
                {
                    return;
                }
            }
        });
        Ok(Self { address, counts })
    }

    /// The bytes sent to the server, and to its clients.
    pub(crate) fn counted(&self) -> (u64, u64) {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (count(&self.counts.to_server), count(&self.counts.to_client))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.counts.over.store(true, Ordering::Relaxed);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
    }
}

fn connect(client: TcpStream, server: SocketAddr, counts: &Arc<Counts>) -> io::Result<()> {
    let server = TcpStream::connect(server)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, from_server) = (client.try_clone()?, server.try_clone()?);
    let (up, down) = (counts.clone(), counts.clone());
    thread::spawn(move || pass(from_client, server, &up.to_server));
    thread::spawn(move || pass(from_server, client, &down.to_client));
    Ok(())
}

/// Forwards until one end closes, then closes the other. An error counts as a close.
fn pass(mut from: TcpStream, mut to: TcpStream, count: &AtomicU64) {
    let mut bytes = [0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        count.fetch_add(read as u64, Ordering::Relaxed);
        if to.write_all(bytes.get(..read).unwrap_or_default()).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_passed_on_and_counted() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let proxy = Proxy::to(listener.local_addr().unwrap()).unwrap();
        let mut client = TcpStream::connect(proxy.address).unwrap();
        client.write_all(&[1; 40_000]).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        assert_eq!(server.read_to_end(&mut Vec::new()).unwrap(), 40_000);
        server.write_all(&[2; 3]).unwrap();
        drop(server);
        assert_eq!(client.read_to_end(&mut Vec::new()).unwrap(), 3);
        assert_eq!(proxy.counted(), (40_000, 3));
    }
}
