//! One trace over several providers, with the feature `opentelemetry`.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::collections::BTreeMap;

use opentelemetry::trace::{SpanId, TracerProvider};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use rpc_runtime::{Call, Context, Interceptor, Next, Reply, Result, Server, rpc_service};
use tracing::Instrument;
use tracing_subscriber::layer::SubscriberExt;

#[rpc_service]
pub trait Front {
    async fn buy(&self, what: String) -> Result<String>;
}

#[rpc_service]
pub trait Stock {
    async fn take(&self, what: String) -> Result<String>;
}

struct FrontOf(StockClient);

impl Front for FrontOf {
    async fn buy(&self, what: String) -> Result<String> {
        tokio::task::yield_now().await;
        self.0.take(what).await
    }
}

struct Shelf;

impl Stock for Shelf {
    async fn take(&self, what: String) -> Result<String> {
        tracing::debug_span!("look").in_scope(|| ());
        // For a caller in another language, or a log line.
        let context = Context::current();
        Ok(format!("{what} {}", context.metadata("traceparent").unwrap_or("without a trace")))
    }
}

fn parents(spans: &[SpanData]) -> BTreeMap<String, String> {
    let name = |id: SpanId| {
        let parent = spans.iter().find(|span| span.span_context.span_id() == id);
        parent.map_or("none".to_owned(), |span| format!("{:?} {}", span.span_kind, span.name))
    };
    let child = |span: &SpanData| format!("{:?} {}", span.span_kind, span.name);
    spans.iter().map(|span| (child(span), name(span.parent_span_id))).collect()
}

#[test]
fn spans_of_callers_and_methods_are_one_trace_over_two_hops() {
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let subscriber = tracing_subscriber::registry().with(layer);
    let _subscribed = tracing::subscriber::set_default(subscriber);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = runtime.block_on(async {
        let stock = Server::builder().provide(StockServer::new(Shelf));
        let stock = stock.bind("memory:trace-stock").await.unwrap();
        let to_stock = StockClient::connect("memory:trace-stock").await.unwrap();
        let front = Server::builder().provide(FrontServer::new(FrontOf(to_stock)));
        let front = front.bind("memory:trace-front").await.unwrap();
        let client = FrontClient::connect("memory:trace-front").await.unwrap();
        let buying = async { client.buy("tea".into()).await.unwrap() };
        let answer = buying.instrument(tracing::info_span!("shopping")).await;
        drop(client);
        front.shutdown().await.unwrap();
        stock.shutdown().await.unwrap();
        answer
    });
    let spans: Vec<SpanData> = exporter.get_finished_spans().unwrap();
    let spans: Vec<SpanData> =
        spans.into_iter().filter(|span| span.name != "rpc.connection").collect();
    let trace = spans[0].span_context.trace_id();
    assert!(spans.iter().all(|span| span.span_context.trace_id() == trace), "{spans:#?}");
    let expected = [
        ("Internal shopping", "none"),
        ("Client Front/buy", "Internal shopping"),
        ("Server Front/buy", "Client Front/buy"),
        ("Client Stock/take", "Server Front/buy"),
        ("Server Stock/take", "Client Stock/take"),
        ("Internal look", "Server Stock/take"),
    ];
    let expected: BTreeMap<String, String> =
        expected.iter().map(|(child, parent)| (child.to_string(), parent.to_string())).collect();
    assert_eq!(parents(&spans), expected);
    let sent = spans
        .iter()
        .find(|span| span.name == "Stock/take" && format!("{:?}", span.span_kind) == "Client");
    let sent = sent.unwrap().span_context.span_id();
    assert_eq!(answer, format!("tea 00-{trace}-{sent}-01"));
}

/// Sends this in place of the caller's own trace context.
struct Sends(&'static str, String);

impl Interceptor for Sends {
    async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply> {
        call.set_metadata("traceparent", self.0);
        call.set_metadata("tracestate", self.1.clone());
        next.run(call).await
    }
}

#[test]
fn what_is_no_trace_context_by_the_rules_of_the_w3c_begins_a_trace_of_its_own() {
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let _subscribed = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // The span of the method, of a call with these entries.
    let received = |parent: &'static str, state: String| {
        exporter.reset();
        runtime.block_on(async {
            let server = Server::builder().provide(StockServer::new(Shelf));
            let server = server.bind("memory:trace-malformed").await.unwrap();
            let client = StockClient::connect("memory:trace-malformed").await.unwrap();
            client.with_interceptor(Sends(parent, state)).take("tea".into()).await.unwrap();
            drop(client);
            server.shutdown().await.unwrap();
        });
        let spans = exporter.get_finished_spans().unwrap();
        spans.into_iter().find(|span| format!("{:?}", span.span_kind) == "Server").unwrap()
    };
    for parent in [
        "",
        "00",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e47361-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b71-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e473x-00f067aa0ba902b7-01",
        "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-äbf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
    ] {
        let span = received(parent, String::new());
        assert_eq!(span.parent_span_id, SpanId::INVALID, "{parent:?}");
    }
    // The trace goes on, also for a caller of a later version; a state that is none, or is too
    // long, does not.
    for (parent, state, expected) in [
        (
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "vendor=1".to_owned(),
            "vendor=1",
        ),
        ("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", String::new(), ""),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "\0,=,,".to_owned(), ""),
        (
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            format!("a={0},b={0}", "x".repeat(256)),
            "",
        ),
    ] {
        let span = received(parent, state);
        assert_eq!(span.parent_span_id.to_string(), "00f067aa0ba902b7");
        assert_eq!(span.span_context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(span.span_context.trace_state().header(), expected);
    }
}
