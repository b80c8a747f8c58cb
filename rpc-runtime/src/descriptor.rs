//! Descriptors of a contract at run time: service, methods, arguments.

use std::fmt;
use std::time::Duration;

/// Name, version and group of a service. Consumer and provider must agree on them; see
/// [`accepts`](Self::accepts).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServiceKey {
    name: &'static str,
    version: &'static str,
    group: &'static str,
}

impl ServiceKey {
    /// `version` is `major.minor.patch`; an empty `group` is the default group.
    pub const fn new(name: &'static str, version: &'static str, group: &'static str) -> Self {
        Self { name, version, group }
    }

    /// The service's name in registries and messages.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// `major.minor.patch`.
    pub const fn version(&self) -> &'static str {
        self.version
    }

    /// Empty for the default group.
    pub const fn group(&self) -> &'static str {
        self.group
    }

    /// Whether a provider of `version` and `group` can serve this contract: the group is the same,
    /// and the versions are compatible by semantic versioning (same major version; with major
    /// version 0, same minor version too).
    pub fn accepts(&self, version: &str, group: &str) -> bool {
        self.group == group && release_line(self.version) == release_line(version)
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.group.is_empty() {
            write!(f, "{}/", self.group)?;
        }
        write!(f, "{} {}", self.name, self.version)
    }
}

/// The part of a version that compatible versions share: `1` of `1.2.3`, `0.4` of `0.4.7`.
fn release_line(version: &str) -> &str {
    version.get(..release_line_len(version.as_bytes())).unwrap_or(version)
}

const fn release_line_len(version: &[u8]) -> usize {
    let below_one = version.len() > 1 && version[0] == b'0' && version[1] == b'.';
    let mut dots_left = if below_one { 2 } else { 1 };
    let mut at = 0;
    while at < version.len() {
        if version[at] == b'.' {
            dots_left -= 1;
            if dots_left == 0 {
                break;
            }
        }
        at += 1;
    }
    at
}

/// The descriptor of a contract. `#[rpc_service]` generates a constant for each trait.
#[derive(Clone, Copy, Debug)]
pub struct ServiceDescriptor {
    key: ServiceKey,
    methods: &'static [&'static MethodDescriptor],
}

impl ServiceDescriptor {
    /// Creates a descriptor. In a constant, two methods with the same id are a build error.
    #[allow(clippy::panic, reason = "evaluated at compile time, where a panic is a build error")]
    pub const fn new(key: ServiceKey, methods: &'static [&'static MethodDescriptor]) -> Self {
        let mut a = 0;
        while a < methods.len() {
            let mut b = a + 1;
            while b < methods.len() {
                if methods[a].id == methods[b].id {
                    panic!(
                        "two methods of this service have the same id on the wire; \
                         give one of them another name: #[rpc(name = \"…\")]"
                    );
                }
                b += 1;
            }
            a += 1;
        }
        Self { key, methods }
    }

    /// Name, version and group.
    pub const fn key(&self) -> ServiceKey {
        self.key
    }

    /// The methods in the order of the trait. Methods with default bodies are not remote and not
    /// listed.
    pub const fn methods(&self) -> &'static [&'static MethodDescriptor] {
        self.methods
    }

    /// The method of this name on the wire.
    pub fn method(&self, name: &str) -> Option<&'static MethodDescriptor> {
        self.methods.iter().copied().find(|method| method.name() == name)
    }
}

/// Where a method runs in the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dispatch {
    /// Polled once in the task of the connection, and moved to a separate task only if it waits.
    /// For methods that do little work between awaits. The default.
    Inline,
    /// Runs in a separate task from the start. For methods that compute for more than a few hundred
    /// microseconds at a time.
    Spawn,
    /// Runs on a blocking thread of the server (`ServerBuilder::blocking_threads`). For methods
    /// that block the thread. If the caller cancels, a running call continues to its next await. A
    /// returned stream holds the thread until the stream ends.
    Blocking,
}

/// One method of a contract.
#[derive(Clone, Copy, Debug)]
pub struct MethodDescriptor {
    service: ServiceKey,
    name: &'static str,
    id: u64,
    arguments: &'static [ArgumentDescriptor],
    returns: &'static str,
    idempotent: bool,
    oneway: bool,
    timeout: Option<Duration>,
    dispatch: Option<Dispatch>,
}

impl MethodDescriptor {
    /// `name` is the name on the wire; `returns` is the return type as the trait spells it.
    pub const fn new(
        service: ServiceKey,
        name: &'static str,
        arguments: &'static [ArgumentDescriptor],
        returns: &'static str,
    ) -> Self {
        Self {
            service,
            name,
            id: method_id(service, name),
            arguments,
            returns,
            idempotent: false,
            oneway: false,
            timeout: None,
            dispatch: None,
        }
    }

    /// Marks the method as idempotent: running it twice has the same effect as running it once.
    pub const fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// Marks the method as oneway: there is no response.
    pub const fn oneway(mut self) -> Self {
        self.oneway = true;
        self
    }

    /// Sets the timeout of the contract for this method, in milliseconds.
    pub const fn timeout_ms(mut self, milliseconds: u64) -> Self {
        self.timeout = Some(Duration::from_millis(milliseconds));
        self
    }

    /// Sets where the provider runs the method. Overrides the server's setting.
    pub const fn dispatch(mut self, mode: Dispatch) -> Self {
        self.dispatch = Some(mode);
        self
    }

    /// The service it belongs to.
    pub const fn service(&self) -> ServiceKey {
        self.service
    }

    /// The name on the wire.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The id on the wire: a hash of group, service, release line and method name. The signature is
    /// not part of it, so a changed type leads to a decode error that names the argument, not to
    /// "unknown method".
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// The arguments in the order of the trait.
    pub const fn arguments(&self) -> &'static [ArgumentDescriptor] {
        self.arguments
    }

    /// The return type as the trait spells it.
    pub const fn returns(&self) -> &'static str {
        self.returns
    }

    /// Whether the method is idempotent.
    pub const fn is_idempotent(&self) -> bool {
        self.idempotent
    }

    /// Whether the method has no response.
    pub const fn is_oneway(&self) -> bool {
        self.oneway
    }

    /// The timeout of the contract, if it has one.
    pub const fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// The contract's choice of where the method runs, if it has one.
    pub const fn dispatch_mode(&self) -> Option<Dispatch> {
        self.dispatch
    }
}

/// `Service/method`.
impl fmt::Display for MethodDescriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service.name, self.name)
    }
}

/// One argument of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArgumentDescriptor {
    name: &'static str,
    type_name: &'static str,
}

impl ArgumentDescriptor {
    /// Name and type as the trait spells them.
    pub const fn new(name: &'static str, type_name: &'static str) -> Self {
        Self { name, type_name }
    }

    /// The argument's name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The argument's type as the trait spells it.
    pub const fn type_name(&self) -> &'static str {
        self.type_name
    }
}

/// FNV-1a, 64 bits, over `group 0 service 0 release-line 0 method` (0 is a zero byte).
const fn method_id(service: ServiceKey, method: &str) -> u64 {
    let mut hash = FNV_OFFSET;
    hash = fnv1a(hash, service.group.as_bytes(), service.group.len());
    hash = fnv1a(hash, &[0], 1);
    hash = fnv1a(hash, service.name.as_bytes(), service.name.len());
    hash = fnv1a(hash, &[0], 1);
    let version = service.version.as_bytes();
    hash = fnv1a(hash, version, release_line_len(version));
    hash = fnv1a(hash, &[0], 1);
    fnv1a(hash, method.as_bytes(), method.len())
}

/// The initial value of FNV-1a.
pub(crate) const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

pub(crate) const fn fnv1a(mut hash: u64, bytes: &[u8], len: usize) -> u64 {
    let mut at = 0;
    while at < len {
        hash ^= bytes[at] as u64;
        hash = hash.wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn id(name: &'static str, version: &'static str, group: &'static str) -> u64 {
        method_id(ServiceKey::new(name, version, group), "m")
    }

    #[test]
    fn ids_stay_within_a_release_line_and_differ_across_lines_groups_and_names() {
        assert_eq!(id("S", "1.0.0", ""), id("S", "1.9.3", ""));
        assert_eq!(id("S", "0.4.0", ""), id("S", "0.4.9", ""));
        let others = [
            id("S", "2.0.0", ""),
            id("S", "0.4.0", ""),
            id("S", "0.5.0", ""),
            id("S", "1.0.0", "g"),
            id("T", "1.0.0", ""),
        ];
        for (at, other) in others.iter().enumerate() {
            assert_ne!(*other, id("S", "1.0.0", ""));
            assert!(!others[..at].contains(other));
        }
    }

    #[test]
    fn fnv1a_is_the_published_function() {
        // Test vectors of the FNV reference page.
        assert_eq!(fnv1a(FNV_OFFSET, b"foobar", 6), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_provider_of_another_line_or_group_is_not_accepted() {
        let key = ServiceKey::new("S", "1.2.0", "blue");
        assert!(key.accepts("1.0.9", "blue"));
        assert!(!key.accepts("2.0.0", "blue"));
        assert!(!key.accepts("1.2.0", ""));
        assert!(!key.accepts("10.2.0", "blue"));
    }
}
