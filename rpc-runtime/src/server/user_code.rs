//! Running the code of a server's user: methods and interceptors.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rpc_registry::{Printable, limited};

use crate::connection::Channel;
use crate::descriptor::MethodDescriptor;
use crate::error::{RpcError, exposed};

/// Runs a user's code and encodes its result. A panic becomes the error of this call. Its text is
/// logged only, since it reveals details of this process.
#[inline]
pub(super) fn caught<T>(
    method: &MethodDescriptor,
    channel: &Channel,
    run: impl FnOnce() -> Result<T, RpcError>,
) -> Result<T, RpcError> {
    let expose = channel.settings().expose_internal_errors;
    catch_unwind(AssertUnwindSafe(|| exposed(expose, run))).unwrap_or_else(|panic| {
        let message = Printable(panic_message(&*panic));
        limited!(error, %method, peer = %channel.peer(), %message, "a method panicked");
        Err(RpcError::internal(match expose {
            true => format!("the provider's method panicked: {message}"),
            false => "the provider's method panicked".to_owned(),
        }))
    })
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    match panic.downcast_ref::<String>() {
        Some(message) => message,
        None => panic.downcast_ref::<&str>().copied().unwrap_or("(no message)"),
    }
}
