//! Closed-loop load: each caller waits for its answer before it calls again.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::allocations::print_totals;
use crate::report::{self, Load};
use crate::work::{Call, Workload};
use crate::{Args, Histogram, Result, Role, Usage};

/// The measured time. Calls that begin before it or end after it do not count.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// When the warm-up is over.
    pub begin: Instant,
    /// The end of the window.
    pub end: Instant,
}

impl Window {
    /// The window of a run that starts now.
    pub fn new(args: &Args) -> Self {
        let begin = Instant::now() + Duration::from_secs_f64(args.warm_up);
        Self { begin, end: begin + Duration::from_secs_f64(args.secs) }
    }

    /// Waits for the end of the window. Returns the CPU time at its begin and at its end.
    async fn usage(&self, server: u32) -> Result<(Usage, Usage)> {
        tokio::time::sleep_until(self.begin.into()).await;
        let begin = Usage::now(server)?;
        tokio::time::sleep_until(self.end.into()).await;
        Ok((begin, Usage::now(server)?))
    }
}

/// One caller of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    workload: Workload,
    first: u64,
    until: Until,
}

#[derive(Clone, Copy, Debug)]
enum Until {
    End(Window),
    Calls(u64),
}

impl Caller {
    /// Calls until the end of the window. Returns the latencies of the calls within it.
    pub(crate) async fn run(self, call: impl AsyncFn(Call) -> Result<()>) -> Result<Histogram> {
        let mut latencies = Histogram::default();
        match self.until {
            Until::Calls(calls) => {
                for n in self.first..self.first + calls {
                    call(self.workload.call(n)).await?;
                }
            }
            Until::End(window) => {
                let mut n = self.first;
                let mut before = Instant::now();
                loop {
                    let next = self.workload.call(n);
                    call(next).await?;
                    let now = Instant::now();
                    let measured = before >= window.begin && now <= window.end;
                    if measured && !self.workload.is_slow(next) {
                        latencies.record((now - before).as_nanos() as u64);
                    }
                    if now >= window.end {
                        break;
                    }
                    before = now;
                    n += 1;
                }
            }
        }
        Ok(latencies)
    }
}

/// Runs all callers, each on a connection, and reports.
pub(crate) async fn run<C: Clone>(
    args: &Args,
    connections: &[C],
    spawn: impl Fn(Caller, C) -> JoinHandle<Result<Histogram>>,
) -> Result<()> {
    let window = Window::new(args);
    let callers = args.callers.max(1);
    let until = match args.role {
        Role::Calls => Until::Calls(args.calls / callers as u64),
        _ => Until::End(window),
    };
    let tasks = connections.iter().cycle().take(callers).enumerate().map(|(i, connection)| {
        // Each caller has different numbers and makes its slow calls at different times. All
        // numbers are large, so that variable-length encodings have no advantage.
        let first = (1 << 40) + ((i as u64) << 32) + i as u64 * 7 % 100;
        spawn(Caller { workload: args.workload, first, until }, connection.clone())
    });
    let tasks: Vec<_> = tasks.collect();
    match args.role {
        Role::Calls => {
            for task in tasks {
                task.await??;
            }
            print_totals()
        }
        _ => report_load(args, window, tasks).await,
    }
}

/// Waits for the end of the window and of all callers, and prints their measurements.
pub async fn report_load(
    args: &Args,
    window: Window,
    callers: Vec<JoinHandle<Result<Histogram>>>,
) -> Result<()> {
    let (begin, end) = window.usage(args.server_pid).await?;
    let mut latencies = Histogram::default();
    for caller in callers {
        latencies.merge(&caller.await??);
    }
    if latencies.count() == 0 {
        return Err("no call ended within the time that is measured".into());
    }

    let seconds = (end.at - begin.at).as_secs_f64();
    let per_call = |used: f64| used * 1e6 / latencies.count() as f64;
    let micros = |nanos: u64| nanos as f64 / 1e3;
    let (client, server) = (end.client - begin.client, end.server - begin.server);
    report::print(&Load {
        calls: latencies.count(),
        seconds,
        p50: micros(latencies.quantile(0.5)),
        p99: micros(latencies.quantile(0.99)),
        p999: micros(latencies.quantile(0.999)),
        max: micros(latencies.max()),
        client_cpu: per_call(client),
        server_cpu: per_call(server),
        others: ((end.machine - begin.machine - client - server) / seconds).max(0.0),
        stolen: (end.stolen - begin.stolen) / seconds,
    })
}
