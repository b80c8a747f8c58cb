//! [`GrantedLease`]: a lease of etcd and its renewal.

use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::client::{Client, Method};
use super::messages::{
    EmptyResponse, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest,
    LeaseKeepAliveResponse, LeaseRevokeRequest,
};
use crate::RegistryError;

/// Maximum pause before a failed renewal is retried.
const RETRY: Duration = Duration::from_millis(500);
/// Maximum lease. A response may contain any number, which could overflow the clock.
const LONGEST: Duration = Duration::from_secs(10 * 86_400);

/// A lease that etcd has granted.
#[derive(Debug)]
pub(super) struct GrantedLease {
    pub(super) id: i64,
    /// The revision of etcd at that time.
    pub(super) revision: u64,
    pub(super) ttl: Duration,
    /// When it was requested. The lease began later at etcd.
    since: Instant,
}

impl GrantedLease {
    pub(super) async fn ask(client: &Client, ttl: i64) -> Result<Self, RegistryError> {
        let since = Instant::now();
        let granted: LeaseGrantResponse =
            client.call(Method::GRANT, LeaseGrantRequest { ttl }).await?;
        let ttl = time(granted.ttl).filter(|_| granted.error.is_empty()).ok_or_else(|| {
            RegistryError::unavailable(format!("etcd granted no lease: {}", granted.error))
                .with_registry(client.uri())
        })?;
        let revision = granted.header.unwrap_or_default().revision;
        let revision = u64::try_from(revision).unwrap_or_default();
        Ok(Self { id: granted.id, revision, ttl, since })
    }

    /// Renews the lease until it is lost, and returns the reason.
    pub(super) async fn keep(self, client: &Client) -> RegistryError {
        let id = self.id;
        let ask = || async move {
            let request = LeaseKeepAliveRequest { id };
            let answer: LeaseKeepAliveResponse = client.call(Method::KEEP_ALIVE, request).await?;
            Ok(time(answer.ttl))
        };
        let why = match renewed(self.since, self.ttl, ask).await {
            Lost::Ended => RegistryError::unavailable("the lease has ended in etcd"),
            Lost::Untold(ttl, None) => RegistryError::unavailable(format!(
                "no renewal of the lease was answered for {ttl:?}"
            )),
            Lost::Untold(ttl, Some(cause)) => {
                cause.with_context(format!("the lease could not be renewed for {ttl:?}"))
            }
        };
        why.with_registry(client.uri())
    }
}

/// Revokes a lease, and thereby deletes the keys that are attached to it.
pub(super) async fn revoke(client: &Client, id: i64) -> Result<(), RegistryError> {
    client.call::<_, EmptyResponse>(Method::REVOKE, LeaseRevokeRequest { id }).await.map(drop)
}

/// The remaining time of a lease; `None` if it does not exist.
fn time(seconds: i64) -> Option<Duration> {
    let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0)?;
    Some(Duration::from_secs(seconds).min(LONGEST))
}

/// Why a lease is lost.
#[derive(Debug)]
enum Lost {
    /// The lease does not exist at etcd.
    Ended,
    /// No renewal succeeded for this time, with the last error.
    Untold(Duration, Option<RegistryError>),
}

/// Renews at a third of the time. A renewal counts from the request, so the lease never lasts
/// longer here than at etcd.
async fn renewed<F>(mut since: Instant, mut ttl: Duration, ask: impl Fn() -> F) -> Lost
where
    F: Future<Output = Result<Option<Duration>, RegistryError>>,
{
    let mut next = since + ttl / 3;
    let mut cause = None;
    loop {
        let expires = since + ttl;
        sleep_until(next.min(expires)).await;
        let now = Instant::now();
        if now >= expires {
            return Lost::Untold(ttl, cause);
        }
        match timeout_at(expires, ask()).await {
            Ok(Ok(Some(more))) => {
                (since, ttl, cause) = (now, more, None);
                next = since + ttl / 3;
            }
            Ok(Ok(None)) => return Lost::Ended,
            Ok(Err(error)) => {
                cause = Some(error);
                next = Instant::now() + RETRY.min(ttl / 10);
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const TTL: Duration = Duration::from_secs(9);

    /// Asked at these seconds, and lost after so many.
    async fn run(
        answer: impl AsyncFn(u64) -> Result<Option<Duration>, RegistryError>,
    ) -> (Vec<u64>, Lost, u64) {
        let start = Instant::now();
        let asked = RefCell::new(Vec::new());
        let lost = renewed(start, TTL, || {
            let now = start.elapsed().as_secs();
            asked.borrow_mut().push(now);
            answer(now)
        })
        .await;
        (asked.into_inner(), lost, start.elapsed().as_secs())
    }

    fn away() -> RegistryError {
        RegistryError::unavailable("away")
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_renewed_at_a_third_until_etcd_says_that_it_has_ended() {
        let answer = async |now| Ok((now < 12).then_some(TTL));
        let (asked, lost, after) = run(answer).await;
        assert_eq!((asked, after), (vec![3, 6, 9, 12], 12));
        assert!(matches!(lost, Lost::Ended));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_could_not_be_renewed_is_lost_no_later_than_in_etcd() {
        let (asked, lost, after) = run(async |_| Err(away())).await;
        assert_eq!(after, 9);
        assert!(asked.len() > 10, "it is tried again soon, not {asked:?}");
        assert!(matches!(lost, Lost::Untold(TTL, Some(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_without_an_answer_does_not_hide_the_end() {
        let (asked, lost, after) = run(async |_| std::future::pending().await).await;
        assert_eq!((asked, after), (vec![3], 9));
        assert!(matches!(lost, Lost::Untold(TTL, None)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_fault_goes_unnoticed() {
        let answer = async |now| match now {
            0..3 | 8..20 => Ok(Some(TTL)),
            3..8 => Err(away()),
            _ => Ok(None),
        };
        let (_, lost, after) = run(answer).await;
        assert!(matches!(lost, Lost::Ended) && after >= 20, "after {after} s");
    }

    #[test]
    fn what_etcd_says_of_time_is_not_believed_blindly() {
        assert_eq!(time(i64::MAX), Some(LONGEST));
        assert_eq!((time(5), time(0), time(-1)), (Some(Duration::from_secs(5)), None, None));
    }
}
