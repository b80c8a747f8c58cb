//! The signals that end a process.

use std::future::Future;

/// Completes at the next SIGINT or SIGTERM; never if the handlers cannot be installed.
///
/// From this call on, these signals no longer end the process by default: tokio keeps its handlers.
#[cfg(unix)]
pub(super) fn termination_signal() -> impl Future<Output = ()> {
    use std::future::poll_fn;
    use std::task::Poll;

    use tokio::signal::unix::{SignalKind, signal};

    let kinds = [SignalKind::interrupt(), SignalKind::terminate()];
    // It panics in a runtime without I/O, which is enough to serve within a process.
    let listen = || kinds.map(signal).into_iter().collect::<Result<Vec<_>, _>>();
    let mut signals = match std::panic::catch_unwind(listen) {
        Ok(Ok(signals)) => signals,
        Ok(Err(error)) => {
            tracing::warn!(%error, "a second signal will not be noticed");
            Vec::new()
        }
        Err(_) => Vec::new(),
    };
    poll_fn(move |cx| {
        let received = signals.iter_mut().any(|signal| signal.poll_recv(cx).is_ready());
        if received { Poll::Ready(()) } else { Poll::Pending }
    })
}

/// Completes at the next Ctrl-C.
#[cfg(not(unix))]
pub(super) fn termination_signal() -> impl Future<Output = ()> {
    async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
