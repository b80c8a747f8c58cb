//! Systems without Unix users and modes: new files inherit their permissions, and nothing is
//! checked.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::Path;

use super::access::{Access, How};
use super::not_private::not_regular;

pub(super) fn open(how: How, path: &Path, _: Access) -> io::Result<File> {
    let mut options = OpenOptions::new();
    match how {
        How::Read => options.read(true),
        How::Write => options.read(true).write(true),
        How::New => options.read(true).write(true).create_new(true),
    };
    options.open(path)
}

/// Removes a file.
pub(crate) fn remove(path: &Path, _: Access) -> io::Result<()> {
    fs::remove_file(path)
}

/// Renames a file within its folder.
pub(crate) fn rename(path: &Path, to: &Path, _: Access) -> io::Result<()> {
    fs::rename(path, to)
}

pub(crate) fn check_file(metadata: &Metadata, _: Access) -> io::Result<()> {
    if metadata.is_file() { Ok(()) } else { Err(not_regular()) }
}

pub(crate) fn check_single(_: &Metadata) -> io::Result<()> {
    Ok(())
}

pub(super) fn restrict_file(_: &File, _: Access) -> io::Result<()> {
    Ok(())
}

pub(super) fn share_file(_: &File, _: &Path, _: Access) -> io::Result<()> {
    Ok(())
}

pub(crate) fn make_folder(path: &Path, _: Access) -> io::Result<()> {
    fs::create_dir_all(path)
}

pub(crate) fn restrict(_: &Path, _: Access) -> io::Result<()> {
    Ok(())
}

pub(super) fn check_folder(_: &Path, it: &Metadata, _: Access) -> io::Result<()> {
    if it.is_dir() { Ok(()) } else { Err(ErrorKind::NotADirectory.into()) }
}

pub(crate) fn is_own(folder: &Path) -> bool {
    folder.is_dir()
}

pub(crate) fn user() -> Option<u32> {
    None
}

pub(crate) fn check_parents(_: &Path) -> io::Result<()> {
    Ok(())
}

pub(super) fn check_links(_: &Path) -> io::Result<()> {
    Ok(())
}
