//! The server's part of a call: from the frames of requests to the bytes of responses.

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use rpc_runtime::__bench::{Arguments, Dispatching, Form};
use rpc_runtime::protocol::{Flags, Frame, Header, Kind, Output};
use rpc_runtime::{Result, Service, rpc_service};

use crate::order::{Order, order};

#[rpc_service]
pub(crate) trait Echo {
    async fn number(&self, number: u64) -> Result<u64>;
    async fn order(&self, order: Order) -> Result<Order>;
}

pub(crate) struct Provider;

impl Echo for Provider {
    async fn number(&self, number: u64) -> Result<u64> {
        Ok(number)
    }
    async fn order(&self, order: Order) -> Result<Order> {
        Ok(order)
    }
}

#[divan::bench(args = [1, 64])]
fn number_in_place(bencher: Bencher<'_, '_>, requests: usize) {
    in_place(bencher, "number", &(7_u64,), requests);
}

#[divan::bench(args = [1, 64])]
fn order_in_place(bencher: Bencher<'_, '_>, requests: usize) {
    in_place(bencher, "order", &(order(),), requests);
}

fn in_place(bencher: Bencher<'_, '_>, name: &str, arguments: &impl Arguments, requests: usize) {
    let service = EchoServer::new(Provider);
    let method = service.descriptor().methods().iter().find(|method| method.name() == name);
    let header = Header {
        id: 7,
        method: method.unwrap().id(),
        flags: Flags::COMPACT,
        deadline_ms: 10_000,
        ..Header::new(Kind::Request)
    };
    let mut body = Output::default();
    arguments.encode(Form::Compact, &mut body).unwrap();
    let body = body.to_vec();
    let mut dispatching = Dispatching::new(service).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    // For requests that are spawned because an earlier one took too long. The runtime is not
    // polled, so they do not run.
    let _entered = runtime.enter();
    bencher.counter(ItemsCount::new(requests)).bench_local(|| {
        dispatching.answer((0..requests).map(|_| Frame::new(header, black_box(&body))));
    });
}
