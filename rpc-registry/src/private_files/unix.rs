//! The rules of users, groups and modes.

use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{getegid, geteuid};

use super::*;

const STICKY: u32 = 0o1000;
const OTHERS_WRITE: u32 = 0o022;

impl Access {
    fn file_mode(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::Group => 0o660,
        }
    }

    /// With the bit by which new files belong to the folder's group.
    fn folder_mode(self) -> u32 {
        match self {
            Self::Owner => 0o700,
            Self::Group => 0o2770,
        }
    }

    /// The permissions that nobody may have.
    fn excess(self) -> u32 {
        match self {
            Self::Owner => 0o077,
            Self::Group => 0o007,
        }
    }
}

pub(super) fn open(options: &mut OpenOptions, path: &Path, access: Access) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let opened = options.custom_flags(flags.bits()).mode(access.file_mode()).open(path);
    opened.map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
        // FreeBSD says EMLINK, NetBSD EFTYPE; there the message is the system's.
        Some(Errno::ELOOP) => {
            NotPrivate::error("it is a symbolic link, and links are not followed", "remove it")
        }
        // A named pipe that nobody reads, or a socket.
        Some(Errno::ENXIO) => not_regular(),
        _ => error,
    })
}

/// Whether this user may rely on what root or the user itself has made.
fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

/// Whether this is a folder that this user, and not only root, has made.
pub(crate) fn is_own(folder: &Path) -> bool {
    let is_own = |it: Metadata| it.is_dir() && it.uid() == geteuid().as_raw();
    folder.symlink_metadata().is_ok_and(is_own)
}

/// What tells this user from others in the name of a file.
pub(crate) fn user() -> Option<u32> {
    Some(geteuid().as_raw())
}

fn mode(metadata: &Metadata) -> u32 {
    metadata.mode() & 0o7777
}

fn other_owner(metadata: &Metadata) -> io::Error {
    NotPrivate::error(
        format!("it belongs to the user {}, and not to this user, {}", metadata.uid(), geteuid()),
        "use a folder of this user's own, such as file:NAME gives; users of one group share a \
         folder by ?shared=group",
    )
}

/// Checks what was opened, or what `symlink_metadata` says.
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

/// What has a second name is somebody's file elsewhere.
pub(crate) fn check_single(metadata: &Metadata) -> io::Result<()> {
    match metadata.nlink() {
        0 | 1 => Ok(()),
        names => Err(NotPrivate::error(
            format!("it has {names} names (hard links), so it may be another file"),
            "remove this name of it",
        )),
    }
}

/// Takes from others what they may do with a file of this user.
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

/// Gives a new file to the group, whatever the umask and the user's first group are.
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
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

/// Makes a folder, with what is above it, if it is missing.
pub(crate) fn make_folder(path: &Path, access: Access) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        let above = match access {
            Access::Owner => 0o700,
            // The others have to pass it.
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

/// Takes from others what they may do in a folder of this user, such as one that was made with
/// the umask's permissions.
pub(crate) fn restrict(path: &Path, access: Access) -> io::Result<()> {
    let folder = open_folder(path)?;
    let metadata = folder.metadata()?;
    let excess = access.excess() & !OTHERS_WRITE;
    if metadata.uid() != geteuid().as_raw() || mode(&metadata) & excess == 0 {
        return Ok(());
    }
    match folder.set_permissions(Permissions::from_mode(mode(&metadata) & !excess)) {
        // Where nothing can be written it is only read.
        Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => Ok(()),
        done => done,
    }
}

pub(super) fn check_folder(path: &Path, it: &Metadata, access: Access) -> io::Result<()> {
    if it.is_symlink() {
        return Err(NotPrivate::error(
            "it is a symbolic link, and links are not followed",
            "remove it",
        ));
    }
    if !it.is_dir() {
        return Err(Errno::ENOTDIR.into());
    }
    let (may_write, hint) = match access {
        Access::Owner if !is_trusted(it.uid()) => return Err(other_owner(it)),
        Access::Owner => (
            OTHERS_WRITE,
            "make sure that nobody else has put anything there, then \
            chmod 700; users of one group share a folder by ?shared=group",
        ),
        Access::Group => {
            check_group(path, it)?;
            (0o002, "make sure that nobody else has put anything there, then chmod 2770")
        }
    };
    if mode(it) & may_write != 0 {
        let what = format!("other users may write there (mode {:04o})", mode(it));
        return Err(NotPrivate::error(what, hint));
    }
    Ok(())
}

/// Where everyone may make folders, a group's folder counts only if this user or root has made it.
fn check_group(path: &Path, it: &Metadata) -> io::Result<()> {
    if is_trusted(it.uid()) {
        return Ok(());
    }
    if !is_member(it.gid()) {
        return Err(NotPrivate::error(
            format!("it belongs to the group {}, of which this user is no member", it.gid()),
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

/// Checks that nobody else may exchange what has this canonical path: from above it to the root,
/// or to a folder that is closed to all others.
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

/// Checks that no part of this path is a link of another user's.
pub(super) fn check_links(path: &Path) -> io::Result<()> {
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
