use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::RegistryError;
use crate::private_files::{self, Access};

/// The folder of a registry: the paths of its files, and errors about them.
pub(super) struct Folder {
    root: PathBuf,
    uri: String,
    access: Access,
}

impl Folder {
    /// Creates the value without checking the folder. The path is canonical.
    pub(super) fn new(root: PathBuf, uri: &str, access: Access) -> Self {
        Self { root, uri: uri.to_owned(), access }
    }

    /// A new folder for a test.
    #[cfg(test)]
    pub(super) fn temporary() -> (tempfile::TempDir, Self) {
        let dir = tempfile::tempdir().unwrap();
        let folder = Self::new(dir.path().to_owned(), "file:test", Access::Owner);
        folder.create().unwrap();
        (dir, folder)
    }

    /// Creates the folder if it is missing, checks that no other user may change its content, and
    /// removes permissions of other users that an earlier release left.
    pub(super) fn open(path: &Path, uri: &str, access: Access) -> Result<Self, RegistryError> {
        let made = private_files::check_path(path)
            .and_then(|()| private_files::make_folder(path, access))
            .and_then(|()| fs::canonicalize(path));
        let folder = |root| Self::new(root, uri, access);
        let failed = |error| folder(path.to_owned()).error("use the folder", path, error);
        let folder = folder(made.map_err(failed)?);
        folder.check()?;
        if folder.holds_only_a_registry().map_err(failed)? {
            private_files::restrict(&folder.root, access).map_err(failed)?;
        }
        for path in folder.subfolders() {
            match private_files::check_folder(&path, access) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                checked => checked.and_then(|()| private_files::restrict(&path, access)),
            }
            .map_err(|error| folder.error("use the folder", &path, error))?;
        }
        match folder.write(&folder.lock(), false) {
            Err(error) if private_files::hint(&error).is_some() => {
                Err(folder.error("open", &folder.lock(), error))
            }
            // A read-only folder is an error only when it is written.
            _ => Ok(folder),
        }
    }

    /// Checks that no other user may replace the folder or its content.
    pub(super) fn check(&self) -> Result<(), RegistryError> {
        private_files::check_folder(&self.root, self.access)
            .and_then(|()| private_files::check_parents(&self.root))
            .map_err(|error| self.error("use the folder", &self.root, error))
    }

    /// Whether the folder contains only a registry, so that closing it to other users affects
    /// nothing else.
    fn holds_only_a_registry(&self) -> io::Result<bool> {
        for file in fs::read_dir(&self.root)? {
            let name = file?.file_name();
            let is_of_registry = |name: &str| {
                name.starts_with("registry.")
                    || ["leases", "beats", "signs", "turns"].contains(&name)
            };
            if !name.to_str().is_some_and(is_of_registry) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Opens a file of the registry for reading.
    pub(super) fn read(&self, path: &Path) -> io::Result<File> {
        private_files::read(path, self.access)
    }

    /// Opens a file of the registry for writing. Creates it if it is missing and `create` is set.
    pub(super) fn write(&self, path: &Path, create: bool) -> io::Result<File> {
        private_files::write(path, create, self.access)
    }

    /// Creates a file of the registry.
    pub(super) fn create_new(&self, path: &Path) -> io::Result<File> {
        private_files::create_new(path, self.access)
    }

    /// Removes a file of the registry.
    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        private_files::remove(path, self.access)
    }

    /// Renames a file of the registry within its folder.
    pub(super) fn rename(&self, path: &Path, to: &Path) -> io::Result<()> {
        private_files::rename(path, to, self.access)
    }

    pub(super) fn access(&self) -> Access {
        self.access
    }

    /// Creates a subfolder, but not the registry's folder itself; see [`Self::is_gone`].
    pub(super) fn create_subfolder(&self, path: &Path) -> io::Result<()> {
        if self.is_gone() {
            return Err(ErrorKind::NotFound.into());
        }
        private_files::create_folder(path, self.access)
    }

    /// The checked metadata of a file of the registry.
    pub(super) fn metadata(&self, path: &Path) -> io::Result<fs::Metadata> {
        let metadata = path.symlink_metadata()?;
        self.check_file(&metadata)?;
        Ok(metadata)
    }

    /// Checks the result of `symlink_metadata` for a file of the registry.
    pub(super) fn check_file(&self, metadata: &fs::Metadata) -> io::Result<()> {
        private_files::check_file(metadata, self.access)
    }

    /// The URI as the user gave it, credentials redacted.
    pub(super) fn uri(&self) -> &str {
        &self.uri
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether the whole folder was removed. Then nothing is registered there, and the folder is
    /// not created again by a lookup or the end of a registration.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self.root.try_exists(), Ok(false))
    }

    pub(super) fn list(&self) -> PathBuf {
        self.root.join("registry.jsonl")
    }

    /// The next list while it is being written. One name is enough: there is one writer at a time,
    /// and the next write replaces the leftovers of a crash.
    pub(super) fn draft(&self) -> PathBuf {
        self.root.join("registry.jsonl.new")
    }

    pub(super) fn damaged(&self, unix_ms: u64) -> PathBuf {
        self.root.join(format!("registry.jsonl.damaged-{unix_ms}"))
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.root.join("registry.lock")
    }

    pub(super) fn leases(&self) -> PathBuf {
        self.root.join("leases")
    }

    pub(super) fn lease(&self, name: &str) -> PathBuf {
        self.leases().join(format!("{name}.lock"))
    }

    /// The name of a lease file after an administrator has removed its registration.
    pub(super) fn removed(&self, name: &str) -> PathBuf {
        self.leases().join(format!("{name}.removed"))
    }

    pub(super) fn process_leases(&self) -> PathBuf {
        self.root.join("beats")
    }

    pub(super) fn process_lease(&self, name: &str) -> PathBuf {
        self.process_leases().join(name)
    }

    pub(super) fn signals(&self) -> PathBuf {
        self.root.join("signs")
    }

    pub(super) fn signal(&self, name: &str) -> PathBuf {
        self.signals().join(name)
    }

    /// The folder with the tickets of processes that wait for the registry lock.
    pub(super) fn tickets(&self) -> PathBuf {
        self.root.join("turns")
    }

    fn subfolders(&self) -> [PathBuf; 4] {
        [self.leases(), self.process_leases(), self.signals(), self.tickets()]
    }

    /// Creates the folders and their parents if they are missing.
    pub(super) fn create(&self) -> Result<(), RegistryError> {
        private_files::make_folder(&self.root, self.access)
            .map_err(|error| self.error("create", &self.root, error))?;
        self.check()?;
        for path in self.subfolders() {
            private_files::create_folder(&path, self.access)
                .map_err(|error| self.error("create", &path, error))?;
        }
        Ok(())
    }

    /// An error that names `path`, the registry, the cause and a remedy.
    pub(super) fn error(&self, verb: &str, path: &Path, error: io::Error) -> RegistryError {
        let what = format!("cannot {verb} {}: {error}", path.display());
        if let Some(hint) = private_files::hint(&error).map(str::to_owned) {
            return RegistryError::permission_denied(what)
                .with_registry(&self.uri)
                .with_hint(hint)
                .with_source(error);
        }
        let (made, hint): (fn(String) -> RegistryError, _) = match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => (
                RegistryError::permission_denied,
                "let this user write there, or choose another folder",
            ),
            ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
                (RegistryError::unavailable, "a file: registry is a folder; choose another path")
            }
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => (
                RegistryError::unavailable,
                "make room on the disk; existing registrations stay in force",
            ),
            _ => (RegistryError::unavailable, "check the folder and its file system"),
        };
        made(what).with_registry(&self.uri).with_hint(hint).with_source(error)
    }
}
