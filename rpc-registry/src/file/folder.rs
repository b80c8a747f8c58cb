use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::RegistryError;

/// Where the files of a registry are, and how errors about them read.
pub(super) struct Folder {
    root: PathBuf,
    uri: String,
}

impl Folder {
    pub(super) fn new(root: PathBuf, uri: &str) -> Self {
        Self { root, uri: uri.to_owned() }
    }

    /// The URI as the user gave it, credentials redacted.
    pub(super) fn uri(&self) -> &str {
        &self.uri
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether somebody has removed the whole folder: nobody is registered there any more, and it
    /// should not come back only to be found empty.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self.root.try_exists(), Ok(false))
    }

    pub(super) fn list(&self) -> PathBuf {
        self.root.join("registry.jsonl")
    }

    /// The next list while it is being written. One fixed name is enough, since writers take
    /// turns, and what a crash leaves is overwritten by the next one.
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

    pub(super) fn beats(&self) -> PathBuf {
        self.root.join("beats")
    }

    pub(super) fn beat(&self, name: &str) -> PathBuf {
        self.beats().join(name)
    }

    pub(super) fn signs(&self) -> PathBuf {
        self.root.join("signs")
    }

    pub(super) fn sign(&self, name: &str) -> PathBuf {
        self.signs().join(name)
    }

    /// Makes the folders, with what is above them, if they are missing. Their mode is what the umask makes
    /// of 0777, mostly 0755: others may look up, only this user may register.
    pub(super) fn create(&self) -> Result<(), RegistryError> {
        for path in [self.leases(), self.beats(), self.signs()] {
            fs::create_dir_all(&path).map_err(|error| self.error("create", &path, error))?;
        }
        Ok(())
    }

    /// An error about `path` that names it, the registry, the cause and a way out.
    pub(super) fn error(&self, verb: &str, path: &Path, error: io::Error) -> RegistryError {
        let what = format!("cannot {verb} {}: {error}", path.display());
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
                "make room; what was registered before is still in force",
            ),
            _ => (RegistryError::unavailable, "check the folder and its file system"),
        };
        made(what).with_registry(&self.uri).with_hint(hint).with_source(error)
    }
}
