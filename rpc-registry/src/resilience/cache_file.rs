//! The cache file: its format, and how it is read and written.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Instance;
use crate::clock::unix_ms;
use crate::private_files::{self, Access};
use crate::random::random_u64;

const FORMAT: u32 = 1;
/// Maximum size of the file.
const MAX_BYTES: u64 = 64 << 20;

/// The list of a service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct List {
    pub(super) as_of_ms: u64,
    pub(super) instances: Vec<Instance>,
}

#[derive(Serialize, Deserialize)]
struct Contents {
    format: u32,
    services: BTreeMap<String, List>,
}

pub(super) fn read(path: &Path) -> io::Result<BTreeMap<String, List>> {
    let mut text = Vec::new();
    let file = private_files::read(path, Access::Owner)?;
    private_files::check_single(&file.metadata()?)?;
    check_place(path)?;
    file.take(MAX_BYTES + 1).read_to_end(&mut text)?;
    check_length(text.len())?;
    parse(&text)
}

fn parse(text: &[u8]) -> io::Result<BTreeMap<String, List>> {
    let contents: Contents = serde_json::from_slice(text)?;
    if contents.format != FORMAT {
        return Err(io::Error::other(format!("its format {} is not known", contents.format)));
    }
    let mut services = contents.services;
    for (service, list) in &mut services {
        // The file may have been edited.
        list.instances.retain(|it| it.service() == service && it.validate().is_ok());
        list.instances.sort_by(|a, b| a.id().cmp(b.id()));
    }
    Ok(services)
}

/// A cache file after it was read and written again.
#[cfg(feature = "__fuzz")]
pub fn rewritten_cache(text: &[u8]) -> Option<Vec<u8>> {
    let contents = Contents { format: FORMAT, services: parse(text).ok()? };
    serde_json::to_vec(&contents).ok()
}

/// A file that would not be read is not written.
fn check_length(bytes: usize) -> io::Result<()> {
    match bytes as u64 > MAX_BYTES {
        true => Err(io::Error::other(format!("it has more than {MAX_BYTES} bytes"))),
        false => Ok(()),
    }
}

/// The text of a file while it is built. Its length is checked before memory is allocated: JSON
/// escapes can make metadata six times as long.
#[derive(Default)]
struct Draft(Vec<u8>);

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        check_length(self.0.len().saturating_add(bytes.len()))?;
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn write(path: &Path, lists: BTreeMap<String, List>) -> io::Result<()> {
    let mut services = read(path).unwrap_or_default();
    let now = unix_ms();
    for (service, list) in lists {
        match services.get(&service) {
            // A list of the future was written before the clock was set back.
            Some(other) if (list.as_of_ms..=now).contains(&other.as_of_ms) => {}
            _ => drop(services.insert(service, list)),
        }
    }
    let mut text = Draft::default();
    serde_json::to_writer(&mut text, &Contents { format: FORMAT, services })?;
    if let Some(folder) = path.parent() {
        private_files::check_path(folder)?;
        private_files::make_folder(folder, Access::Owner)?;
    }
    check_place(path)?;
    let temporary = path.with_extension(format!("{:016x}.tmp", random_u64()));
    // The addresses of services are for this user only, in any folder.
    let written = private_files::create_new(&temporary, Access::Owner)
        .and_then(|mut file| file.write_all(&text.0))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Checks the folder: users who can rename files in it could replace this cache by another file of
/// this user.
fn check_place(path: &Path) -> io::Result<()> {
    private_files::check_parents(&match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) => fs::canonicalize(folder)?.join(name),
        _ => fs::canonicalize(path)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_too_long_is_given_up_before_it_is_there() {
        let mut draft = Draft::default();
        draft.write_all(b"12345678").unwrap();
        let rest = vec![b'x'; usize::try_from(MAX_BYTES).unwrap() - 7];
        assert!(draft.write_all(&rest).unwrap_err().to_string().contains("more than"));
        assert_eq!(draft.0, b"12345678");
        draft.write_all(&rest[1..]).unwrap();
    }
}
