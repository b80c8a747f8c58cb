//! The rules of instances and their names.

use std::collections::BTreeMap;

use crate::RegistryError;
use crate::printable::is_printable;
use crate::uri::split_scheme;

/// Maximum length of a service name, id, version, group, zone or metadata key, in bytes.
const MAX_NAME: usize = 255;
/// Maximum length of a URI, in bytes.
const MAX_URI: usize = 2048;
/// Maximum metadata pairs of one instance.
const MAX_METADATA: usize = 64;
/// Maximum length of a metadata value, in bytes.
const MAX_METADATA_VALUE: usize = 4096;

/// Checks the metadata of an instance.
pub(super) fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<(), RegistryError> {
    if metadata.len() > MAX_METADATA {
        return Err(invalid(format!(
            "{} metadata pairs, at most {MAX_METADATA} are allowed",
            metadata.len()
        )));
    }
    for (key, value) in metadata {
        check_name("metadata key", key)?;
        if value.len() > MAX_METADATA_VALUE {
            return Err(invalid(format!(
                "the metadata value of {key:?} has {} bytes, at most {MAX_METADATA_VALUE} are \
                 allowed",
                value.len()
            )));
        }
    }
    Ok(())
}

/// Checks the name of a service in a request.
pub(crate) fn check_service(service: &str) -> Result<(), RegistryError> {
    check_name("service name", service)
}

/// Whether a service or an instance can have this name.
#[cfg(any(feature = "etcd", feature = "zookeeper"))]
pub(crate) fn is_name(value: &str) -> bool {
    check_name("name", value).is_ok()
}

pub(super) fn check_name(field: &str, value: &str) -> Result<(), RegistryError> {
    if value.is_empty() {
        return Err(invalid(format!("the {field} is empty")));
    }
    check_text(field, value)
}

pub(super) fn check_text(field: &str, value: &str) -> Result<(), RegistryError> {
    if value.len() > MAX_NAME {
        return Err(invalid(format!(
            "the {field} has {} bytes, at most {MAX_NAME} are allowed",
            value.len()
        )));
    }
    check_characters(field, value)
}

pub(super) fn check_uri(uri: &str) -> Result<(), RegistryError> {
    if uri.len() > MAX_URI {
        return Err(invalid(format!(
            "the uri has {} bytes, at most {MAX_URI} are allowed",
            uri.len()
        )));
    }
    check_characters("uri", uri)?;
    match split_scheme(uri).and_then(|(_, rest)| rest.strip_prefix("//")) {
        Some(address) if !address.is_empty() => Ok(()),
        _ => Err(invalid(format!("the uri {uri:?} is not of the form scheme://address"))
            .with_hint("write it like tcp://127.0.0.1:9000")),
    }
}

fn check_characters(field: &str, value: &str) -> Result<(), RegistryError> {
    match value.chars().find(|c| c.is_whitespace() || !is_printable(*c)) {
        Some(bad) => Err(invalid(format!(
            "the {field} {value:?} contains {bad:?}; whitespace, control characters and those that \
             change the direction of text are not allowed"
        ))),
        None => Ok(()),
    }
}

fn invalid(what: String) -> RegistryError {
    RegistryError::invalid_instance(format!("invalid instance: {what}"))
}
