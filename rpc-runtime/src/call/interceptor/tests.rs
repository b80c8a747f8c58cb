use std::pin::pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;

use super::*;
use crate::call::Interceptors;
use crate::descriptor::{MethodDescriptor, ServiceKey};

const METHOD: &MethodDescriptor =
    &MethodDescriptor::new(ServiceKey::new("Echo", "1.0.0", ""), "echo", &[], "");

type Log = Arc<Mutex<Vec<String>>>;

fn log(log: &Log, line: impl Into<String>) {
    log.lock().unwrap().push(line.into());
}

fn take(log: &Log) -> Vec<String> {
    std::mem::take(&mut log.lock().unwrap())
}

fn reply() -> Result<Reply, RpcError> {
    Reply::value(&7_u32)
}

/// An end that waits for one poll, and checks what ends may rely on.
#[derive(Default)]
struct FakeEnd {
    log: Log,
    running: bool,
    kept: bool,
}

impl End for FakeEnd {
    fn poll(&mut self, _: &mut Context<'_>, call: &mut Call<'_>) -> Poll<Result<Reply, RpcError>> {
        if !self.running {
            self.running = true;
            log(&self.log, format!("begun {:?}", call.metadata("by")));
            return Poll::Pending;
        }
        self.running = false;
        log(&self.log, "ended");
        Poll::Ready(reply().map(|reply| reply.with_metadata("from", "end")))
    }

    fn cancel(&mut self) {
        if std::mem::take(&mut self.running) {
            log(&self.log, "cancelled");
        }
    }

    fn keep(&mut self) {
        self.kept = true;
    }
}

/// Says where it is, before and after.
struct Marks(&'static str, Log);

impl Interceptor for Marks {
    async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply, RpcError> {
        log(&self.1, format!("{} before", self.0));
        call.set_metadata("by", self.0);
        let reply = next.run(call).await?;
        log(&self.1, format!("{} after", self.0));
        Ok(reply.with_metadata(self.0, "was here"))
    }
}

struct Refuses;

impl Interceptor for Refuses {
    async fn intercept(&self, _: &mut Call<'_>, _: Next<'_>) -> Result<Reply, RpcError> {
        Err(RpcError::invalid("not with me"))
    }
}

/// Runs the rest twice.
struct Twice;

impl Interceptor for Twice {
    async fn intercept(&self, call: &mut Call<'_>, mut next: Next<'_>) -> Result<Reply, RpcError> {
        next.again().run(call).await?;
        call.set_metadata("by", "the second run");
        next.run(call).await
    }
}

/// Does not wait for the outcome, and then runs the rest again.
struct Impatient;

impl Interceptor for Impatient {
    async fn intercept(&self, call: &mut Call<'_>, mut next: Next<'_>) -> Result<Reply, RpcError> {
        {
            let mut run = pin!(next.again().run(call));
            assert!(futures_poll(run.as_mut()).is_pending());
        }
        next.run(call).await
    }
}

fn futures_poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Polls a chain until its outcome.
fn run(interceptors: &Interceptors, end: &mut FakeEnd) -> Result<Reply, RpcError> {
    let mut call = Call::for_test(METHOD);
    let mut run = pin!(interceptors.before(end).run(&mut call));
    loop {
        if let Poll::Ready(outcome) = futures_poll(run.as_mut()) {
            return outcome;
        }
    }
}

#[test]
fn the_first_is_outermost_and_metadata_passes_both_ways() {
    let mut end = FakeEnd::default();
    let log = Arc::clone(&end.log);
    let inner = Interceptors::from([Marks("inner", Arc::clone(&log))]);
    let chain = Interceptors::new().with(Marks("outer", Arc::clone(&log))).and(inner);
    let reply = run(&chain, &mut end).unwrap();
    let expected = [
        "outer before",
        "inner before",
        "begun Some(\"inner\")",
        "ended",
        "inner after",
        "outer after",
    ];
    assert_eq!(take(&log), expected);
    let all: Vec<_> = reply.all_metadata().map(|(key, _)| key).collect();
    assert_eq!(all, ["from", "inner", "outer"]);
}

#[test]
fn without_interceptors_a_call_reaches_its_end_and_nothing_is_kept() {
    let mut end = FakeEnd::default();
    run(&Interceptors::new(), &mut end).unwrap();
    assert_eq!(take(&end.log), ["begun None", "ended"]);
    assert!(!end.kept);
}

#[test]
fn a_refused_call_does_not_reach_its_end() {
    let mut end = FakeEnd::default();
    let log = Arc::clone(&end.log);
    let chain = Interceptors::new().with(Marks("outer", Arc::clone(&log))).with(Refuses);
    assert!(run(&chain, &mut end).unwrap_err().is_invalid());
    assert_eq!(take(&log), ["outer before"]);
}

#[test]
fn the_rest_can_be_run_again_and_what_it_needs_is_kept() {
    let mut end = FakeEnd::default();
    let log = Arc::clone(&end.log);
    let chain = Interceptors::new().with(Twice).with(Marks("inner", Arc::clone(&log)));
    run(&chain, &mut end).unwrap();
    let once = ["inner before", "begun Some(\"inner\")", "ended", "inner after"];
    assert_eq!(take(&log), [once, once].concat());
    assert!(end.kept);
}

#[test]
fn a_run_that_is_dropped_is_cancelled_and_the_next_one_begins_anew() {
    let mut end = FakeEnd::default();
    run(&Interceptors::new().with(Impatient), &mut end).unwrap();
    assert_eq!(take(&end.log), ["begun None", "cancelled", "begun None", "ended"]);
    // By the caller, from outside.
    for chain in [Interceptors::new(), Interceptors::from([Marks("one", Log::default())])] {
        let mut call = Call::for_test(METHOD);
        let mut run = Box::pin(chain.before(&mut end).run(&mut call));
        assert!(futures_poll(run.as_mut()).is_pending());
        drop(run);
        assert_eq!(take(&end.log).last().map(String::as_str), Some("cancelled"));
    }
}

#[test]
fn a_run_that_is_polled_after_its_outcome_fails_and_reaches_nothing() {
    let mut end = FakeEnd::default();
    let log = Arc::clone(&end.log);
    let chain = Interceptors::new();
    let mut call = Call::for_test(METHOD);
    let mut run = pin!(chain.before(&mut end).run(&mut call));
    assert!(futures_poll(run.as_mut()).is_pending());
    assert!(matches!(futures_poll(run.as_mut()), Poll::Ready(Ok(_))));
    take(&log);
    assert!(matches!(futures_poll(run.as_mut()), Poll::Ready(Err(error)) if error.is_internal()));
    assert!(take(&log).is_empty());
}

#[test]
fn a_panic_leaves_the_end_cancelled() {
    struct Panics;
    impl Interceptor for Panics {
        async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply, RpcError> {
            let mut run = pin!(next.run(call));
            assert!(futures_poll(run.as_mut()).is_pending());
            panic!("in an interceptor")
        }
    }
    let mut end = FakeEnd::default();
    let log = Arc::clone(&end.log);
    let chain = Interceptors::from([Panics]);
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&chain, &mut end)));
    assert!(caught.is_err());
    assert_eq!(take(&log), ["begun None", "cancelled"]);
}

#[test]
fn an_interceptor_of_a_user_can_be_tested_alone() {
    let calls = AtomicUsize::new(0);
    let mut call = Call::for_test(METHOD);
    let mut answer = |call: &mut Call<'_>| {
        calls.fetch_add(1, Ordering::Relaxed);
        assert_eq!(call.metadata("by"), Some("alone"));
        reply()
    };
    let marks = Marks("alone", Log::default());
    let mut run = pin!(marks.intercept(&mut call, Next::answering(&mut answer)));
    let Poll::Ready(Ok(reply)) = futures_poll(run.as_mut()) else { panic!("it waits for nothing") };
    assert_eq!((reply.decode(), reply.metadata("alone")), (Ok(7_u32), Some("was here")));
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[test]
fn the_futures_of_a_chain_can_be_sent_to_other_threads() {
    fn is_send<T: Send>(_: &T) {}
    let chain = Interceptors::from([Twice]);
    let mut end = FakeEnd::default();
    let mut call = Call::for_test(METHOD);
    is_send(&chain.before(&mut end).run(&mut call));
    is_send(
        &Arc::new(Twice).intercept(&mut call, Next::answering(&mut |_: &mut Call<'_>| reply())),
    );
}
