//! [`Reports`]: decodes and checks reports before the table is locked.

use std::num::NonZero;
use std::thread::available_parallelism;

use rpc_runtime::{Blob, RpcError};
use serde::{Deserialize, Deserializer};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::checked_registration::CheckedRegistration;
use super::identity::Identity;
use super::stored_registration::Key;
use crate::contract::{Change, NameError, Why, array_len, unpack};

/// Largest report, in bytes and in changes. Providers send parts of 1 MiB and 2,000 at most.
const MAX_REPORT: usize = 4 << 20;
const MAX_CHANGES: u64 = 4_096;
/// Longer reports are decoded on the pool of blocking threads, not on the event loop.
const LONG: usize = 64 << 10;

/// Decodes reports. The number of large ones at a time is limited, so that they never use all
/// cores.
pub(super) struct Reports {
    decoding: Semaphore,
}

impl Reports {
    pub(super) fn new() -> Self {
        let cores = available_parallelism().map_or(1, NonZero::get);
        Self { decoding: Semaphore::new(cores.saturating_sub(1).max(1)) }
    }

    pub(super) async fn decode(&self, report: Blob) -> Result<Vec<CheckedChange>, NameError> {
        check_report(&report)?;
        if report.len() < LONG {
            return unpack(&report);
        }
        let failed = |why: String| RpcError::internal(format!("a report is not decoded: {why}"));
        let _turn = self.decoding.acquire().await.map_err(|error| failed(error.to_string()))?;
        let decoded = spawn_blocking(move || unpack(&report)).await;
        decoded.map_err(|error| failed(error.to_string()))?
    }
}

/// A change of a report, checked as far as possible without the table.
///
/// Each [`Change`] is converted when it is decoded: all changes of a report together can take many
/// times the memory of their bytes.
pub(super) enum CheckedChange {
    Register(CheckedRegistration),
    Unregister { service: String, id: String, epoch: u64 },
    Refused(Why, String, Key),
}

impl CheckedChange {
    /// The change, or its refusal if this client lacks the right.
    pub(super) fn checked(self, by: &Identity) -> Self {
        match self {
            Self::Register(it) => match it.check(by) {
                Ok(()) => Self::Register(it),
                Err((why, message)) => Self::Refused(why, message, (it.service, it.id)),
            },
            other => other,
        }
    }
}

impl From<Change> for CheckedChange {
    fn from(change: Change) -> Self {
        match change {
            Change::Register { instance, new, secret } => {
                match CheckedRegistration::new(&instance, new, secret.as_ref()) {
                    Ok(registration) => Self::Register(registration),
                    Err((why, message)) => {
                        let key = (instance.service().to_owned(), instance.id().into());
                        Self::Refused(why, message, key)
                    }
                }
            }
            Change::Unregister { service, id, epoch } => Self::Unregister { service, id, epoch },
        }
    }
}

impl<'de> Deserialize<'de> for CheckedChange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Change::deserialize(deserializer).map(Self::from)
    }
}

/// Checks the announced size of a report before it is decoded.
fn check_report(changes: &[u8]) -> Result<(), NameError> {
    let too_large = |what: String| {
        let hint = format!("tell them in parts of {MAX_CHANGES} and {MAX_REPORT} bytes at most");
        Err(NameError::Invalid(format!("a report of {what}; {hint}")))
    };
    if changes.len() > MAX_REPORT {
        return too_large(format!("{} bytes", changes.len()));
    }
    match array_len(changes) {
        Some(claimed) if claimed > MAX_CHANGES => too_large(format!("{claimed} changes")),
        // Anything but an array is refused by the decoder.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::pack;

    #[test]
    fn a_report_is_refused_by_what_it_claims_to_have() {
        let many = |count: u32| {
            let mut body = vec![0xdd];
            body.extend_from_slice(&count.to_be_bytes());
            body
        };
        for large in [vec![0; MAX_REPORT + 1], many(4_097), many(u32::MAX), vec![0xdc, 0xff, 0xff]]
        {
            assert!(matches!(check_report(&large), Err(NameError::Invalid(_))));
        }
        let empty = pack(&Vec::<Change>::new()).unwrap();
        for small in [&empty[..], &many(4_096), &[0xdc, 0x10, 0], &[0xc0], &[]] {
            check_report(small).unwrap();
        }
    }
}
