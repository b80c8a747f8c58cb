//! Checks the access to existing nodes.

use zookeeper_client::{Acl, Permission};

use super::sessions::{Connection, Sessions};
use crate::limited;

/// Logs a warning if every client may change the root or this service's node although the URI has a
/// user. Such a client can create and remove the nodes below it, whatever their owner.
pub(super) async fn check(sessions: &Sessions, connection: &Connection, service: &str) {
    if sessions.settings.digest.is_none() {
        return;
    }
    for node in [sessions.settings.root.path(), service] {
        // A node whose ACL cannot be read is not open to every client.
        let Ok((acls, _)) = connection.client.get_acl(node).await else { continue };
        if acls.iter().any(is_open) {
            let registry = &sessions.settings.uri;
            limited!(
                warn,
                registry,
                node,
                "every client may change this node in ZooKeeper, although the URI has a user: restrict \
                 it to that user with setAcl"
            );
        }
    }
}

fn is_open(acl: &Acl) -> bool {
    let changes = [Permission::WRITE, Permission::CREATE, Permission::DELETE, Permission::ADMIN];
    acl.scheme() == "world" && changes.into_iter().any(|change| acl.permission().has(change))
}

#[cfg(test)]
mod tests {
    use zookeeper_client::AuthId;

    use super::*;

    #[test]
    fn everybody_may_read_but_not_change() {
        let everybody = |permission| Acl::new(permission, AuthId::anyone());
        assert!(is_open(&everybody(Permission::ALL)) && is_open(&everybody(Permission::DELETE)));
        assert!(!is_open(&everybody(Permission::READ)));
        assert!(!is_open(&Acl::new(Permission::ALL, AuthId::new("digest", "me:x"))));
    }
}
