//! `unix:///path`: sockets in the file system of one machine.
//!
//! A server holds a lock on the file `<path>.lock` from before it examines the socket file until
//! after it has removed it. So if several servers find the socket file of a dead one, only one
//! replaces it, and none removes a socket on which another one has just begun to listen. Renaming a
//! temporary socket over the path would not be enough: the second server would replace the first,
//! which would run on without being reachable.
//!
//! The kernel releases the lock when the process ends. The lock file is never removed: a process
//! that has already opened it would hold the lock of a file that no other process can find.

use std::fs::{File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::SocketAddr;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use tokio::net::UnixStream;

use super::Transport;
use super::socket::SocketWriter;
use crate::error::RpcError;
use crate::uri::Uri;

/// The path of `uri`, checked to be a valid path of a socket.
pub(super) fn path(uri: &Uri) -> Result<&Path, RpcError> {
    let wrong = |why: &str| {
        RpcError::invalid(format!(
            "`{uri}` is not a valid address of a unix socket: {why}; write unix:///path"
        ))
    };
    let path = uri.rest();
    if !path.starts_with('/') {
        return Err(wrong("its path must be absolute, so with three slashes"));
    }
    if path.ends_with('/') {
        return Err(wrong("its path must end with a file name"));
    }
    if SocketAddr::from_pathname(path).is_err() {
        let room = if cfg!(any(target_os = "linux", target_os = "android")) { 107 } else { 103 };
        return Err(wrong(&format!(
            "its path has {} bytes, but a socket address can have {room} at most",
            path.len()
        )));
    }
    Ok(Path::new(path))
}

pub(super) async fn connect(uri: &Uri) -> Result<Transport, RpcError> {
    let stream = UnixStream::connect(path(uri)?).await.map_err(|error| {
        let why = match error.kind() {
            io::ErrorKind::NotFound => {
                "no server listens there, the file does not exist".to_owned()
            }
            io::ErrorKind::ConnectionRefused => "no server listens there any more".to_owned(),
            _ => error.to_string(),
        };
        RpcError::unavailable(format!("cannot connect: {why}")).with_source(&error)
    })?;
    Ok(open(stream, uri.to_string()))
}

fn open(stream: UnixStream, peer: String) -> Transport {
    let (reader, writer) = stream.into_split();
    Transport::new(reader, SocketWriter::new(writer), peer)
}

pub(crate) struct UnixListener {
    listener: tokio::net::UnixListener,
    uri: Uri,
    _file: SocketFile,
}

impl UnixListener {
    pub(super) fn bind(uri: &Uri) -> Result<Self, RpcError> {
        let path = path(uri)?;
        let lock = lock(uri, path)?;
        remove_stale_socket(uri, path)?;
        let listener =
            tokio::net::UnixListener::bind(path).map_err(|error| cannot_listen(uri, &error))?;
        let file = SocketFile::new(path, lock).map_err(|error| cannot_listen(uri, &error))?;
        // Registries need this form of the URI.
        Ok(Self { listener, uri: Uri::parse(&format!("unix://{}", uri.rest()))?, _file: file })
    }

    pub(super) async fn accept(&mut self) -> io::Result<Transport> {
        let (stream, _) = self.listener.accept().await?;
        let peer = match stream.peer_cred() {
            Ok(peer) => match peer.pid() {
                Some(pid) => format!("{}#pid={pid},uid={}", self.uri, peer.uid()),
                None => format!("{}#uid={}", self.uri, peer.uid()),
            },
            Err(_) => format!("{}#client", self.uri),
        };
        Ok(open(stream, peer))
    }

    pub(super) fn local_uri(&self) -> &Uri {
        &self.uri
    }
}

fn cannot_listen(uri: &Uri, error: &io::Error) -> RpcError {
    RpcError::unavailable(format!("cannot listen on {uri}: {error}")).with_source(error)
}

fn in_use(uri: &Uri) -> RpcError {
    RpcError::unavailable(format!("cannot listen on {uri}: the path is in use"))
}

/// Acquires the lock of the path. Dropping the file releases it.
fn lock(uri: &Uri, path: &Path) -> Result<File, RpcError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let failed = |error: io::Error| {
        RpcError::unavailable(format!(
            "cannot listen on {uri}: lock file {}: {error}",
            Path::new(&name).display()
        ))
        .with_source(&error)
    };
    // A user who can open the file can hold the lock and block the path. Links are not followed,
    // and opening does not block, as it would on a named pipe.
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits());
    let file = options.open(&name).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    check(&metadata).map_err(|why| failed(io::Error::other(why)))?;
    if metadata.uid() == geteuid().as_raw() && metadata.mode() & 0o077 != 0 {
        // Created by an earlier release or manually.
        file.set_permissions(Permissions::from_mode(0o600)).map_err(failed)?;
    }
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(in_use(uri)),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Checks that no other user has created the lock file, or may hold its lock.
fn check(metadata: &Metadata) -> Result<(), String> {
    let (owner, user) = (metadata.uid(), geteuid().as_raw());
    if !metadata.is_file() {
        return Err("it is not a regular file; remove it".to_owned());
    }
    if metadata.nlink() > 1 {
        let names = metadata.nlink();
        return Err(format!(
            "it has {names} names (hard links), so it may be another file; remove it"
        ));
    }
    if owner != 0 && owner != user {
        return Err(format!(
            "it belongs to the user {owner}, not to this user ({user}); put the socket into a \
             folder in which only this user can create files"
        ));
    }
    Ok(())
}

/// Removes the socket file of a dead server. The lock must be held.
fn remove_stale_socket(uri: &Uri, path: &Path) -> Result<(), RpcError> {
    let metadata = match path.symlink_metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(cannot_listen(uri, &error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(RpcError::unavailable(format!(
            "cannot listen on {uri}: the file exists and is not a socket; it was not changed"
        )));
    }
    // A server of another kind may listen there without the lock. Connecting does not block: a full
    // queue is an error too, and means that a server is alive.
    match probe(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(()) | Err(_) => return Err(in_use(uri)),
    }
    std::fs::remove_file(path).map_err(|error| cannot_listen(uri, &error))
}

fn probe(path: &Path) -> io::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&socket2::SockAddr::unix(path)?)
}

/// The socket file and its lock. Dropping it removes the file, then releases the lock.
struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
    _lock: File,
}

impl SocketFile {
    fn new(path: &Path, lock: File) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: file_id(path)?, _lock: lock })
    }
}

fn file_id(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = path.symlink_metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // The file may have been replaced manually.
        if file_id(&self.path).is_ok_and(|identity| identity == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
