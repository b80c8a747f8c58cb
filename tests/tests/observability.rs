//! What calls show of themselves: metrics to a recorder, spans to a subscriber.
//!
//! Recorders and subscribers are those of one thread, and so is each test's runtime.
#![allow(missing_docs)]

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use metrics::set_default_local_recorder;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use rpc_runtime::pipeline::{Change, ChannelContext, ChannelHandler, Flow, Handled};
use rpc_runtime::protocol::Frame;
use rpc_runtime::{
    Blob, Client, Heartbeat, HeartbeatMode, MemoryLimits, Result, RpcError, Server, rpc_service,
};
use rpc_tests::waiting::{soon, until};
use tokio::runtime::Runtime;

#[rpc_service]
pub trait Watched {
    async fn add(&self, a: u64, b: u64) -> Result<u64>;
    #[rpc(spawn)]
    async fn spawned(&self) -> Result<()>;
    async fn waits(&self) -> Result<()>;
    async fn fails(&self) -> Result<()>;
    async fn panics(&self) -> Result<()>;
    async fn keeps(&self, blob: Blob) -> Result<()>;
    async fn makes(&self, bytes: usize) -> Result<Blob>;
    #[rpc(oneway)]
    async fn note(&self, text: String) -> Result<()>;
}

/// The same service with a method that the provider does not have.
mod other {
    #[super::rpc_service]
    pub trait Watched {
        async fn unknown(&self) -> super::Result<()>;
    }
}

thread_local! {
    /// Calls of `waits` that the provider has begun. A test's runtime is that of its thread.
    static WAITS: Cell<usize> = const { Cell::new(0) };
}

struct Provider;

impl Watched for Provider {
    async fn add(&self, a: u64, b: u64) -> Result<u64> {
        tracing::info!("in place");
        Ok(a + b)
    }
    async fn spawned(&self) -> Result<()> {
        tracing::info!("in a task");
        Ok(())
    }
    async fn waits(&self) -> Result<()> {
        WAITS.set(WAITS.get() + 1);
        std::future::pending().await
    }
    async fn fails(&self) -> Result<()> {
        Err(RpcError::internal("secret"))
    }
    async fn panics(&self) -> Result<()> {
        panic!("on purpose")
    }
    async fn keeps(&self, _: Blob) -> Result<()> {
        self.waits().await
    }
    async fn makes(&self, bytes: usize) -> Result<Blob> {
        Ok(vec![7; bytes].into())
    }
    async fn note(&self, _: String) -> Result<()> {
        Ok(())
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Everything that the tests look at happens while this is called.
async fn all_kinds_of_calls(server: Server, client: Client) {
    let watched = WatchedClient::new(client);
    assert_eq!(watched.add(1, 2).await, Ok(3));
    assert_eq!(watched.add(3, 4).await, Ok(7));
    watched.spawned().await.unwrap();
    assert!(watched.fails().await.is_err());
    assert!(watched.panics().await.unwrap_err().is_internal());
    watched.note("private".into()).await.unwrap();
    // Each has reached the provider before it ends.
    let begun = WAITS.get();
    let patience = Duration::from_secs(5);
    let patient = watched.with_timeout(patience);
    let reached = async {
        until("the call that will be late", || WAITS.get() == begun + 1).await;
        tokio::time::pause();
        tokio::time::advance(patience).await;
        tokio::time::resume();
    };
    assert!(tokio::join!(patient.waits(), reached).0.unwrap_err().is_timeout());
    tokio::select! {
        _ = watched.waits() => panic!("nothing answers it"),
        () = until("the call that is dropped", || WAITS.get() == begun + 2) => {}
    }
    let unknown = other::WatchedClient::new(AsRef::<Client>::as_ref(&watched).clone());
    assert!(other::Watched::unknown(&unknown).await.unwrap_err().is_not_found());
    drop((watched, patient, unknown));
    soon("the server's end", server.shutdown()).await.unwrap();
}

async fn connected(uri: &str) -> (Server, Client) {
    let server = Server::builder().provide(WatchedServer::new(Provider)).bind(uri).await.unwrap();
    let client = Client::builder().connect(server.local_uri()).await.unwrap();
    (server, client)
}

/// What a recorder has counted, by `name{label="value",…}`; of histograms, how many values.
#[derive(Default)]
struct Counted(BTreeMap<String, f64>);

impl Counted {
    /// A snapshot sets counters back, so what came before is kept.
    fn look(&mut self, at: &Snapshotter) {
        for (key, _, _, value) in at.snapshot().into_vec() {
            let labels = key.key().labels();
            let mut labels: Vec<_> =
                labels.map(|label| format!("{}={:?}", label.key(), label.value())).collect();
            labels.sort();
            let name = format!("{}{{{}}}", key.key().name(), labels.join(","));
            let value = match value {
                DebugValue::Counter(count) => count as f64,
                DebugValue::Gauge(value) => value.into_inner(),
                DebugValue::Histogram(values) => values.len() as f64,
            };
            *self.0.entry(name).or_default() += value;
        }
    }

    fn get(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or(f64::NAN)
    }

    fn names(&self) -> BTreeSet<String> {
        self.0.keys().filter_map(|name| name.split('{').next()).map(str::to_owned).collect()
    }
}

/// The names in the tables of these sections of the documentation.
fn documented(sections: &[&str]) -> BTreeSet<String> {
    let text = include_str!("../../docs/observability.md");
    let section = |title: &&str| {
        let heading = format!("### {title}\n");
        let (_, text) = text.split_once(&heading).unwrap_or_else(|| panic!("no {heading}"));
        text.split("\n### ").next().unwrap()
    };
    let rows = sections.iter().map(section).flat_map(str::lines);
    let names = rows.filter_map(|row| row.strip_prefix("| `")?.split('`').next());
    names.flat_map(|name| ["client", "server"].map(|side| name.replace('…', side))).collect()
}

#[test]
fn real_calls_move_each_documented_metric_of_calls_and_connections() {
    for uri in ["tcp://127.0.0.1:0", "memory:observed"] {
        let recorder = DebuggingRecorder::new();
        let _recorded = set_default_local_recorder(&recorder);
        let snapshots = recorder.snapshotter();
        let mut counted = Counted::default();
        runtime().block_on(async {
            let (server, client) = connected(uri).await;
            all_kinds_of_calls(server, client).await;
            let closed = "rpc_client_connections_closed_total{}";
            until("the connection's end", || {
                counted.look(&snapshots);
                counted.get(closed) == 1.0
            })
            .await;
        });
        counted.look(&snapshots);

        let moved = counted.names();
        let expected = documented(&["Calls", "Connections", "Work of a server"]);
        let all: BTreeSet<String> = &expected
            | &documented(&["Memory and minimum rates", "Liveness, reconnects and drains"]);
        assert!(moved.is_superset(&expected), "{uri}: {:?}", expected.difference(&moved));
        assert!(moved.is_subset(&all), "{uri}: {:?}", moved.difference(&all));
        let call = |side: &str, method: &str, status: &str| {
            counted.get(&format!(
                "rpc_{side}_calls_total{{rpc_method=\"Watched/{method}\",\
                 rpc_service=\"Watched\",rpc_status_code=\"{status}\"}}"
            ))
        };
        for side in ["client", "server"] {
            assert_eq!(call(side, "add", "ok"), 2.0, "{side}");
            assert_eq!(call(side, "spawned", "ok"), 1.0, "{side}");
            assert_eq!(call(side, "fails", "application"), 1.0, "{side}");
            assert_eq!(call(side, "panics", "internal"), 1.0, "{side}");
            assert_eq!(call(side, "note", "ok"), 1.0, "{side}");
            let of =
                |name: &str, labels: &str| counted.get(&format!("rpc_{side}_{name}{{{labels}}}"));
            let add = "rpc_method=\"Watched/add\",rpc_service=\"Watched\"";
            let waits = "rpc_method=\"Watched/waits\",rpc_service=\"Watched\"";
            assert_eq!(of("call_duration_seconds", add), 2.0, "{side}");
            assert_eq!(of("call_duration_seconds", waits), 2.0, "{side}");
            assert_eq!(of("connections_opened_total", ""), 1.0, "{side}");
            assert_eq!(of("connections_closed_total", ""), 1.0, "{side}");
        }
        assert_eq!(call("client", "waits", "timeout"), 1.0);
        assert_eq!(call("client", "waits", "cancelled"), 1.0);
        assert_eq!(call("client", "unknown", "not_found"), 1.0);
        assert_eq!(counted.get("rpc_server_requests_refused_total{reason=\"not_found\"}"), 1.0);
        let bytes = |name: &str| counted.get(&format!("rpc_{name}_bytes_total{{}}"));
        for (sent, received) in
            [("client_sent", "server_received"), ("server_sent", "client_received")]
        {
            // An end that is closing may not read the other's last words.
            let lost = bytes(sent) - bytes(received);
            assert!(bytes(received) > 100.0 && (0.0..=64.0).contains(&lost), "{uri}: {lost}");
        }
    }
}

/// Nothing leaves any more.
struct Mute;
impl ChannelHandler for Mute {
    fn write(&mut self, _: &mut ChannelContext<'_>, _: &mut Frame<'_>) -> Handled {
        Ok(Flow::Stop)
    }
}

#[test]
fn heartbeats_reconnects_and_endings_move_each_documented_metric_of_liveness() {
    let recorder = DebuggingRecorder::new();
    let _recorded = set_default_local_recorder(&recorder);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.unwrap().block_on(async {
        let second = Duration::from_secs(1);
        let heartbeat = Heartbeat::default().interval(10 * second);
        // Each end is asked in its turn.
        for slow in [Side::Client, Side::Server] {
            let of = |side| match slow == side {
                true => heartbeat.mode(HeartbeatMode::Off),
                false => heartbeat,
            };
            let server = Server::builder()
                .provide(WatchedServer::new(Provider))
                .heartbeat(of(Side::Server))
                .max_connections(1)
                .bind(format!("memory:liveness-{slow:?}"))
                .await
                .unwrap();
            let client =
                Client::builder().heartbeat(of(Side::Client)).connect(server.local_uri()).await;
            let client = client.unwrap();
            assert!(Client::builder().connect(server.local_uri()).await.is_err(), "it is full");
            tokio::time::sleep(60 * second).await;
            let muted = match slow {
                Side::Client => client.channels(),
                Side::Server => server.channels(),
            };
            muted[0].change(Change::add_first("mute", Mute)).unwrap();
            tokio::time::sleep(60 * second).await;
            let watched = WatchedClient::new(client.clone());
            assert_eq!(watched.add(1, 2).await, Ok(3), "on a new connection");
            client.close().await;
            server.shutdown().await.unwrap();
        }
    });
    let mut counted = Counted::default();
    counted.look(&recorder.snapshotter());
    let (moved, expected) = (counted.names(), documented(&["Liveness, reconnects and drains"]));
    assert!(moved.is_superset(&expected), "{:?}", expected.difference(&moved));
    assert_eq!(counted.get("rpc_client_reconnects_total{outcome=\"connected\"}"), 2.0);
    assert_eq!(counted.get("rpc_server_connections_refused_total{reason=\"server_full\"}"), 2.0);
    assert_eq!(counted.get("rpc_server_drains_total{outcome=\"complete\"}"), 2.0);
    for end in ["client", "server"] {
        let missed = counted.get(&format!("rpc_{end}_heartbeats_missed_total{{}}"));
        assert!((1.0..=3.0).contains(&missed), "{end}: {missed} missed");
    }
}

#[test]
fn a_server_without_memory_moves_each_documented_metric_of_memory() {
    let recorder = DebuggingRecorder::new();
    let _recorded = set_default_local_recorder(&recorder);
    let snapshots = recorder.snapshotter();
    let mut counted = Counted::default();
    runtime().block_on(async {
        const LARGE: usize = 256 << 10;
        let limits = MemoryLimits::default().connection(64 << 10).address(64 << 10);
        let server = Server::builder()
            .provide(WatchedServer::new(Provider))
            .memory_limits(limits)
            .bind("memory:without-memory")
            .await
            .unwrap();
        let client = async || {
            let client = Client::builder().connect(server.local_uri()).await.unwrap();
            WatchedClient::new(client).with_timeout(Duration::from_secs(60))
        };
        let (greedy, modest) = (client().await, client().await);
        let begun = WAITS.get();
        let keeps = |watched: &WatchedClient| {
            let watched = watched.clone();
            tokio::spawn(async move { watched.keeps(vec![7; LARGE].into()).await })
        };
        let greedily = keeps(&greedy);
        until("a request that holds all memory", || WAITS.get() == begun + 1).await;
        let modestly = keeps(&modest);
        until("the other one's wait", || {
            counted.look(&snapshots);
            // The greedy connection also waits before it reads more.
            counted.get("rpc_server_memory_waits_total{}") == 2.0
        })
        .await;
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(11)).await;
        tokio::time::resume();
        assert!(soon("its end", greedily).await.unwrap().unwrap_err().is_overloaded());
        until("the other request", || WAITS.get() == begun + 2).await;
        assert!(client().await.makes(LARGE).await.unwrap_err().is_overloaded());
        modestly.abort();
    });
    counted.look(&snapshots);
    assert_eq!(counted.get("rpc_server_connections_ended_total{reason=\"memory\"}"), 1.0);
    assert_eq!(counted.get("rpc_server_memory_refused_total{what=\"answer\"}"), 1.0);
    let expected = documented(&["Memory and minimum rates"]);
    let missing: Vec<_> = expected.difference(&counted.names()).cloned().collect();
    assert!(missing.iter().all(|name| name.starts_with("rpc_client")), "{missing:?}");
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Side {
    Client,
    Server,
}

#[test]
fn no_call_and_no_connection_stays_in_a_gauge_after_its_end() {
    let recorder = DebuggingRecorder::new();
    let _recorded = set_default_local_recorder(&recorder);
    runtime().block_on(async {
        let (server, client) = connected("memory:gauges").await;
        let watched = WatchedClient::new(client.clone());
        // A snapshot would set the gauges back, so there is one, at the end.
        let waiting = tokio::spawn(async move { watched.waits().await });
        until("the call to be aborted", || WAITS.get() == 1).await;
        waiting.abort();
        assert!(waiting.await.unwrap_err().is_cancelled());
        all_kinds_of_calls(server, client).await;
    });
    let mut counted = Counted::default();
    counted.look(&recorder.snapshotter());
    let is_gauge = |name: &str| name.contains("_in_flight") || name.contains("_open{");
    let gauges: Vec<_> = counted.0.iter().filter(|(name, _)| is_gauge(name)).collect();
    assert!(gauges.len() > 10, "{gauges:?}");
    assert!(gauges.iter().all(|(_, value)| **value == 0.0), "{gauges:?}");
}

#[test]
fn what_is_under_way_is_in_the_gauges() {
    let recorder = DebuggingRecorder::new();
    let _recorded = set_default_local_recorder(&recorder);
    runtime().block_on(async {
        let (_server, client) = connected("memory:under-way").await;
        let watched = WatchedClient::new(client);
        let calls = (0..3).map(|_| {
            let watched = watched.clone();
            tokio::spawn(async move { watched.waits().await })
        });
        let calls: Vec<_> = calls.collect();
        assert_eq!(watched.add(1, 2).await, Ok(3));
        let mut counted = Counted::default();
        counted.look(&recorder.snapshotter());
        for side in ["client", "server"] {
            let labels = "rpc_method=\"Watched/waits\",rpc_service=\"Watched\"";
            assert_eq!(counted.get(&format!("rpc_{side}_calls_in_flight{{{labels}}}")), 3.0);
            assert_eq!(counted.get(&format!("rpc_{side}_connections_open{{}}")), 1.0);
        }
        calls.into_iter().for_each(|call| call.abort());
    });
}

#[test]
fn a_connection_that_is_not_served_is_counted_with_the_reason() {
    let recorder = DebuggingRecorder::new();
    let _recorded = set_default_local_recorder(&recorder);
    runtime().block_on(async {
        let server = Server::builder().provide(WatchedServer::new(Provider)).max_connections(1);
        let server = server.bind("memory:full").await.unwrap();
        let _first = Client::builder().connect(server.local_uri()).await.unwrap();
        assert!(Client::builder().connect(server.local_uri()).await.is_err());
    });
    let mut counted = Counted::default();
    counted.look(&recorder.snapshotter());
    let refused = "rpc_server_connections_refused_total{reason=\"server_full\"}";
    assert_eq!(counted.get(refused), 1.0);
    assert_eq!(counted.get("rpc_server_connections_opened_total{}"), 1.0);
}

#[test]
fn with_metrics_off_a_recorder_hears_nothing() {
    let recorder = DebuggingRecorder::new();
    let _recorded = set_default_local_recorder(&recorder);
    runtime().block_on(async {
        let server = Server::builder().provide(WatchedServer::new(Provider)).metrics(false);
        let server = server.bind("memory:unobserved").await.unwrap();
        let client = Client::builder().metrics(false).connect(server.local_uri()).await.unwrap();
        all_kinds_of_calls(server, client).await;
    });
    assert!(recorder.snapshotter().snapshot().into_vec().is_empty());
}

mod spans {
    //! A subscriber that keeps all it is told.

    use std::collections::BTreeMap;
    use std::fmt::Debug;
    use std::sync::{Arc, Mutex};

    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Subscriber};
    use tracing_subscriber::layer::{Context, Layer};
    use tracing_subscriber::registry::LookupSpan;

    #[derive(Clone, Debug, Default)]
    pub(super) struct Seen {
        pub(super) name: String,
        pub(super) parent: Option<String>,
        pub(super) fields: BTreeMap<String, String>,
        pub(super) is_closed: bool,
    }

    impl Visit for Seen {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            self.fields.insert(field.name().to_owned(), format!("{value:?}"));
        }
        fn record_str(&mut self, field: &Field, value: &str) {
            self.fields.insert(field.name().to_owned(), value.to_owned());
        }
    }

    #[derive(Clone, Default)]
    pub(super) struct Keep {
        spans: Arc<Mutex<BTreeMap<u64, Seen>>>,
        closed: Arc<Mutex<Vec<Seen>>>,
        /// Those of providers' methods; `name` is the message.
        pub(super) events: Arc<Mutex<Vec<Seen>>>,
        /// Everything that was said, to be searched.
        pub(super) text: Arc<Mutex<String>>,
    }

    impl Keep {
        pub(super) fn all(&self) -> Vec<Seen> {
            let mut all = self.closed.lock().unwrap().clone();
            all.extend(self.spans.lock().unwrap().values().cloned());
            all
        }
    }

    impl<S: Subscriber + for<'s> LookupSpan<'s>> Layer<S> for Keep {
        fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
            let parent = context.span(id).and_then(|span| Some(span.parent()?.name().to_owned()));
            let name = attributes.metadata().name().to_owned();
            let mut seen = Seen { name, parent, ..Seen::default() };
            attributes.record(&mut seen);
            self.text.lock().unwrap().push_str(&format!("{:?}", seen.fields));
            self.spans.lock().unwrap().insert(id.into_u64(), seen);
        }
        fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
            let mut spans = self.spans.lock().unwrap();
            let seen = spans.get_mut(&id.into_u64()).unwrap();
            values.record(seen);
            self.text.lock().unwrap().push_str(&format!("{:?}", seen.fields));
        }
        fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
            let mut seen = Seen::default();
            event.record(&mut seen);
            self.text.lock().unwrap().push_str(&format!("{:?}", seen.fields));
            if event.metadata().target() == module_path!().trim_end_matches("::spans") {
                seen.name = seen.fields.get("message").cloned().unwrap_or_default();
                seen.parent = context.event_span(event).map(|span| span.name().to_owned());
                self.events.lock().unwrap().push(seen);
            }
        }
        fn on_close(&self, id: Id, _: Context<'_, S>) {
            // Ids are given out again.
            let mut seen = self.spans.lock().unwrap().remove(&id.into_u64()).unwrap();
            seen.is_closed = true;
            self.closed.lock().unwrap().push(seen);
        }
    }
}

/// Makes `keep` this thread's subscriber until the result is dropped.
fn subscribed(keep: spans::Keep) -> (tracing::Dispatch, tracing::subscriber::DefaultGuard) {
    use tracing_subscriber::layer::SubscriberExt;
    // While there is one subscriber alone, a span's first use by a thread without it turns the span
    // off for all threads.
    let second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    let subscriber = tracing_subscriber::registry().with(keep);
    let default = tracing::subscriber::set_default(subscriber);
    tracing::callsite::rebuild_interest_cache();
    (second, default)
}

/// The spans of all kinds of calls, and what was said in them.
fn traced(uri: &str) -> (Vec<spans::Seen>, Vec<spans::Seen>, String) {
    let keep = spans::Keep::default();
    let _traced = subscribed(keep.clone());
    runtime().block_on(async {
        let (server, client) = connected(uri).await;
        all_kinds_of_calls(server, client).await;
    });
    (keep.all(), keep.events.lock().unwrap().clone(), keep.text.lock().unwrap().clone())
}

#[test]
fn each_call_and_each_connection_has_the_documented_span_at_both_ends_and_it_is_closed() {
    let (spans, _, _) = traced("tcp://127.0.0.1:0");
    let text = include_str!("../../docs/observability.md");
    let (_, text) = text.split_once("\n## Spans\n").unwrap();
    let named = |name: &'static str| spans.iter().filter(move |span| span.name == name);
    let field = |span: &spans::Seen, name: &str| span.fields.get(name).cloned().unwrap_or_default();
    for (name, count) in [("rpc.client.call", 9), ("rpc.server.call", 8), ("rpc.connection", 2)] {
        assert!(text.contains(&format!("| `{name}` |")), "{name} is not documented");
        assert_eq!(named(name).count(), count, "{name}");
        for span in named(name) {
            assert!(span.is_closed, "{span:?}");
            assert_eq!(span.parent, None);
            assert!(field(span, "peer").starts_with("tcp://"), "{span:?}");
            for name in span.fields.keys() {
                assert!(text.contains(&format!("| `{name}` |")), "{name} is not documented");
            }
        }
    }
    for (name, kind) in [("rpc.client.call", "client"), ("rpc.server.call", "server")] {
        let one = |method: &str| {
            let method = format!("Watched/{method}");
            named(name).find(|span| field(span, "rpc.method") == method).unwrap()
        };
        for (method, status) in
            [("add", "ok"), ("spawned", "ok"), ("fails", "application"), ("panics", "internal")]
        {
            let span = one(method);
            assert_eq!(field(span, "rpc.status_code"), status, "{span:?}");
            assert_eq!(field(span, "rpc.service"), "Watched");
            assert_eq!(field(span, "rpc.system.name"), "rpc-runtime");
            assert_eq!(field(span, "otel.kind"), kind);
        }
    }
    let ids = |name: &'static str| -> BTreeSet<String> {
        let all = named(name).map(|span| field(span, "rpc.request.id"));
        all.collect()
    };
    assert!(ids("rpc.server.call").is_subset(&ids("rpc.client.call")));
    assert!(ids("rpc.server.call").len() > 6);
}

#[test]
fn a_method_runs_inside_of_its_calls_span_in_place_and_in_a_task() {
    let (_, events, _) = traced("memory:inside");
    let said: Vec<_> = events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(said, ["in place", "in place", "in a task"]);
    assert!(events.iter().all(|event| event.parent.as_deref() == Some("rpc.server.call")));
}

#[test]
fn no_span_and_no_event_holds_a_payload_or_the_message_of_a_contracts_error() {
    let (_, _, text) = traced("memory:payloads");
    assert!(text.contains("Watched/note"), "{text}");
    for secret in ["private", "secret"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

#[test]
fn a_call_within_a_span_is_below_it() {
    use tracing::Instrument;
    let keep = spans::Keep::default();
    let _traced = subscribed(keep.clone());
    runtime().block_on(async {
        let (_server, client) = connected("memory:below").await;
        let watched = WatchedClient::new(client);
        watched.add(1, 2).instrument(tracing::info_span!("outer")).await.unwrap();
    });
    let spans = keep.all();
    let call = spans.iter().find(|span| span.name == "rpc.client.call").unwrap();
    assert_eq!(call.parent.as_deref(), Some("outer"));
}
