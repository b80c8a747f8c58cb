//! The data of a node: an instance as JSON, and the number of its registration.

use serde::{Deserialize, Serialize};
use serde_json as json;

use super::paths::name;
use crate::{Instance, Printable, RegistryError, limited};

/// The data of a node between an orderly departure and its removal.
pub(super) const LEFT: &[u8] = b"";
/// ZooKeeper closes a connection with a message of more than 1 MiB (`jute.maxbuffer`).
const LONGEST: usize = 1_000_000;

#[derive(Serialize, Deserialize)]
struct Stored<I> {
    #[serde(flatten)]
    instance: I,
    /// Distinguishes a registration from a later one of the same id, even in the same session.
    #[serde(default)]
    registration: String,
}

/// The data of a registration.
pub(super) fn write(instance: &Instance, registration: &str) -> Result<Vec<u8>, RegistryError> {
    let stored = Stored { instance, registration: registration.to_owned() };
    let data = json::to_vec(&stored).map_err(|error| {
        RegistryError::invalid_instance(format!("it can't be written as JSON: {error}"))
    })?;
    if data.len() > LONGEST {
        return Err(RegistryError::invalid_instance(format!(
            "the instance takes {} bytes as JSON, ZooKeeper takes at most {LONGEST}",
            data.len()
        ))
        .with_hint("give it less metadata"));
    }
    Ok(data)
}

fn read(data: &[u8]) -> Result<Instance, String> {
    let stored: Stored<Instance> = json::from_slice(data).map_err(|error| error.to_string())?;
    stored.instance.validate().map_err(|error| error.to_string())?;
    Ok(stored.instance)
}

/// The epoch of the instance, if it can be read.
pub(super) fn epoch(data: &[u8]) -> Option<u64> {
    read(data).ok().map(|instance| instance.epoch())
}

/// Whether the data is of this registration.
pub(super) fn is_of(data: &[u8], registration: &str) -> bool {
    #[derive(Deserialize)]
    struct Writer {
        registration: String,
    }
    json::from_slice::<Writer>(data).is_ok_and(|writer| writer.registration == registration)
}

/// The instance in the node `node` of `service`. `None` if it has left, or if the data is invalid,
/// which is logged.
pub(super) fn instance(service: &str, node: &str, data: &[u8]) -> Option<Instance> {
    if data == LEFT {
        return None;
    }
    let read = read(data).and_then(|instance| {
        let in_place =
            instance.service() == service && name(node).as_deref() == Some(instance.id());
        in_place.then_some(instance).ok_or_else(|| "it belongs to another node".to_owned())
    });
    read.inspect_err(|error| {
        let (node, error) = (Printable(node), Printable(error));
        limited!(warn, service, %node, %error, "an entry in ZooKeeper can't be read");
    })
    .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance_a() -> Instance {
        Instance::new("svc", "tcp://h:1").with_id("a/b").with_started_ms(1).with_epoch(7)
    }

    #[test]
    fn an_instance_comes_back_from_its_own_node_only() {
        let data = write(&instance_a(), "one").unwrap();
        assert_eq!(instance("svc", "a%2Fb", &data), Some(instance_a()));
        assert_eq!(instance("svc", "b", &data), None);
        assert_eq!(instance("other", "a%2Fb", &data), None);
    }

    #[test]
    fn a_registration_knows_its_own() {
        let data = write(&instance_a(), "one").unwrap();
        assert!(is_of(&data, "one") && !is_of(&data, "two"));
        assert_eq!(epoch(&data), Some(7));
        assert!(!is_of(LEFT, "one") && epoch(LEFT).is_none());
        let by_hand = br#"{"service":"svc","id":"a","uri":"tcp://h:1"}"#;
        assert_eq!(instance("svc", "a", by_hand).unwrap().epoch(), 0);
    }

    #[test]
    fn what_is_no_instance_is_left_out() {
        for damage in [&b""[..], b"{", b"null", b"\xff", br#"{"service":"svc","id":"a","uri":"x"}"#]
        {
            assert_eq!(instance("svc", "a", damage), None);
        }
    }

    #[test]
    fn an_instance_that_the_server_would_not_take_is_refused() {
        let control = "\u{1}".repeat(4096);
        let large = (0..64).fold(instance_a(), |i, key| i.with_metadata(key.to_string(), &control));
        assert!(large.validate().is_ok());
        assert!(write(&large, "one").unwrap_err().is_invalid_instance());
    }
}
