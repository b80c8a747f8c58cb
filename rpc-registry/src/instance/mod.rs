//! [`Instance`]: one provider of one service.

mod rules;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(crate) use self::rules::check_service;
#[cfg(any(feature = "etcd", feature = "zookeeper"))]
pub(crate) use self::rules::is_name;
use self::rules::{check_metadata, check_name, check_text, check_uri};
use crate::RegistryError;
use crate::clock::unix_ms;
use crate::random::random_u64;

/// One provider of one service: its address, and the data by which consumers choose.
///
/// ```
/// use rpc_registry::Instance;
///
/// let instance = Instance::new("HelloService", "tcp://127.0.0.1:9000")
///     .with_version("1.2.0")
///     .with_weight(50)
///     .with_metadata("rack", "r7");
/// assert_eq!(instance.weight(), 50);
/// assert!(instance.validate().is_ok());
/// ```
///
/// The serialized form is a map by field name. Fields that a reader does not know are ignored,
/// and all but `service`, `id` and `uri` may be missing, so old and new versions read each other.
///
/// Clones share their fields, so lists of instances are cheap to copy and to compare.
#[derive(Clone, PartialEq, Eq)]
pub struct Instance(Arc<Fields>);

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename = "Instance")]
struct Fields {
    // In this order, so that the important part comes first in a registry file.
    service: String,
    id: String,
    uri: String,
    #[serde(default = "default_version")]
    version: String,
    #[serde(default)]
    group: String,
    #[serde(default = "default_weight")]
    weight: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
    #[serde(default)]
    started_ms: u64,
    #[serde(default)]
    epoch: u64,
}

fn default_version() -> String {
    "1.0.0".to_owned()
}

fn default_weight() -> u32 {
    100
}

impl Instance {
    /// An instance of `service` that listens at `uri`, with a new id and default values.
    ///
    /// Nothing is checked here, but by [`Registry::register`](crate::Registry::register).
    pub fn new(service: impl Into<String>, uri: impl Into<String>) -> Self {
        let started_ms = unix_ms();
        Self(Arc::new(Fields {
            service: service.into(),
            id: new_id(started_ms),
            uri: uri.into(),
            version: default_version(),
            group: String::new(),
            weight: default_weight(),
            zone: None,
            metadata: BTreeMap::new(),
            started_ms,
            epoch: 0,
        }))
    }

    /// The fields, copied if they are shared.
    fn fields(&mut self) -> &mut Fields {
        Arc::make_mut(&mut self.0)
    }

    /// Sets the id, unique among the living instances of the service. Default: made of time,
    /// process id and 64 random bits, safe in a URL and as a file name.
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.fields().id = id.into();
        self
    }

    /// Sets the version of the contract. Default: `1.0.0`.
    pub fn with_version(mut self, version: impl Into<String>) -> Self {
        self.fields().version = version.into();
        self
    }

    /// Sets the group, which separates implementations of one contract. Default: empty, no group.
    pub fn with_group(mut self, group: impl Into<String>) -> Self {
        self.fields().group = group.into();
        self
    }

    /// Sets the share of calls relative to the other instances. Default: 100; 0 gets none.
    pub fn with_weight(mut self, weight: u32) -> Self {
        self.fields().weight = weight;
        self
    }

    /// Sets the place, such as a rack or an availability zone. Default: none.
    pub fn with_zone(mut self, zone: impl Into<String>) -> Self {
        self.fields().zone = Some(zone.into());
        self
    }

    /// Adds one pair of metadata, replacing the value of the same key. Default: no metadata.
    pub fn with_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.fields().metadata.insert(key.into(), value.into());
        self
    }

    /// Sets the start time in milliseconds since the Unix epoch, by which consumers warm up.
    /// Default: when [`new`](Self::new) was called.
    pub fn with_started_ms(mut self, started_ms: u64) -> Self {
        self.fields().started_ms = started_ms;
        self
    }

    /// Sets the epoch, which grows with each registration of the same id. Default: 0; a back end
    /// raises it above that of the dead registration it replaces.
    pub fn with_epoch(mut self, epoch: u64) -> Self {
        self.fields().epoch = epoch;
        self
    }

    /// The name of the service.
    pub fn service(&self) -> &str {
        &self.0.service
    }

    /// The id, unique among the living instances of the service.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// The address, such as `tcp://127.0.0.1:9000`.
    pub fn uri(&self) -> &str {
        &self.0.uri
    }

    /// The version of the contract.
    pub fn version(&self) -> &str {
        &self.0.version
    }

    /// The group; empty for none.
    pub fn group(&self) -> &str {
        &self.0.group
    }

    /// The share of calls relative to the other instances.
    pub fn weight(&self) -> u32 {
        self.0.weight
    }

    /// The place, if one was given.
    pub fn zone(&self) -> Option<&str> {
        self.0.zone.as_deref()
    }

    /// All metadata, ordered by key.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.0.metadata
    }

    /// When the provider started, in milliseconds since the Unix epoch; 0 if not known.
    pub fn started_ms(&self) -> u64 {
        self.0.started_ms
    }

    /// The epoch, which grows with each registration of the same id.
    pub fn epoch(&self) -> u64 {
        self.0.epoch
    }

    /// Estimated memory, in bytes.
    pub(crate) fn footprint(&self) -> usize {
        /// Of the fields, and of a node of a map.
        const EACH: usize = 512;
        let Fields { service, id, uri, version, group, zone, metadata, .. } = &*self.0;
        let names = [service, id, uri, version, group].map(String::len).into_iter().sum::<usize>();
        let pairs = metadata.iter().map(|(key, value)| key.len() + value.len() + EACH / 4);
        EACH + names + zone.as_ref().map_or(0, String::len) + pairs.sum::<usize>()
    }

    /// Checks the rules of all back ends:
    ///
    /// - service, id and version: 1 to 255 bytes, no whitespace, no control characters, no
    ///   characters that change the direction of text;
    /// - group and zone: the same, but may be empty;
    /// - uri: `scheme://` and more, at most 2048 bytes, with the same characters;
    /// - metadata: at most 64 pairs, keys as above, values of at most 4096 bytes.
    ///
    /// # Errors
    ///
    /// `is_invalid_instance`, naming the field, the rule and the value.
    pub fn validate(&self) -> Result<(), RegistryError> {
        check_service(self.service())?;
        check_name("id", self.id())?;
        check_uri(self.uri())?;
        check_name("version", self.version())?;
        check_text("group", self.group())?;
        check_text("zone", self.zone().unwrap_or_default())?;
        check_metadata(self.metadata())
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fields { service, id, uri, version, group, weight, zone, metadata, started_ms, epoch } =
            &*self.0;
        f.debug_struct("Instance")
            .field("service", service)
            .field("id", id)
            .field("uri", uri)
            .field("version", version)
            .field("group", group)
            .field("weight", weight)
            .field("zone", zone)
            .field("metadata", metadata)
            .field("started_ms", started_ms)
            .field("epoch", epoch)
            .finish()
    }
}

impl Serialize for Instance {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Instance {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Fields::deserialize(deserializer).map(|fields| Self(Arc::new(fields)))
    }
}

fn new_id(now_ms: u64) -> String {
    format!("{now_ms:x}-{:x}-{:016x}", std::process::id(), random_u64())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn valid() -> Instance {
        Instance::new("svc", "tcp://127.0.0.1:1")
    }

    fn refused(instance: Instance, mention: &str) {
        let error = instance.validate().unwrap_err();
        assert!(error.is_invalid_instance());
        assert!(error.to_string().contains(mention), "{error} does not say {mention:?}");
    }

    #[test]
    fn names_that_would_damage_a_store_are_refused() {
        refused(Instance::new("", "tcp://h:1"), "service name is empty");
        refused(Instance::new("a b", "tcp://h:1"), "whitespace");
        refused(Instance::new("a\nb", "tcp://h:1"), "'\\n'");
        refused(Instance::new("a".repeat(256), "tcp://h:1"), "256 bytes");
        refused(valid().with_id(""), "id is empty");
        refused(valid().with_id("x\0"), "id");
        refused(valid().with_version(""), "version is empty");
        refused(valid().with_group("a\u{85}"), "group");
        refused(valid().with_zone(" "), "zone");
        refused(valid().with_id("a\u{202e}b"), "direction of text");
        assert!(Instance::new("a".repeat(255), "tcp://h:1").validate().is_ok());
    }

    #[test]
    fn uris_that_nobody_could_connect_to_are_refused() {
        for uri in ["", "tcp", "tcp:", "tcp://", "://h", "1tcp://h", "tcp:/h", "t_p://h"] {
            refused(Instance::new("svc", uri), "scheme://address");
        }
        refused(Instance::new("svc", "tcp://a b"), "whitespace");
        refused(Instance::new("svc", format!("tcp://{}", "a".repeat(2048))), "2048");
        assert!(Instance::new("svc", "unix:///tmp/s").validate().is_ok());
    }

    #[test]
    fn metadata_has_limits() {
        let many = (0..65).fold(valid(), |i, n| i.with_metadata(format!("k{n}"), "v"));
        refused(many, "65 metadata pairs");
        refused(valid().with_metadata("", "v"), "metadata key is empty");
        refused(valid().with_metadata("k", "v".repeat(4097)), "4097 bytes");
        assert!(valid().with_metadata("k", "any text\nat all").validate().is_ok());
    }

    #[test]
    fn ids_are_unique_and_safe_in_urls() {
        let ids: HashSet<_> = (0..1000).map(|_| valid().id().to_owned()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')));
    }

    #[test]
    fn old_and_new_versions_read_each_other() {
        let old =
            r#"{"service":"svc","id":"a","uri":"tcp://h:1","colour":{"of":["the","future"]}}"#;
        let read: Instance = serde_json::from_str(old).unwrap();
        assert_eq!((read.version(), read.weight(), read.zone()), ("1.0.0", 100, None));
        let full = valid().with_zone("z").with_metadata("k", "v").with_epoch(7);
        let text = serde_json::to_string(&full).unwrap();
        assert!(text.starts_with(r#"{"service":"svc","id":""#), "{text}");
        assert_eq!(serde_json::from_str::<Instance>(&text).unwrap(), full);
    }
}
