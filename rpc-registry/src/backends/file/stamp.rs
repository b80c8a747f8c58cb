use std::fs::Metadata;
use std::time::SystemTime;

/// Identifies a file and one state of its content.
///
/// As long as a process has the file open, its inode number is not given to another file. So
/// compare with the stamp of a file that is kept open.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stamp {
    identity: Identity,
    length: u64,
    // An edit by hand, in place, with the same length and within the same tick of the file system's
    // clock (milliseconds), is not noticed. The registry itself never edits in place.
    modified: Option<SystemTime>,
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            identity: identity(metadata),
            length: metadata.len(),
            modified: metadata.modified().ok(),
        }
    }

    /// Whether both are stamps of one file, with the same content or not.
    pub(super) fn is_same_file(&self, other: &Self) -> bool {
        self.identity == other.identity
    }
}

/// Device and inode.
#[cfg(unix)]
type Identity = (u64, u64);

#[cfg(unix)]
fn identity(metadata: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

/// On other systems the standard library has no stable way to identify a file; length and time must
/// do.
#[cfg(not(unix))]
type Identity = ();

#[cfg(not(unix))]
fn identity(_: &Metadata) -> Identity {}
