//! The checks of users, groups and modes.

use std::fs::{DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, getegid, geteuid, unlinkat};

use self::owner::{OTHERS_WRITE, is_trusted, mode};
pub(super) use self::parents::check_links;
pub(crate) use self::parents::check_parents;
use super::access::{Access, How};
use super::not_private::{NotPrivate, not_regular};

mod owner;
mod parents;

impl Access {
    fn file_mode(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::Group => 0o660,
        }
    }

    /// With the setgid bit, so that new files belong to the folder's group.
    fn folder_mode(self) -> u32 {
        match self {
            Self::Owner => 0o700,
            Self::Group => 0o2770,
        }
    }

    /// The permissions that are removed.
    fn excess(self) -> u32 {
        match self {
            Self::Owner => 0o077,
            Self::Group => 0o007,
        }
    }
}

pub(super) fn open(how: How, path: &Path, access: Access) -> io::Result<File> {
    let flags = match how {
        How::Read => OFlag::O_RDONLY,
        How::Write => OFlag::O_RDWR,
        How::New => OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL,
    };
    let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let mode = match access {
        Access::Owner => Mode::S_IRUSR | Mode::S_IWUSR,
        Access::Group => Mode::S_IRUSR | Mode::S_IWUSR | Mode::S_IRGRP | Mode::S_IWGRP,
    };
    let opened = in_place(path, access, |folder, name| openat(folder, name, flags, mode));
    let opened = opened.map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
        // FreeBSD returns EMLINK, NetBSD EFTYPE; there the message is that of the system.
        Some(Errno::ELOOP) => is_link(),
        // A named pipe without a reader, or a socket.
        Some(Errno::ENXIO) => not_regular(),
        _ => error,
    });
    Ok(opened?.into())
}

/// Removes a file.
pub(crate) fn remove(path: &Path, access: Access) -> io::Result<()> {
    in_place(path, access, |folder, name| unlinkat(folder, name, UnlinkatFlags::NoRemoveDir))
}

/// Renames a file within its folder.
pub(crate) fn rename(path: &Path, to: &Path, access: Access) -> io::Result<()> {
    in_place(path, access, |folder, name| match access {
        Access::Owner => renameat(folder, name, folder, to),
        Access::Group => {
            renameat(folder, name, folder, Path::new(to.file_name().unwrap_or_default()))
        }
    })
}

/// Calls `act` with an open folder and the path of the file relative to it. For [`Access::Group`]
/// that is the parent folder, opened without following links, so that no member can replace it.
fn in_place<T>(
    path: &Path,
    access: Access,
    act: impl Fn(BorrowedFd<'_>, &Path) -> nix::Result<T>,
) -> io::Result<T> {
    let folder = match (access, path.parent()) {
        (Access::Group, Some(parent)) => Some(open_folder(parent)?),
        _ => None,
    };
    let (folder, name) = match (&folder, path.file_name()) {
        (Some(folder), Some(name)) => (folder.as_fd(), Path::new(name)),
        _ => (AT_FDCWD, path),
    };
    loop {
        match act(folder, name) {
            Err(Errno::EINTR) => {}
            done => return Ok(done?),
        }
    }
}

fn is_link() -> io::Error {
    NotPrivate::error("it is a symbolic link, and links are not followed", "remove it")
}

/// Whether this is a folder of this user; root does not count.
pub(crate) fn is_own(folder: &Path) -> bool {
    let is_own = |it: Metadata| it.is_dir() && it.uid() == geteuid().as_raw();
    folder.symlink_metadata().is_ok_and(is_own)
}

/// A part of file names that is unique for this user.
pub(crate) fn user() -> Option<u32> {
    Some(geteuid().as_raw())
}

fn other_owner(metadata: &Metadata) -> io::Error {
    NotPrivate::error(
        format!("it belongs to the user {}, not to this user ({})", metadata.uid(), geteuid()),
        "use a folder of this user's own, such as file:NAME gives; users of one group share a \
         folder by ?shared=group",
    )
}

/// Checks an open file, or the result of `symlink_metadata`.
pub(crate) fn check_file(metadata: &Metadata, access: Access) -> io::Result<()> {
    if !metadata.is_file() {
        return Err(not_regular());
    }
    let (may_write, hint) = match access {
        Access::Owner if !is_trusted(metadata.uid()) => return Err(other_owner(metadata)),
        Access::Owner => (OTHERS_WRITE, "chmod go-w"),
        Access::Group => (0o002, "chmod o-w"),
    };
    if mode(metadata) & may_write != 0 {
        return Err(NotPrivate::error(
            format!("other users may write to it (mode {:04o})", mode(metadata)),
            format!("make sure that it is as it should be, then {hint}"),
        ));
    }
    Ok(())
}

/// Checks that a file has only one name. A second name (hard link) may be another user's file.
pub(crate) fn check_single(metadata: &Metadata) -> io::Result<()> {
    match metadata.nlink() {
        0 | 1 => Ok(()),
        names => Err(NotPrivate::error(
            format!("it has {names} names (hard links), so it may be another file"),
            "remove this name of it",
        )),
    }
}

/// Removes permissions of other users from a file of this user.
pub(super) fn restrict_file(file: &File, access: Access) -> io::Result<()> {
    let metadata = file.metadata()?;
    let is_own =
        metadata.is_file() && metadata.uid() == geteuid().as_raw() && metadata.nlink() <= 1;
    if is_own && mode(&metadata) & access.excess() != 0 {
        let mode = mode(&metadata) & !access.excess();
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Assigns a new file to the folder's group, regardless of the umask and the user's primary group.
pub(super) fn share_file(file: &File, path: &Path, access: Access) -> io::Result<()> {
    if access == Access::Group
        && let Some(folder) = path.parent()
    {
        fchown(file, None, Some(folder.metadata()?.gid()))?;
        file.set_permissions(Permissions::from_mode(access.file_mode()))?;
    }
    Ok(())
}

fn open_folder(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY;
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).map_err(|error| match path
        .symlink_metadata()
    {
        Ok(it) if it.is_symlink() => NotPrivate::error(
            format!("{} is a symbolic link, and links are not followed", path.display()),
            "remove it",
        ),
        _ => error,
    })
}

/// Creates a folder and its parents if they are missing.
pub(crate) fn make_folder(path: &Path, access: Access) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        let above = match access {
            Access::Owner => 0o700,
            // Other members must be able to traverse it.
            Access::Group => 0o755,
        };
        DirBuilder::new().recursive(true).mode(above).create(parent)?;
    }
    match DirBuilder::new().mode(access.folder_mode()).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
        created => created?,
    }
    if access == Access::Group {
        let (folder, above) = (open_folder(path)?, path.parent().map(Path::metadata));
        if let Some(above) = above.transpose()?
            && above.mode() & 0o2000 != 0
        {
            fchown(&folder, None, Some(above.gid()))?;
        }
        folder.set_permissions(Permissions::from_mode(access.folder_mode()))?;
    }
    Ok(())
}

/// Removes permissions of other users from a folder of this user, such as one that was created with
/// the umask's permissions.
pub(crate) fn restrict(path: &Path, access: Access) -> io::Result<()> {
    let folder = open_folder(path)?;
    let metadata = folder.metadata()?;
    let excess = access.excess() & !OTHERS_WRITE;
    if metadata.uid() != geteuid().as_raw() || mode(&metadata) & excess == 0 {
        return Ok(());
    }
    match folder.set_permissions(Permissions::from_mode(mode(&metadata) & !excess)) {
        // On a read-only file system the folder is only read.
        Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => Ok(()),
        done => done,
    }
}

pub(super) fn check_folder(path: &Path, it: &Metadata, access: Access) -> io::Result<()> {
    if it.is_symlink() {
        return Err(is_link());
    }
    if !it.is_dir() {
        return Err(Errno::ENOTDIR.into());
    }
    let (may_write, hint) = match access {
        Access::Owner if !is_trusted(it.uid()) => return Err(other_owner(it)),
        Access::Owner => (
            OTHERS_WRITE,
            "make sure that no other user has put anything there, then \
            chmod 700; users of one group share a folder by ?shared=group",
        ),
        Access::Group => {
            check_group(path, it)?;
            (0o002, "make sure that no other user has put anything there, then chmod 2770")
        }
    };
    if mode(it) & may_write != 0 {
        let what = format!("other users may write there (mode {:04o})", mode(it));
        return Err(NotPrivate::error(what, hint));
    }
    Ok(())
}

/// Checks a group's folder whose parent is writable for every user: this user or root must have
/// created it.
fn check_group(path: &Path, it: &Metadata) -> io::Result<()> {
    if is_trusted(it.uid()) {
        return Ok(());
    }
    if !is_member(it.gid()) {
        return Err(NotPrivate::error(
            format!("it belongs to the group {}, and this user is not a member", it.gid()),
            "add this user to the group, or use a folder of a group of its own",
        ));
    }
    match path.parent() {
        Some(parent) if parent.metadata()?.mode() & 0o002 != 0 => Err(NotPrivate::error(
            format!("it was made by the user {} where every user may make folders", it.uid()),
            "put a folder that a group shares where only its members or root may make folders",
        )),
        _ => Ok(()),
    }
}

fn is_member(gid: u32) -> bool {
    #[cfg(not(target_vendor = "apple"))]
    if nix::unistd::getgroups().is_ok_and(|all| all.iter().any(|it| it.as_raw() == gid)) {
        return true;
    }
    gid == getegid().as_raw()
}
