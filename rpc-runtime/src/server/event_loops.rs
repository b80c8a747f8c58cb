//! [`EventLoops`]: serving threads, each with its own runtime.

use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::cores::Cores;
use crate::connection::count_cores;
use crate::error::RpcError;

/// Minimum time for loops to end when their work is finished or cut off.
const LAST_MOMENT: Duration = Duration::from_millis(500);

/// Threads that each run a current-thread runtime, pinned to a core. They end when this is dropped.
#[derive(Debug)]
pub(super) struct EventLoops {
    threads: Vec<thread::JoinHandle<()>>,
    /// The loops end when it changes or is dropped.
    end: watch::Sender<()>,
    /// Yields `None` when the last loop has ended.
    ended: mpsc::Receiver<()>,
}

impl EventLoops {
    /// Starts a loop for each of `services`, which are called within their runtimes. The future
    /// that each returns runs until it completes or the loops end. Dropping this future ends the
    /// loops that were started.
    ///
    /// # Errors
    /// A thread or a runtime cannot be created, or a service returns an error.
    pub(super) async fn start<S, F>(services: Vec<S>) -> Result<Self, RpcError>
    where
        S: FnOnce() -> Result<F, RpcError> + Send + 'static,
        F: Future<Output = ()>,
    {
        count_cores();
        let cores = Cores::available();
        let (end, ending) = watch::channel(());
        let (running, ended) = mpsc::channel(1);
        let mut loops = Self { threads: Vec::with_capacity(services.len()), end, ended };
        let mut reports = Vec::with_capacity(services.len());
        for (number, service) in services.into_iter().enumerate() {
            let (report, reported) = oneshot::channel();
            let event_loop =
                EventLoop { number, cores, ending: ending.clone(), _running: running.clone() };
            let thread = thread::Builder::new().name(format!("rpc-loop-{number}"));
            let thread = thread.spawn(move || event_loop.run(service, report));
            loops.threads.push(thread.map_err(|error| cannot_start(&error))?);
            reports.push(reported);
        }
        drop(running);
        for reported in reports {
            let failed = |_| RpcError::internal("an event loop panicked when it was started");
            reported.await.map_err(failed)??;
        }
        Ok(loops)
    }

    /// Ends the loops and waits for their threads until `until`, at least [`LAST_MOMENT`]. A thread
    /// that a method holds for longer ends when the method returns.
    ///
    /// # Errors
    /// A loop has panicked.
    pub(super) async fn join(&mut self, until: Instant) -> Result<(), RpcError> {
        self.end.send_replace(());
        let until = until.max(Instant::now() + LAST_MOMENT);
        let all_ended = tokio::time::timeout_at(until, self.ended.recv()).await.is_ok();
        if !all_ended {
            tracing::warn!("a method holds the thread of an event loop, which goes on until then");
        }
        let mut result = Ok(());
        for thread in std::mem::take(&mut self.threads) {
            // Where all have ended this waits only for a thread to return.
            if (all_ended || thread.is_finished()) && thread.join().is_err() {
                result = Err(RpcError::internal("an event loop had panicked; its calls were lost"));
            }
        }
        result
    }
}

struct EventLoop {
    number: usize,
    cores: Cores,
    ending: watch::Receiver<()>,
    /// Dropped when nothing is left but to return.
    _running: mpsc::Sender<()>,
}

impl EventLoop {
    fn run<S, F>(mut self, service: S, report: oneshot::Sender<Result<(), RpcError>>)
    where
        S: FnOnce() -> Result<F, RpcError>,
        F: Future<Output = ()>,
    {
        self.cores.pin(self.number);
        // The receiver of the report may be gone; then the loop ends at once.
        let runtime = match self.runtime() {
            Ok(runtime) => runtime,
            Err(error) => return drop(report.send(Err(cannot_start(&error)))),
        };
        let run = async {
            let serving = match service() {
                Ok(serving) => serving,
                Err(error) => return drop(report.send(Err(error))),
            };
            drop(report.send(Ok(())));
            tokio::select! {
                biased;
                _ = self.ending.changed() => return,
                () = serving => {}
            }
            // Open connections continue when no more are accepted.
            let _ = self.ending.changed().await;
        };
        let ran = catch_unwind(AssertUnwindSafe(|| runtime.block_on(run)));
        // What blocks in its pool is not waited for.
        runtime.shutdown_background();
        if let Err(panic) = ran {
            tracing::error!(
                event_loop = self.number,
                "an event loop panicked; its connections are lost, the others serve on"
            );
            resume_unwind(panic);
        }
    }

    fn runtime(&self) -> io::Result<Runtime> {
        let cores = self.cores;
        Builder::new_current_thread()
            .enable_all()
            .thread_name(format!("rpc-loop-block-{}", self.number))
            // Those threads are tokio's blocking pool, which is there so as not to hold this core.
            .on_thread_start(move || cores.release())
            .build()
    }
}

fn cannot_start(error: &io::Error) -> RpcError {
    RpcError::unavailable(format!("cannot start an event loop: {error}")).with_source(error)
}

#[cfg(test)]
mod tests {
    use std::future::{Pending, pending};

    use super::*;

    fn serve_for_ever() -> Result<Pending<()>, RpcError> {
        Ok(pending())
    }

    #[tokio::test]
    async fn a_loop_that_cannot_serve_fails_the_start_and_ends_the_others() {
        let (alive, mut others) = mpsc::channel::<()>(1);
        let service = |fails: bool| {
            let alive = alive.clone();
            move || {
                if fails {
                    return Err(RpcError::unavailable("no socket"));
                }
                Ok(async move {
                    let _alive = alive;
                    pending::<()>().await;
                })
            }
        };
        let services = vec![service(false), service(true), service(false)];
        let error = EventLoops::start(services).await.unwrap_err();
        assert!(error.is_unavailable(), "{error}");
        drop(alive);
        let ended = tokio::time::timeout(Duration::from_secs(10), others.recv()).await;
        assert_eq!(ended, Ok(None));
    }

    #[tokio::test]
    async fn a_panic_of_a_loop_is_told_when_the_loops_are_joined() {
        let mut sound = EventLoops::start(vec![serve_for_ever; 2]).await.unwrap();
        assert_eq!(sound.join(Instant::now()).await, Ok(()));

        let serve = |fails: bool| {
            move || {
                Ok(async move {
                    assert!(!fails, "in the loop");
                    pending::<()>().await;
                })
            }
        };
        let mut loops = EventLoops::start(vec![serve(true), serve(false)]).await.unwrap();
        let panicked = async {
            while !loops.threads[0].is_finished() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), panicked).await.unwrap();
        let error = loops.join(Instant::now() + Duration::from_secs(10)).await.unwrap_err();
        assert!(error.message().contains("panicked"), "{error}");
    }

    #[tokio::test]
    async fn a_loop_that_is_held_does_not_hold_up_the_join() {
        let (release, held) = std::sync::mpsc::channel::<()>();
        let hold = move || {
            Ok(async move {
                let _ = held.recv();
            })
        };
        let mut loops = EventLoops::start(vec![hold]).await.unwrap();
        assert_eq!(loops.join(Instant::now()).await, Ok(()));
        drop(release);
        let ended = tokio::time::timeout(Duration::from_secs(10), loops.ended.recv()).await;
        assert_eq!(ended, Ok(None));
    }
}
