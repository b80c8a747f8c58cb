//! [`Caller`] and [`Identity`]: the credentials of a connection, and the client that they identify.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rpc_runtime::{Context, PeerCertificate};
use sha2::{Digest, Sha256};

use super::quota::Quota;
use super::rights::Rights;
use crate::contract::AUTHORIZATION;

/// The hash of a token or of a secret.
pub(super) type Hash = [u8; 32];

/// The approximate memory of a session or of a followed service, without the names of its client.
pub(super) const FIXED_BYTES: usize = 2048;

pub(super) fn hash(secret: &[u8]) -> Hash {
    Sha256::digest(secret).into()
}

/// The credentials that a call's connection has.
#[derive(Debug, Clone, Default)]
pub(super) struct Caller {
    /// The URI of the client's end.
    pub(super) peer: Arc<str>,
    /// Names of the certificate, the strongest first: URIs, DNS names, subject.
    pub(super) names: Vec<CertificateName>,
    pub(super) token: Option<Hash>,
    /// The token arrived unencrypted from another machine, so it is compromised.
    pub(super) is_token_exposed: bool,
}

/// A name in a client's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CertificateName {
    Uri(String),
    Dns(String),
    Subject(String),
}

impl CertificateName {
    /// With the kind as prefix: the text identifies a client, and `dns:host` is a valid URI, too.
    pub(super) fn to_text(&self) -> String {
        match self {
            Self::Uri(uri) => format!("uri:{uri}"),
            // Host names are case-insensitive.
            Self::Dns(dns) => format!("dns:{}", dns.to_ascii_lowercase()),
            Self::Subject(subject) => format!("subject:{subject}"),
        }
    }

    fn len(&self) -> usize {
        let (Self::Uri(text) | Self::Dns(text) | Self::Subject(text)) = self;
        text.len().saturating_add(size_of::<Self>())
    }
}

impl Caller {
    /// The client of the current call.
    pub(super) fn current() -> Self {
        let context = Context::current();
        let peer: Arc<str> = context.peer().unwrap_or_default().into();
        let token = context.metadata(AUTHORIZATION).and_then(|it| it.strip_prefix("Bearer "));
        Self {
            is_token_exposed: token.is_some() && !is_private(&peer),
            token: token.map(|token| hash(token.as_bytes())),
            names: context.peer_certificate().map(names).unwrap_or_default(),
            peer,
        }
    }
}

fn names(certificate: &PeerCertificate) -> Vec<CertificateName> {
    let uris = certificate.uris().iter().cloned().map(CertificateName::Uri);
    let dns = certificate.dns_names().iter().cloned().map(CertificateName::Dns);
    // Otherwise all certificates without a subject would identify one client.
    let subject = Some(certificate.subject()).filter(|it| !it.is_empty());
    uris.chain(dns).chain(subject.map(|it| CertificateName::Subject(it.to_owned()))).collect()
}

/// The IP address of a peer; `None` for transports without addresses.
fn address(peer: &str) -> Option<IpAddr> {
    let (_, rest) = peer.split_once("://")?;
    rest.parse::<SocketAddr>().ok().map(|address| address.ip().to_canonical())
}

/// Whether the connection to this peer is private: encrypted, or within this machine.
fn is_private(peer: &str) -> bool {
    match peer.strip_prefix("tcp:") {
        Some(_) => address(peer).is_some_and(|it| it.is_loopback()),
        None => true,
    }
}

/// A client's identity and rights.
#[derive(Debug)]
pub(super) struct Identity {
    /// `None` without authentication.
    pub(super) name: Option<Arc<str>>,
    /// The URI of its end of the connection.
    pub(super) peer: Arc<str>,
    pub(super) rights: Arc<Rights>,
    /// The account that is charged: that of its name, otherwise that of its address.
    pub(super) owner: Arc<str>,
    /// The account of its connection, if connections can be distinguished: at `unix:`, those of
    /// each process.
    pub(super) connection: Option<Arc<str>>,
    pub(super) quota: Quota,
    /// The approximate memory of a session of the client or of a service that it follows. Both
    /// store the names of its certificate, which can be long.
    pub(super) bytes: usize,
}

impl Identity {
    pub(super) fn new(
        caller: &Caller,
        name: Option<String>,
        rights: Arc<Rights>,
        quota: Quota,
    ) -> Self {
        let address = address(&caller.peer);
        let owner = match (&name, address) {
            (Some(name), _) => format!("identity {name}"),
            // A program of this machine has all addresses of 127.0.0.0/8 to connect from.
            (None, Some(address)) if address.is_loopback() => "this machine".to_owned(),
            (None, Some(IpAddr::V6(address))) => {
                // A host has all addresses of its network to connect from.
                let network = address.to_bits() >> 64;
                format!("network {network:016x}::/64")
            }
            (None, Some(address)) => format!("address {address}"),
            // A user of this machine, or this process itself.
            (None, None) => match caller.peer.rsplit_once("uid=") {
                Some((_, user)) => format!("user {user}"),
                None => caller.peer.to_string(),
            },
        };
        let is_told_apart = address.is_some() || caller.peer.starts_with("unix:");
        let connection = is_told_apart.then(|| format!("connection {}", caller.peer).into());
        Self {
            name: name.map(Into::into),
            peer: Arc::clone(&caller.peer),
            rights,
            owner: owner.into(),
            connection,
            quota,
            bytes: caller
                .names
                .iter()
                .map(CertificateName::len)
                .fold(FIXED_BYTES, usize::saturating_add),
        }
    }

    /// Whether both are the same and charge the same accounts.
    pub(super) fn is_same_account(&self, other: &Self) -> bool {
        (&self.name, &self.owner, &self.connection, self.quota)
            == (&other.name, &other.owner, &other.connection, other.quota)
    }

    /// Whether both are authenticated as the same identity.
    pub(super) fn is_proved_same(&self, other: &Self) -> bool {
        self.name.is_some() && self.name == other.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(peer: &str) -> Identity {
        let caller = Caller { peer: peer.into(), ..Caller::default() };
        Identity::new(&caller, None, Arc::default(), Quota::default())
    }

    #[test]
    fn a_host_of_ipv6_pays_from_one_account_whichever_of_its_addresses_it_uses() {
        let (one, other) = (identity("tcp://[2001:db8::1]:1"), identity("tcp://[2001:db8::2]:1"));
        assert_eq!(one.owner, other.owner);
        assert_ne!(one.connection, other.connection);
        assert_ne!(one.owner, identity("tcp://[2001:db8:0:1::1]:1").owner);
        assert_eq!(identity("tcp://[::ffff:10.0.0.1]:1").owner, identity("tls://10.0.0.1:9").owner);
    }

    #[test]
    fn a_program_of_this_machine_pays_from_one_account_whichever_address_it_uses() {
        let (one, other) = (identity("tcp://127.0.0.1:1"), identity("tcp://127.9.9.9:1"));
        assert_eq!(one.owner, other.owner);
        assert_eq!(one.owner, identity("tcp://[::1]:1").owner);
        assert_ne!(one.owner, identity("tcp://10.0.0.1:1").owner);
    }

    #[test]
    fn what_a_long_certificate_takes_is_paid_for() {
        let names = (0..1_000).map(|n| CertificateName::Dns(format!("{n:040}"))).collect();
        let caller = Caller { names, ..Caller::default() };
        let long = Identity::new(&caller, None, Arc::default(), Quota::default());
        assert!(long.bytes > identity("tls://10.0.0.1:1").bytes + 40_000);
    }

    #[test]
    fn processes_of_one_user_pay_from_one_account() {
        let (one, other) = (identity("unix:///x#pid=1,uid=7"), identity("unix:///x#pid=2,uid=7"));
        assert_eq!(one.owner, other.owner);
        assert_ne!(one.connection, other.connection);
        assert_ne!(one.owner, identity("unix:///x#pid=1,uid=8").owner);
    }

    #[test]
    fn only_what_nobody_else_reads_is_private() {
        for private in ["tls://10.0.0.1:1", "tcp://127.0.0.1:1", "tcp://[::1]:1", "memory:x"] {
            assert!(is_private(private), "{private}");
        }
        for open in ["tcp://10.0.0.1:1", "tcp://[2001:db8::1]:1", "tcp://nonsense", "tcp:"] {
            assert!(!is_private(open), "{open}");
        }
    }

    #[test]
    fn two_who_have_proved_nothing_are_not_the_same() {
        assert!(!identity("tcp://10.0.0.1:1").is_proved_same(&identity("tcp://10.0.0.1:1")));
    }
}
