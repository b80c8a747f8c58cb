use std::fs::Metadata;
use std::time::SystemTime;

/// What tells a file from another one, and one state of it from the next.
///
/// As long as someone has the file open its inode number is not given to another one, so compare
/// with the stamp of a file that is kept open.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stamp {
    identity: Identity,
    length: u64,
    // A person who edits the file in place, at the same length and within the same tick of the
    // file system's clock (milliseconds), would go unnoticed. The registry itself never edits.
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

    /// Whether both are of one file, whatever was written to it in between.
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

/// Elsewhere the standard library has no stable way to ask; length and time must do.
#[cfg(not(unix))]
type Identity = ();

#[cfg(not(unix))]
fn identity(_: &Metadata) -> Identity {}
