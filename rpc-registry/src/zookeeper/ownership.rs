//! Whose the nodes are that were there before.

use zookeeper_client::{Acl, Permission};

use super::sessions::{Connection, Sessions};
use crate::limited;

/// Says in the log if everybody may change the root or this service's node although the URI has a
/// user: who may change a node may make and remove what is below it, whosever that is.
pub(super) async fn check(sessions: &Sessions, connection: &Connection, service: &str) {
    if sessions.settings.digest.is_none() {
        return;
    }
    for node in [sessions.settings.root.path(), service] {
        // Whom the node does not let ask is not everybody.
        let Ok((acls, _)) = connection.client.get_acl(node).await else { continue };
        if acls.iter().any(is_open) {
            let registry = &sessions.settings.uri;
            limited!(
                warn,
                registry,
                node,
                "everybody may change this node in ZooKeeper, although the URI has a user: give it to \
                 that user, with setAcl"
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
