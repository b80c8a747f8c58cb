//! Files and folders that no other user can have created or can change.
//!
//! The rules are those of ssh for its keys. A file is opened without following links and without
//! blocking (as a named pipe would). Then the open file is checked: it must be a regular file that
//! belongs to this user or to root and that no other user may write. A check of the path before
//! opening would leave time to replace the file. A folder is checked with its parents: a user with
//! write access to a parent can replace the folder, unless the parent is sticky.
//!
//! Members of a group can replace what is in their folder at any time, subfolders too. That must
//! not affect files elsewhere. So for [`Access::Group`] the folder of a file is opened first,
//! without following links, and the file is accessed relative to the open folder.

mod access;
mod not_private;
#[cfg_attr(unix, path = "unix.rs")]
#[cfg_attr(not(unix), path = "elsewhere.rs")]
mod system;

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::Path;

pub(crate) use self::access::Access;
use self::access::How;
use self::not_private::NotPrivate;
use self::system::open;
pub(crate) use self::system::{
    check_file, check_parents, check_single, is_own, make_folder, remove, rename, restrict, user,
};

/// Opens a file for reading.
pub(crate) fn read(path: &Path, access: Access) -> io::Result<File> {
    let file = open(How::Read, path, access)?;
    check_file(&file.metadata()?, access)?;
    Ok(file)
}

/// Opens a file for reading and writing. Creates it if it is missing and `create` is set. Removes
/// permissions of other users from a file of this user.
pub(crate) fn write(path: &Path, create: bool, access: Access) -> io::Result<File> {
    let file = match open(How::Write, path, access) {
        Err(error) if create && error.kind() == ErrorKind::NotFound => {
            match create_new(path, access) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    open(How::Write, path, access)?
                }
                created => return created,
            }
        }
        opened => opened?,
    };
    system::restrict_file(&file, access)?;
    let metadata = file.metadata()?;
    check_file(&metadata, access)?;
    check_single(&metadata)?;
    Ok(file)
}

/// Creates a file, which must not exist, for reading and writing.
pub(crate) fn create_new(path: &Path, access: Access) -> io::Result<File> {
    let file = open(How::New, path, access)?;
    system::share_file(&file, path, access)?;
    Ok(file)
}

/// Creates a folder and its parents if they are missing, and checks the folder.
pub(crate) fn create_folder(path: &Path, access: Access) -> io::Result<()> {
    make_folder(path, access)?;
    check_folder(path, access)
}

/// Checks that no other user can redirect this path. The path need not exist.
pub(crate) fn check_path(path: &Path) -> io::Result<()> {
    system::check_links(path)?;
    match path.ancestors().skip(1).find(|above| above.exists()) {
        // As the parent of any name in it.
        Some(above) => check_parents(&fs::canonicalize(above)?.join("any")),
        None => Ok(()),
    }
}

/// Checks a folder without its parents.
pub(crate) fn check_folder(path: &Path, access: Access) -> io::Result<()> {
    system::check_folder(path, &path.symlink_metadata()?, access)
}

/// A hint for the user about an error of this module.
pub(crate) fn hint(error: &io::Error) -> Option<&str> {
    Some(error.get_ref()?.downcast_ref::<NotPrivate>()?.hint.as_str())
}
