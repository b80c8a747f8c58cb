//! [`Fault`]: what a failed request to etcd means.

use std::error::Error;

use tonic::{Code, Status};

use super::settings::root_cause;
use crate::RegistryError;

/// etcd says little by codes and much by texts, which begin with its name.
const FROM_ETCD: &str = "etcdserver: ";
const TOKEN: [&str; 3] = ["invalid auth token", "auth store is old", "user name is empty"];

#[derive(Debug)]
pub(super) enum Fault {
    /// Any other server would say the same.
    Refused(RegistryError),
    /// The server can't serve at present, as while a leader is elected, or the connection to it
    /// broke, as when it was started anew.
    Busy(String),
    /// No connection can be made.
    Unreachable(String),
}

impl Fault {
    pub(super) fn of(status: &Status) -> Self {
        let text = status.message();
        match status.code() {
            Code::PermissionDenied | Code::Unauthenticated => Self::Refused(denied(text)),
            Code::InvalidArgument if is_about_credentials(text) => Self::Refused(denied(text)),
            Code::Unavailable | Code::Unknown | Code::DeadlineExceeded
                if text.starts_with(FROM_ETCD) =>
            {
                Self::Busy(text.to_owned())
            }
            Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled => {
                let why = root_cause(status);
                match is_about_connecting(status) {
                    true => Self::Unreachable(why),
                    false => Self::Busy(why),
                }
            }
            Code::Unimplemented => Self::Refused(
                RegistryError::unavailable(format!("it is no etcd that can be used: {text}"))
                    .with_hint("check the address, and that etcd is 3.4 or newer"),
            ),
            code => Self::Refused(RegistryError::unavailable(format!(
                "etcd refused: {text} ({code:?})"
            ))),
        }
    }

    /// Of a stream that was cancelled for a reason.
    pub(super) fn of_reason(reason: &str) -> RegistryError {
        match is_about_credentials(reason) || reason.contains("permission denied") {
            true => denied(reason),
            false => RegistryError::unavailable(format!("etcd ended the watch: {reason}")),
        }
    }
}

/// Whether a new token would help. They end with time, with the server, and with each change of
/// users and roles.
pub(super) fn is_about_the_token(status: &Status) -> bool {
    TOKEN.iter().any(|about| status.message().contains(about))
}

fn is_about_connecting(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

fn is_about_credentials(text: &str) -> bool {
    text.contains("authentication failed") || TOKEN.iter().any(|about| text.contains(about))
}

fn denied(text: &str) -> RegistryError {
    RegistryError::permission_denied(format!("etcd refused: {text}"))
        .with_hint("give the URI a user and password whose role may read and write its prefix")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_server_may_serve_is_told_from_what_none_will() {
        let of = |code, text: &str| Fault::of(&Status::new(code, text));
        let failed = "etcdserver: authentication failed, invalid user ID or password";
        for denied in [
            of(Code::InvalidArgument, failed),
            of(Code::PermissionDenied, "etcdserver: permission denied"),
            of(Code::InvalidArgument, "etcdserver: user name is empty"),
        ] {
            assert!(matches!(denied, Fault::Refused(error) if error.is_permission_denied()));
        }
        assert!(matches!(of(Code::Unavailable, "etcdserver: no leader"), Fault::Busy(_)));
        assert!(matches!(of(Code::Unavailable, "etcdserver: leader changed"), Fault::Busy(_)));
        assert!(matches!(of(Code::Unknown, "broken pipe"), Fault::Busy(_)));
        let connect = Status::from_error(Box::new(tonic::ConnectError("refused".into())));
        assert!(matches!(Fault::of(&connect), Fault::Unreachable(why) if why == "refused"));
        let other = of(Code::Unimplemented, "no such method");
        let Fault::Refused(other) = other else { panic!("{other:?}") };
        assert!(other.to_string().contains("no etcd that can be used: no such method; check the"));
        let full = of(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
        assert!(matches!(full, Fault::Refused(error) if error.is_unavailable()));
    }

    #[test]
    fn a_token_that_has_ended_is_told_from_a_wrong_password() {
        let of = |code, text: &str| is_about_the_token(&Status::new(code, text));
        assert!(of(Code::Unauthenticated, "etcdserver: invalid auth token"));
        assert!(of(Code::InvalidArgument, "etcdserver: revision of auth store is old"));
        assert!(!of(Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID"));
        assert!(!of(Code::PermissionDenied, "etcdserver: permission denied"));
    }
}
