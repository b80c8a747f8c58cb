//! [`PolicyFile`]: a policy that is reloaded when its file changes.

use std::fs::{self, File, Metadata};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rpc_registry::sync::{Mutex, RwLock};
use rpc_runtime::RpcError;

use super::policy::Policy;
use super::quota::Quota;

/// Maximum size of a policy file.
const MAX_BYTES: u64 = 4 << 20;

/// The policy in use, and its file if there is one.
#[derive(Debug)]
pub(super) struct PolicyFile {
    current: RwLock<Arc<Policy>>,
    file: Option<PolicySource>,
    quota: Quota,
}

#[derive(Debug)]
struct PolicySource {
    path: PathBuf,
    /// The version that was read last, valid or not.
    seen: Mutex<Option<FileVersion>>,
    /// The version at the last check.
    looked_at: Mutex<Option<FileVersion>>,
}

/// Metadata that shows whether a file has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileVersion {
    modified: Option<SystemTime>,
    len: u64,
    file: u64,
}

impl FileVersion {
    fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        let file = std::os::unix::fs::MetadataExt::ino(metadata);
        #[cfg(not(unix))]
        let file = 0;
        Self { modified: metadata.modified().ok(), len: metadata.len(), file }
    }
}

impl PolicyFile {
    /// Without a file: every client may register and read everything.
    pub(super) fn open(quota: Quota) -> Self {
        Self { current: RwLock::new(Arc::new(Policy::open(quota))), file: None, quota }
    }

    /// # Errors
    ///
    /// The file cannot be read, or is invalid.
    pub(super) fn read(path: &Path, quota: Quota) -> Result<Self, RpcError> {
        let source = PolicySource {
            path: path.to_owned(),
            seen: Mutex::default(),
            looked_at: Mutex::default(),
        };
        let policy = source.load(quota).map_err(RpcError::invalid)?;
        Ok(Self { current: RwLock::new(Arc::new(policy)), file: Some(source), quota })
    }

    pub(super) fn current(&self) -> Arc<Policy> {
        Arc::clone(&self.current.read())
    }

    /// Reads the file again. An invalid file leaves the current policy in use.
    ///
    /// # Errors
    ///
    /// The reason why the file is not applied.
    pub(super) fn reload(&self) -> Result<(), RpcError> {
        let Some(source) = &self.file else { return Ok(()) };
        let policy = source.load(self.quota).map_err(RpcError::invalid)?;
        *self.current.write() = Arc::new(policy);
        tracing::info!(path = %source.path.display(), "a new policy is in use");
        Ok(())
    }

    /// Whether the file has changed since it was read, and not since the last check. A file that is
    /// being written is often valid before it is complete, and would remove the rights of the
    /// identities at its end. Blocks for a moment.
    pub(super) fn has_changed(&self) -> bool {
        let Some(source) = &self.file else { return false };
        let now = fs::metadata(&source.path).ok().as_ref().map(FileVersion::of);
        let mut looked_at = source.looked_at.lock();
        let is_settled = std::mem::replace(&mut *looked_at, now) == now;
        is_settled && now != *source.seen.lock()
    }
}

impl PolicySource {
    fn load(&self, quota: Quota) -> Result<Policy, String> {
        let wrong = |what: String| format!("the policy {}: {what}", self.path.display());
        let mut seen = self.seen.lock();
        // Set before reading, so that each version of the file is reported once.
        *seen = None;
        let metadata = fs::metadata(&self.path).map_err(|error| wrong(error.to_string()))?;
        *seen = Some(FileVersion::of(&metadata));
        // Opening a pipe would block until its other end is opened.
        if !metadata.is_file() {
            return Err(wrong("it is not a regular file".to_owned()));
        }
        let mut file = File::open(&self.path).map_err(|error| wrong(error.to_string()))?;
        let metadata = file.metadata().map_err(|error| wrong(error.to_string()))?;
        *seen = Some(FileVersion::of(&metadata));
        #[cfg(unix)]
        if std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o002 != 0 {
            return Err(wrong(
                "every user can write to it; remove that permission with chmod o-w".to_owned(),
            ));
        }
        let mut text = String::new();
        let limit = MAX_BYTES.saturating_add(1);
        Read::by_ref(&mut file)
            .take(limit)
            .read_to_string(&mut text)
            .map_err(|error| wrong(error.to_string()))?;
        if u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX_BYTES {
            return Err(wrong(format!("it has more than {MAX_BYTES} bytes")));
        }
        Policy::parse(&text, quota).map_err(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::identity::Caller;

    fn may_register(file: &PolicyFile, service: &str) -> bool {
        let caller = Caller::default();
        file.current().identify(&caller).unwrap().rights.may_register(service)
    }

    /// At the second look.
    fn has_changed(file: &PolicyFile) -> bool {
        let _ = file.has_changed();
        file.has_changed()
    }

    #[test]
    fn a_new_policy_is_taken_and_a_broken_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        let allow = |service: &str| {
            let text = format!("[anonymous]\nregister = [{service:?}]");
            let new = folder.path().join("new");
            fs::write(&new, text).unwrap();
            fs::rename(new, &path).unwrap();
        };
        allow("one");
        let file = PolicyFile::read(&path, Quota::default()).unwrap();
        assert!(may_register(&file, "one") && !has_changed(&file));
        allow("other");
        assert!(has_changed(&file));
        file.reload().unwrap();
        assert!(may_register(&file, "other") && !may_register(&file, "one"));
        assert!(!has_changed(&file));
        fs::write(&path, "[anonymous]\nregister = ").unwrap();
        assert!(has_changed(&file));
        assert!(file.reload().unwrap_err().to_string().contains("policy.toml"));
        assert!(!has_changed(&file), "it is said once");
        assert!(may_register(&file, "other"));
        fs::remove_file(&path).unwrap();
        assert!(has_changed(&file) && file.reload().is_err());
        assert!(!has_changed(&file) && may_register(&file, "other"));
    }

    #[cfg(unix)]
    #[test]
    fn a_policy_that_anybody_can_write_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let error = PolicyFile::read(&path, Quota::default()).unwrap_err();
        assert!(error.to_string().contains("chmod o-w"), "{error}");
    }

    #[test]
    fn a_file_that_is_being_written_is_not_taken_before_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        let whole = "[anonymous]\nregister = [\"one\", \"other\"]\n";
        fs::write(&path, "[anonymous]\nregister = [\"one\"]").unwrap();
        let file = PolicyFile::read(&path, Quota::default()).unwrap();
        // As programs do that write into the file.
        for part in ["", "[anonymous]\n", whole] {
            fs::write(&path, part).unwrap();
            assert!(!file.has_changed(), "{part:?} may go on");
        }
        assert!(file.has_changed());
        file.reload().unwrap();
        assert!(may_register(&file, "other") && !file.has_changed());
        // And a disk may be full.
        fs::write(&path, "").unwrap();
        assert!(file.reload().unwrap_err().to_string().contains("empty"));
        assert!(may_register(&file, "other"));
    }
}
