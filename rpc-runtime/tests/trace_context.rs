//! One trace over several providers, with the feature `opentelemetry`.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::collections::BTreeMap;

use opentelemetry::trace::{SpanId, TracerProvider};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use rpc_runtime::{Context, Result, Server, rpc_service};
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
