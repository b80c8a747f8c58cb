//! A driver from its begin to its end.

use std::future::{Future, poll_fn};
use std::sync::Arc;

use super::request_handler::RequestHandler;
use super::task::Driver;
use crate::connection::channel::Channel;
use crate::connection::clock::clock;
use crate::connection::close::linger;
use crate::connection::watchdog;
use crate::error::RpcError;
use crate::transport::Reader;

/// Runs a connection until it ends. If the future is dropped, polled or not, or a handler panics, it
/// ends as well.
pub(crate) fn run(
    channel: Arc<Channel>,
    reader: Box<dyn Reader>,
    handler: impl RequestHandler,
) -> impl Future<Output = ()> + Send {
    // Made at once: the task of this future may be dropped before it is polled.
    let close = CloseOnDrop(Arc::clone(&channel));
    let mut driver = Driver::new(channel, reader, handler);
    // The driver is moved in whole: what is first captured and then moved takes its room twice.
    async move {
        watchdog::watch(&driver.channel);
        driver.channel.flush(clock());
        let cause = poll_fn(|cx| driver.poll(cx)).await;
        let spoke_last = driver.own.is_written()
            && (cause.is_protocol() || driver.channel.look(|state| state.has_last_words()));
        driver.channel.update_in_turn(|state, effects| state.begin_closing(&cause, false, effects));
        if spoke_last {
            // In a box: most connections end without, and all would have room for it.
            Box::pin(linger(&mut *driver.reader, driver.channel.writer.transport())).await;
        }
        driver.channel.close(cause);
        drop(close);
    }
}

struct CloseOnDrop(Arc<Channel>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close(RpcError::unavailable("the connection's task was ended"));
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Waker};
    use std::time::{Duration, Instant};

    use super::super::look::FIRST_REQUESTS;
    use super::super::request_handler::Batch;
    use super::*;
    use crate::connection::ChannelSettings;
    use crate::protocol::{Header, Hello, Kind};
    use crate::transport::raw::pair;

    /// Its requests take so long each.
    struct Takes(Duration, Arc<AtomicUsize>);

    impl RequestHandler for Takes {
        fn handle(&mut self, _: &Arc<Channel>, batch: Batch<'_>, _: &mut Context<'_>) -> Instant {
            let requests = batch.requests.len();
            self.1.fetch_add(requests, Ordering::Relaxed);
            batch.now + self.0 * u32::try_from(requests).unwrap()
        }
        fn limits_reading(&self) -> bool {
            true
        }
    }

    /// The requests that are handled in each of the first turns, though more wait.
    async fn turns(each: Duration) -> Vec<usize> {
        let (transport, raw) = pair().await;
        let settings = ChannelSettings::default();
        let (channel, reader) = Channel::new(transport, settings, &Hello::default(), None).unwrap();
        for id in 0..1_000 {
            raw.send_frame(Header { id, ..Header::new(Kind::Request) }, &[]);
        }
        let handled = Arc::<AtomicUsize>::default();
        let handler = Takes(each, Arc::clone(&handled));
        let mut driver = pin!(run(channel, reader, handler));
        let mut turn = || {
            assert!(driver.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            handled.swap(0, Ordering::Relaxed)
        };
        (0..6).map(|_| turn()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_ends_in_time_though_more_requests_wait() {
        assert_eq!(turns(Duration::from_micros(1)).await[0], 1_000);
        // The first batch is not known to be slow; those behind it are as small as they must be.
        let turns = turns(Duration::from_micros(600)).await;
        assert_eq!(turns[0], FIRST_REQUESTS);
        assert!(turns[4..].iter().all(|requests| (1..=2).contains(requests)), "{turns:?}");
    }
}
