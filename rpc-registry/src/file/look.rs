//! One look at who of a list is alive.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::time::{Duration, SystemTime};

use super::clock::Moment;
use super::folder::Folder;
use super::format::Entry;
use super::lease;
use crate::RegistryError;

/// What can be said of a registration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Life {
    /// Its provider lives, and is known to for so long; `None`: until the kernel says otherwise.
    Alive(Option<Duration>),
    /// Its provider is there, but has not renewed it for its lease time: it hangs or is stopped.
    Lapsed,
    /// Its provider is gone for good.
    Dead,
}

impl Life {
    pub(super) fn is_alive(self) -> bool {
        matches!(self, Self::Alive(_))
    }
}

/// Looks at each beat once, however many entries name it.
pub(super) struct Look<'a> {
    folder: &'a Folder,
    moment: Moment,
    beats: HashMap<String, Option<SystemTime>>,
}

impl<'a> Look<'a> {
    pub(super) fn now(folder: &'a Folder) -> Self {
        Self { folder, moment: Moment::now(), beats: HashMap::new() }
    }

    pub(super) fn life(&mut self, entry: &Entry) -> Result<Life, RegistryError> {
        if !lease::is_held(self.folder, &entry.lease)? {
            return Ok(Life::Dead);
        }
        let Some(beat) = &entry.beat else { return Ok(Life::Alive(None)) };
        let renewed = match self.beats.get(&beat.name) {
            Some(renewed) => *renewed,
            None => {
                let renewed = self.renewed(&beat.name)?;
                self.beats.insert(beat.name.clone(), renewed);
                renewed
            }
        };
        // One that somebody has removed is made again by the next renewal.
        let left = self.moment.left(renewed.unwrap_or(SystemTime::UNIX_EPOCH), beat.ttl);
        Ok(if left.is_zero() { Life::Lapsed } else { Life::Alive(Some(left)) })
    }

    fn renewed(&self, name: &str) -> Result<Option<SystemTime>, RegistryError> {
        let path = self.folder.beat(name);
        match self.folder.metadata(&path).and_then(|metadata| metadata.modified()) {
            Ok(renewed) => Ok(Some(renewed)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.folder.error("read", &path, error)),
        }
    }
}
