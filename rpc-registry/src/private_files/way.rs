//! The parents of a file or a folder, and the links on the path to it.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{NotPrivate, OTHERS_WRITE, is_trusted, mode};

const STICKY: u32 = 0o1000;

/// Checks that no other user can replace what this canonical path names. Checks all parents up to
/// the root, or up to a folder that is closed to other users.
pub(crate) fn check_parents(path: &Path) -> io::Result<()> {
    let mut refused = Ok(());
    for parent in path.ancestors().skip(1) {
        let it = parent.symlink_metadata()?;
        if is_trusted(it.uid()) && mode(&it) & 0o011 == 0 {
            return Ok(());
        }
        let is_shared = mode(&it) & OTHERS_WRITE != 0 && mode(&it) & STICKY == 0;
        if refused.is_ok() && (is_shared || !is_trusted(it.uid())) {
            refused = Err(NotPrivate::error(
                format!(
                    "other users may exchange it: {} belongs to the user {} and has the mode {:04o}",
                    parent.display(),
                    it.uid(),
                    mode(&it)
                ),
                "use a folder whose parents only this user or root may write",
            ));
        }
    }
    refused
}

/// Checks that no part of this path is a link that belongs to another user.
pub(crate) fn check_links(path: &Path) -> io::Result<()> {
    for part in path.ancestors() {
        match part.symlink_metadata() {
            Ok(it) if it.is_symlink() && !is_trusted(it.uid()) => {
                return Err(NotPrivate::error(
                    format!("{} is a link of the user {}", part.display(), it.uid()),
                    "use a path without links of other users",
                ));
            }
            _ => {}
        }
    }
    Ok(())
}
