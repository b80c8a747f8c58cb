//! The signals that tell a process to end.

use std::future::Future;

/// Ready when the process is told to end after this call: by SIGINT or SIGTERM, and by Ctrl-C where
/// there are no such signals. Never, if the system does not tell.
///
/// From here on neither of them ends the process by itself: tokio keeps its handlers for good.
#[cfg(unix)]
pub(super) fn told_to_end() -> impl Future<Output = ()> {
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
        let told = signals.iter_mut().any(|signal| signal.poll_recv(cx).is_ready());
        if told { Poll::Ready(()) } else { Poll::Pending }
    })
}

/// Ready when the process is told to end after this call, by Ctrl-C.
#[cfg(not(unix))]
pub(super) fn told_to_end() -> impl Future<Output = ()> {
    async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
