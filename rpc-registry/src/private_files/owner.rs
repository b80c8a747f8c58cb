//! Owners and modes of files.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use nix::unistd::geteuid;

/// The permissions of other users to write.
pub(super) const OTHERS_WRITE: u32 = 0o022;

/// Whether files of this owner are trusted: root and this user.
pub(super) fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

pub(super) fn mode(metadata: &Metadata) -> u32 {
    metadata.mode() & 0o7777
}
