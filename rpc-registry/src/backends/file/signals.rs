//! Change signals: how a process notifies the watchers of a folder of a change.
//!
//! Watchers watch the folder `signs/` through the operating system. A signal is sent by closing a
//! file in it that was open for writing: `list` after the list was replaced, and the file with the
//! name of a process lease when one of its registrations ends. The process keeps that file open, so
//! the kernel closes it, and thereby sends the signal, when the process is killed.
//!
//! The list and the lease files are not watched themselves: the operating system also reports when
//! a file is opened for reading. Each lookup of each process, and each attempt at a lock, would
//! wake all other processes.

use super::folder::Folder;

/// The name of the signal of the list.
pub(super) const LIST: &str = "list";

/// Sends the signal of a process lease. If that fails, watchers notice the change by polling.
pub(super) fn send(folder: &Folder, process_lease: &str) {
    let _ = folder.write(&folder.signal(process_lease), false);
}

/// Sends the signal of the list.
pub(super) fn send_list(folder: &Folder) {
    let _ = folder.write(&folder.signal(LIST), true);
}
