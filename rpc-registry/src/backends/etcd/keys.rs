//! [`Keys`]: the keys of instances in etcd.

use crate::backends::etcd::messages::KeyValue;
use crate::instance::is_name;
use crate::percent::{decode, encode};
use crate::{Instance, Printable, limited};

const DEPARTED: &str = "departed";

/// The keys of one registry.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// Without a trailing slash.
    prefix: String,
}

/// The meaning of a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ParsedKey {
    /// `<prefix>/<service>/<id>`
    Entry { service: String, id: String },
    /// `<prefix>/<service>/<id>/departed`
    Note { id: String },
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.trim_end_matches('/').to_owned() }
    }

    /// The prefix of all keys.
    pub(super) fn all(&self) -> Vec<u8> {
        format!("{}/", self.prefix).into_bytes()
    }

    /// The prefix of all keys of a service.
    pub(super) fn service(&self, service: &str) -> Vec<u8> {
        format!("{}/{}/", self.prefix, encode(service)).into_bytes()
    }

    pub(super) fn entry(&self, service: &str, id: &str) -> Vec<u8> {
        format!("{}/{}/{}", self.prefix, encode(service), encode(id)).into_bytes()
    }

    /// The note of an orderly departure.
    pub(super) fn note(&self, service: &str, id: &str) -> Vec<u8> {
        format!("{}/{}/{}/{DEPARTED}", self.prefix, encode(service), encode(id)).into_bytes()
    }

    /// `None` for a key of another application, or with invalid names.
    pub(super) fn place(&self, key: &[u8]) -> Option<ParsedKey> {
        let key = std::str::from_utf8(key).ok()?;
        let mut parts = key.strip_prefix(&self.prefix)?.strip_prefix('/')?.split('/');
        let (service, id) = (decode(parts.next()?).ok()?, decode(parts.next()?).ok()?);
        if !is_name(&service) || !is_name(&id) {
            return None;
        }
        match (parts.next(), parts.next()) {
            (None, _) => Some(ParsedKey::Entry { service, id }),
            (Some(DEPARTED), None) => Some(ParsedKey::Note { id }),
            _ => None,
        }
    }

    /// The instance in an entry; `None`, and a line in the log, if it is invalid or belongs to
    /// another key. Entries are untrusted: any client with write access can create them.
    pub(super) fn instance(&self, entry: &KeyValue) -> Option<Instance> {
        let key = String::from_utf8_lossy(&entry.key);
        let instance = serde_json::from_slice::<Instance>(&entry.value)
            .map_err(|error| error.to_string())
            .and_then(|instance| match instance.validate() {
                Ok(()) => Ok(instance),
                Err(error) => Err(error.to_string()),
            })
            .and_then(|instance| {
                match self.entry(instance.service(), instance.id()) == entry.key {
                    true => Ok(instance),
                    false => Err("it names another service or id than its key".to_owned()),
                }
            });
        instance
            .inspect_err(|error| {
                let (key, error) = (Printable(&key), Printable(error));
                limited!(warn, %key, %error, "an entry in etcd is not a valid instance");
            })
            .ok()
    }
}

/// The end of the range of keys that begin with `prefix`.
pub(super) fn end_of(prefix: &[u8]) -> Vec<u8> {
    // All prefixes end in a slash, which has a next byte.
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(key: Vec<u8>) -> String {
        String::from_utf8(key).unwrap()
    }

    #[test]
    fn names_with_slashes_stay_in_their_place() {
        let keys = Keys::new("/rpc/");
        assert_eq!(text(keys.entry("com.shop.Orders", "a-1")), "/rpc/com.shop.Orders/a-1");
        assert_eq!(text(keys.entry("a/b", "ä%")), "/rpc/a%2Fb/%C3%A4%25");
        assert_eq!(text(keys.note("s", "i")), "/rpc/s/i/departed");
        assert_eq!(text(end_of(&keys.service("s"))), "/rpc/s0");
    }

    #[test]
    fn keys_of_others_are_none_of_ours() {
        let keys = Keys::new("/rpc");
        let entry = |service: &str, id: &str| {
            let (service, id) = (service.to_owned(), id.to_owned());
            ParsedKey::Entry { service, id }
        };
        assert_eq!(keys.place(b"/rpc/s/i"), Some(entry("s", "i")));
        assert_eq!(keys.place(&keys.entry("a/b", "ä%")), Some(entry("a/b", "ä%")));
        assert_eq!(keys.place(b"/rpc/s/i/departed"), Some(ParsedKey::Note { id: "i".to_owned() }));
        for odd in ["/rpc//i", "/rpc/s/", "/rpc/a%0Ab/i", "/rpc/s/a%E2%80%AEb", "/rpc/a%20b/i"] {
            assert_eq!(keys.place(odd.as_bytes()), None, "{odd}");
            assert_eq!(keys.place(format!("{odd}/departed").as_bytes()), None, "{odd}");
        }
        assert_eq!(keys.place(&keys.note("s", &"n".repeat(256))), None);
        for other in ["/rpc/s", "/rpcs/s/i", "/rpc/s/i/x", "/rpc/s/i/departed/x", "/other/s/i"] {
            assert_eq!(keys.place(other.as_bytes()), None, "{other}");
        }
        assert_eq!(keys.place(b"/rpc/\xff/i"), None);
    }

    #[test]
    fn only_an_instance_in_its_own_place_is_believed() {
        let keys = Keys::new("/rpc");
        let instance = Instance::new("s", "tcp://h:1").with_id("i");
        let entry = |key: Vec<u8>, value: &str| {
            let value = value.as_bytes().to_vec();
            keys.instance(&KeyValue { key, value, ..KeyValue::default() })
        };
        let value = serde_json::to_string(&instance).unwrap();
        assert_eq!(entry(keys.entry("s", "i"), &value), Some(instance));
        assert_eq!(entry(keys.entry("s", "j"), &value), None);
        assert_eq!(entry(keys.entry("s", "i"), "{}"), None);
        assert_eq!(entry(keys.entry("s", "i"), r#"{"service":"s","id":"i","uri":""}"#), None);
    }
}
