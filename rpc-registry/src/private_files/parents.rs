//! The parents of a file or a folder, and the links on the path to it.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;

use super::owner::{OTHERS_WRITE, is_trusted, mode};
use crate::private_files::not_private::NotPrivate;

const STICKY: u32 = 0o1000;
/// Maximum links that are followed in a row, as in Linux.
const MAX_LINKS: usize = 40;

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

/// Checks that no link on this path belongs to another user, nor any link on the paths that links
/// lead to.
pub(crate) fn check_links(path: &Path) -> io::Result<()> {
    let parts = |path: &Path| -> Vec<OsString> {
        path.components().rev().map(|part| part.as_os_str().to_owned()).collect()
    };
    // The resolved part of the path, and the remaining parts, the next one last.
    let (mut place, mut left) = (PathBuf::new(), parts(path));
    let mut links = 0;
    while let Some(part) = left.pop() {
        match Path::new(&part).components().next() {
            Some(Component::ParentDir) => drop(place.pop()),
            Some(Component::CurDir) => {}
            _ => place.push(part),
        }
        let Ok(it) = place.symlink_metadata() else { continue };
        if !it.is_symlink() {
            continue;
        }
        if !is_trusted(it.uid()) {
            return Err(NotPrivate::error(
                format!("{} is a link of the user {}", place.display(), it.uid()),
                "use a path without links of other users",
            ));
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(Errno::ELOOP.into());
        }
        left.extend(parts(&place.read_link()?));
        place.pop();
    }
    Ok(())
}
