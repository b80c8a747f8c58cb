//! `registry.jsonl` on disk: read as a whole, replaced as a whole.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::sync::Arc;

use super::folder::Folder;
use super::format::{self, Damage, ListEntry, OtherVersion};
use super::stamp::Stamp;
use crate::clock::unix_ms;
use crate::sync::Mutex;
use crate::{Printable, RegistryError, limited};

/// Maximum size of a list that is read or written, in bytes: some 50,000 instances. A larger file
/// is not a registry, and reading it could exhaust the memory.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// The list as it was last read, for all tasks of this process. It is read again when the file has
/// changed.
#[derive(Default)]
pub(super) struct ListCache(Mutex<Option<Arc<List>>>);

impl ListCache {
    /// The current list.
    pub(super) fn current(&self, folder: &Folder) -> Result<Arc<List>, RegistryError> {
        let known = self.0.lock().clone();
        if let Some(list) = &known
            && list.is_current(folder)?
        {
            return Ok(Arc::clone(list));
        }
        let list = Arc::new(List::read(folder, known.as_deref())?);
        self.note(Arc::clone(&list));
        Ok(list)
    }

    /// Notes that this process has replaced the list.
    pub(super) fn note(&self, list: Arc<List>) {
        *self.0.lock() = Some(list);
    }
}

/// One state of the list.
pub(super) struct List {
    entries: Vec<Arc<ListEntry>>,
    /// The entries of each service, in the order of the list.
    by_service: HashMap<String, Vec<Arc<ListEntry>>>,
    /// The first damage, if there is any.
    damage: Option<Damage>,
    /// The file it was read from, kept open so that its stamp stays unique; `None` if there was
    /// none.
    source: Option<(File, Stamp)>,
}

impl List {
    fn new(
        entries: Vec<Arc<ListEntry>>,
        damage: Option<Damage>,
        source: Option<(File, Stamp)>,
    ) -> Self {
        let mut by_service = HashMap::<_, Vec<_>>::new();
        for entry in &entries {
            let service = entry.instance.service();
            match by_service.get_mut(service) {
                Some(group) => group.push(Arc::clone(entry)),
                None => drop(by_service.insert(service.to_owned(), vec![Arc::clone(entry)])),
            }
        }
        Self { entries, by_service, damage, source }
    }

    /// Reads the list; without a file it is empty. Reuses the unchanged entries of `known`.
    pub(super) fn read(folder: &Folder, known: Option<&Self>) -> Result<Self, RegistryError> {
        let path = folder.list();
        let failed = |error| folder.error("read", &path, error);
        // Checking the kind of the file gives the better error.
        if stamp(folder)?.is_none() {
            return Ok(Self::new(Vec::new(), None, None));
        }
        let mut file = match folder.read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Self::new(Vec::new(), None, None));
            }
            opened => opened.map_err(failed)?,
        };
        // Taken first: if the file is edited while it is read, its stamp will differ later.
        let stamp = Stamp::of(&file.metadata().map_err(failed)?);
        let mut bytes = Vec::new();
        Read::by_ref(&mut file).take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(RegistryError::corrupt(format!(
                "{} is larger than {MAX_BYTES} bytes",
                path.display()
            ))
            .with_registry(folder.uri())
            .with_hint("it can't be a registry; move it away"));
        }
        match format::parse(&bytes, known.map(Self::readable).unwrap_or_default()) {
            Ok(read) => Ok(Self::new(read.entries, read.damage, Some((file, stamp)))),
            Err(OtherVersion(found)) => Err(RegistryError::unsupported_format(format!(
                "{} has format version {found}, this program knows version {}",
                path.display(),
                format::VERSION
            ))
            .with_registry(folder.uri())
            .with_hint("use the same release for all programs, or another folder")),
        }
    }

    /// Whether the file is still the one this was read from, and unchanged.
    pub(super) fn is_current(&self, folder: &Folder) -> Result<bool, RegistryError> {
        Ok(stamp(folder)?.as_ref() == self.source.as_ref().map(|(_, stamp)| stamp))
    }

    /// An error if some entries could not be read.
    pub(super) fn intact(&self, folder: &Folder) -> Result<&Self, RegistryError> {
        match &self.damage {
            None => Ok(self),
            Some(Damage { line, reason }) => Err(RegistryError::corrupt(format!(
                "{} is damaged in line {line}: {reason}",
                folder.list().display()
            ))
            .with_registry(folder.uri())
            .with_hint(
                "correct or delete the line, or let a provider register: that moves the file \
                 aside and keeps every line that can be read",
            )),
        }
    }

    /// Whether there is no list. This registry never removes one.
    pub(super) fn is_missing(&self) -> bool {
        self.source.is_none()
    }

    /// The entries that could be read.
    pub(super) fn readable(&self) -> &[Arc<ListEntry>] {
        &self.entries
    }

    /// The entries of one service.
    pub(super) fn of(&self, service: &str) -> &[Arc<ListEntry>] {
        self.by_service.get(service).map(Vec::as_slice).unwrap_or_default()
    }

    pub(super) fn services(&self) -> BTreeMap<&str, &[Arc<ListEntry>]> {
        self.by_service.iter().map(|(name, group)| (name.as_str(), group.as_slice())).collect()
    }

    /// Keeps a damaged list under another name before it is replaced. The list is never missing: it
    /// gets a second name, and the replacement takes the first.
    pub(super) fn set_aside(&self, folder: &Folder) -> Result<(), RegistryError> {
        let Some(Damage { line, reason }) = &self.damage else { return Ok(()) };
        let path = folder.list();
        let mut now = unix_ms();
        while folder.damaged(now).exists() {
            now = now.saturating_add(1);
        }
        let aside = folder.damaged(now);
        // Some file systems have no links.
        if fs::hard_link(&path, &aside).is_err() {
            folder
                .read(&path)
                .and_then(|mut list| io::copy(&mut list, &mut folder.create_new(&aside)?))
                .map_err(|error| folder.error("copy", &path, error))?;
        }
        limited!(
            warn,
            file = %path.display(), line, reason = %Printable(reason), kept_as = %aside.display(),
            "the registry is damaged; the lines that can be read are kept",
        );
        Ok(())
    }
}

/// Replaces the list, and returns the new one. The caller holds the exclusive registry lock.
///
/// The new list is complete on disk before it takes the name, so readers see the old or the new
/// list, also after a crash. (After a crash of the machine, no provider of either list is alive. So
/// the folder need not be synced.) On an error the old list stays.
pub(super) fn replace(
    folder: &Folder,
    entries: Vec<Arc<ListEntry>>,
) -> Result<List, RegistryError> {
    let (path, draft) = (folder.list(), folder.draft());
    let text = format::render(&entries);
    if text.len() as u64 > MAX_BYTES {
        return Err(RegistryError::unavailable(format!(
            "{} is full: it would be larger than {MAX_BYTES} bytes",
            path.display()
        ))
        .with_registry(folder.uri())
        .with_hint("spread the services over several folders, or use a registry server"));
    }
    let written = write_durably(folder, &draft, text.as_bytes()).and_then(|file| {
        let stamp = Stamp::of(&file.metadata()?);
        fs::rename(&draft, &path)?;
        Ok((file, stamp))
    });
    match written {
        Ok(source) => Ok(List::new(entries, None, Some(source))),
        Err(error) => {
            let _ = fs::remove_file(&draft);
            Err(folder.error("write", &path, error))
        }
    }
}

fn write_durably(folder: &Folder, path: &Path, bytes: &[u8]) -> io::Result<File> {
    // Leftovers of a crash are removed first, so that nothing is ever written through a link.
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = folder.create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(file)
}

/// The stamp of the current file; `None` if there is none.
fn stamp(folder: &Folder) -> Result<Option<Stamp>, RegistryError> {
    let path = folder.list();
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_file() => match folder.check_file(&metadata) {
            Ok(()) => Ok(Some(Stamp::of(&metadata))),
            Err(error) => Err(folder.error("read", &path, error)),
        },
        Ok(_) => Err(RegistryError::corrupt(format!("{} is not a file", path.display()))
            .with_registry(folder.uri())
            .with_hint("move it away")),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(folder.error("read", &path, error)),
    }
}
