//! Which registrations of a list are alive.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::time::{Duration, SystemTime};

use super::clock::ClockReading;
use super::folder::Folder;
use super::format::ListEntry;
use super::lease;
use crate::RegistryError;

/// The state of a registration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Liveness {
    /// Its provider is alive, and its lease lasts for this time. `None`: until the process ends.
    Alive(Option<Duration>),
    /// Its process exists, but has not renewed the lease for the lease time: it hangs or is
    /// stopped.
    Expired,
    /// Its process has ended.
    Dead,
}

impl Liveness {
    pub(super) fn is_alive(self) -> bool {
        matches!(self, Self::Alive(_))
    }
}

/// A check of several registrations. Reads each process lease once, however many entries name it.
pub(super) struct LivenessCheck<'a> {
    folder: &'a Folder,
    now: ClockReading,
    /// When each process lease was renewed; `None` if its file is missing.
    renewed: HashMap<String, Option<SystemTime>>,
}

impl<'a> LivenessCheck<'a> {
    pub(super) fn now(folder: &'a Folder) -> Self {
        Self { folder, now: ClockReading::now(), renewed: HashMap::new() }
    }

    pub(super) fn of(&mut self, entry: &ListEntry) -> Result<Liveness, RegistryError> {
        if !lease::is_held(self.folder, &entry.lease)? {
            return Ok(Liveness::Dead);
        }
        let Some(reference) = &entry.process_lease else { return Ok(Liveness::Alive(None)) };
        let renewed = match self.renewed.get(&reference.name) {
            Some(renewed) => *renewed,
            None => {
                let renewed = self.renewed(&reference.name)?;
                self.renewed.insert(reference.name.clone(), renewed);
                renewed
            }
        };
        // The next renewal creates a file that was deleted.
        let renewed = renewed.unwrap_or(SystemTime::UNIX_EPOCH);
        let remaining = self.now.remaining(renewed, reference.lease_time);
        Ok(match remaining.is_zero() {
            true => Liveness::Expired,
            false => Liveness::Alive(Some(remaining)),
        })
    }

    fn renewed(&self, name: &str) -> Result<Option<SystemTime>, RegistryError> {
        let path = self.folder.process_lease(name);
        match self.folder.metadata(&path).and_then(|metadata| metadata.modified()) {
            Ok(renewed) => Ok(Some(renewed)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.folder.error("read", &path, error)),
        }
    }
}
