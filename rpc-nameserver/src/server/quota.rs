//! [`Quota`]: the limits of a client.

use serde::Deserialize;

/// Limits of one client of a name server.
///
/// A client is an authenticated identity. Without authentication it is an IP address (IPv6: one
/// /64; all addresses of this machine together), or a user of the machine at a `unix:` socket. A
/// policy file can give an identity another quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quota {
    /// Maximum registrations. Default 20,000.
    pub instances: usize,
    /// Maximum services with a registration of the client. Default 2,000.
    pub services: usize,
    /// Maximum sessions; each provider process has one. Default 4,096.
    pub sessions: usize,
    /// Maximum services followed, counted per connection. Default 32,768.
    pub follows: usize,
    /// Maximum bytes of registrations, sessions and follows, as counted for
    /// [`max_bytes`](super::NameServerBuilder::max_bytes). Default 64 MiB, a quarter of the default
    /// of `max_bytes`.
    pub bytes: usize,
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            instances: 20_000,
            services: 2_000,
            sessions: 4_096,
            follows: 32_768,
            bytes: 64 << 20,
        }
    }
}

/// Maximum sessions of one connection. A process needs no more, and one connection cannot use up
/// its client's quota.
const SESSIONS_OF_CONNECTION: usize = 16;
/// Share of one connection in its client's quota: three quarters.
const SHARE_OF_CONNECTION: (usize, usize) = (3, 4);

impl Quota {
    pub(super) fn of_connection(self) -> Self {
        let (part, whole) = SHARE_OF_CONNECTION;
        let share = |all: usize| all.div_ceil(whole).saturating_mul(part);
        Self {
            instances: share(self.instances),
            services: self.services,
            sessions: self.sessions.min(SESSIONS_OF_CONNECTION),
            follows: share(self.follows),
            bytes: share(self.bytes),
        }
    }
}

/// The quota in a policy file.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct QuotaOverrides {
    instances: Option<usize>,
    services: Option<usize>,
    sessions: Option<usize>,
    follows: Option<usize>,
    bytes: Option<usize>,
}

impl QuotaOverrides {
    pub(super) fn over(self, default: Quota) -> Quota {
        Quota {
            instances: self.instances.unwrap_or(default.instances),
            services: self.services.unwrap_or(default.services),
            sessions: self.sessions.unwrap_or(default.sessions),
            follows: self.follows.unwrap_or(default.follows),
            bytes: self.bytes.unwrap_or(default.bytes),
        }
    }
}
