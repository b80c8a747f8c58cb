//! [`Server`]: the connection to one server of the cluster.

use tokio::runtime::Handle;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};

use crate::sync::Mutex;

/// Maximum response. Ten thousand instances take about 3 MB.
const MAX_ANSWER: usize = 64 << 20;

pub(super) struct Server {
    pub(super) name: String,
    endpoint: Endpoint,
    connection: Mutex<Connection>,
}

/// The connection to a server.
struct Connection {
    channel: Channel,
    /// The number of earlier connections.
    number: u64,
}

impl Server {
    /// Connects with the first request, in this runtime. Messages use the name.
    pub(super) fn new(name: &str, endpoint: &Endpoint, runtime: &Handle) -> Self {
        let connection = Connection { channel: channel(endpoint, runtime), number: 0 };
        Self {
            name: name.to_owned(),
            endpoint: endpoint.clone(),
            connection: Mutex::new(connection),
        }
    }

    /// The number of the current connection.
    pub(super) fn connection(&self) -> u64 {
        self.connection.lock().number
    }

    pub(super) fn grpc(&self) -> Grpc<Channel> {
        Grpc::new(self.connection.lock().channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// Replaces the connection, unless another task has replaced it already.
    pub(super) fn replace(&self, connection: u64, runtime: &Handle) {
        let mut now = self.connection.lock();
        if now.number == connection {
            *now = Connection {
                channel: channel(&self.endpoint, runtime),
                number: connection.wrapping_add(1),
            };
        }
    }
}

/// A connection that is opened by the first request, in this runtime.
fn channel(endpoint: &Endpoint, runtime: &Handle) -> Channel {
    let _inside = runtime.enter();
    endpoint.connect_lazy()
}
