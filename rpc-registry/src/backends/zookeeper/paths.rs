//! The paths of nodes: `<root>/<service>/<id>`, names percent-encoded.

use crate::instance::is_name;
use crate::percent::decode;
use crate::{RegistryError, RegistryUri};

/// The root if the URI has no path.
const DEFAULT_ROOT: &str = "/rpc-registry";

/// The node above all services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Root(String);

impl Root {
    pub(super) fn of(uri: &RegistryUri) -> Result<Self, RegistryError> {
        let path = match uri.path().trim_end_matches('/') {
            "" => DEFAULT_ROOT,
            path => path,
        };
        let names = path.split('/').skip(1);
        if let Some(bad) = names.clone().find(|name| matches!(*name, "" | "." | "..")) {
            return Err(uri.wrong(format!("the path {path:?} has the name {bad:?} in it")));
        }
        Ok(Self(path.to_owned()))
    }

    pub(super) fn path(&self) -> &str {
        &self.0
    }

    pub(super) fn service(&self, service: &str) -> String {
        format!("{}/{}", self.0, encode(service))
    }
}

/// The paths of one instance.
#[derive(Debug, Clone)]
pub(super) struct NodePath {
    pub(super) root: Root,
    pub(super) service: String,
    pub(super) entry: String,
}

impl NodePath {
    pub(super) fn new(root: &Root, service: &str, id: &str) -> Self {
        let service = root.service(service);
        let entry = child(&service, id);
        Self { root: root.clone(), service, entry }
    }
}

/// The path of the instance `id` below the service's node.
pub(super) fn child(service: &str, id: &str) -> String {
    format!("{service}/{}", encode(id))
}

/// The decoded name of a node; `None` if this crate would not create it.
pub(super) fn name(node: &str) -> Option<String> {
    decode(node).ok().filter(|name| encode(name) == node)
}

/// The service of a node below the root; `None` if the name is not valid for a service.
pub(super) fn service_name(node: &str) -> Option<String> {
    name(node).filter(|name| is_name(name))
}

/// Encodes the first character if it is a dot, too: ZooKeeper has no nodes called `.` or `..`.
fn encode(name: &str) -> String {
    let encoded = crate::percent::encode(name);
    match encoded.strip_prefix('.') {
        Some(rest) => format!("%2E{rest}"),
        None => encoded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(uri: &str) -> Result<Root, RegistryError> {
        Root::of(&RegistryUri::parse(uri).unwrap())
    }

    #[test]
    fn a_path_is_the_root_and_none_is_the_default() {
        assert_eq!(root("zookeeper://h/a/b%20c/").unwrap().path(), "/a/b c");
        for none in ["zookeeper://h", "zookeeper://h/"] {
            assert_eq!(root(none).unwrap().path(), DEFAULT_ROOT);
        }
        for bad in ["/a//b", "/a/../b", "/./a", "/a/.."] {
            assert!(root(&format!("zookeeper://h{bad}")).unwrap_err().is_invalid_uri(), "{bad}");
        }
    }

    #[test]
    fn every_name_is_one_node_and_comes_back() {
        for odd in ["a", ".", "..", "...", "a.b", "a/b", "a%2Fb", "\u{e4}", "a b", "~_-", "%"] {
            let node = encode(odd);
            assert!(!node.contains('/') && !node.starts_with('.'), "{node}");
            assert_eq!(name(&node).as_deref(), Some(odd));
        }
    }

    #[test]
    fn a_service_has_a_name_that_can_be_shown() {
        assert_eq!(service_name("a%2Fb").as_deref(), Some("a/b"));
        let long = "x".repeat(256);
        for odd in ["", "a%0Ab", "%E2%80%AE", "a%20b", &long] {
            assert_eq!(service_name(odd), None, "{odd}");
        }
    }

    #[test]
    fn nodes_of_others_have_no_name() {
        for foreign in ["%2f", "%41", "a/b", "%zz", "%FF", ".hidden"] {
            assert_eq!(name(foreign), None, "{foreign}");
        }
    }
}
