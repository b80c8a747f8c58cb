//! Running user code of a server: methods and interceptors.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rpc_registry::{Printable, limited};

use crate::connection::Channel;
use crate::descriptor::MethodDescriptor;
use crate::error::{RpcError, exposed};

/// The code that has panicked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Code {
    Method,
    Interceptor,
}

/// Runs a user's code and encodes its result. A panic becomes the error of this call. Its text is
/// logged only, since it reveals details of this process.
#[inline]
pub(super) fn caught<T>(
    code: Code,
    method: &MethodDescriptor,
    channel: &Channel,
    run: impl FnOnce() -> Result<T, RpcError>,
) -> Result<T, RpcError> {
    let expose = channel.settings().expose_internal_errors;
    catch_unwind(AssertUnwindSafe(|| exposed(expose, run))).unwrap_or_else(|panic| {
        let message = Printable(panic_message(&*panic));
        let whose = match code {
            Code::Method => "the provider's method",
            Code::Interceptor => "an interceptor of the provider",
        };
        limited!(error, %method, peer = %channel.peer(), panic = %message, "{whose} panicked");
        Err(RpcError::internal(match expose {
            true => format!("{whose} panicked: {message}"),
            false => format!("{whose} panicked"),
        }))
    })
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    match panic.downcast_ref::<String>() {
        Some(message) => message,
        None => panic.downcast_ref::<&str>().copied().unwrap_or("(no message)"),
    }
}
