//! The workloads: calls and their values.

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The calls of a run.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// W1: a small struct, echoed.
    Order,
    /// W2: 32 bytes of text, echoed.
    Text,
    /// W3: 1 MiB of bytes, echoed.
    Blob,
    /// A number, echoed: a call with a minimal value.
    Number,
    /// A method that awaits 1 ms.
    Wait,
    /// W1, and one call in a hundred is a method that awaits 20 ms.
    MixedWait,
    /// W1, and one call in a hundred is a method that blocks its thread for 20 ms.
    MixedBlock,
}

/// One call. All but the last two echo their value.
#[derive(Clone, Copy, Debug)]
pub enum Call {
    /// [`order`] with this id.
    Order(u64),
    /// [`TEXT`].
    Text,
    /// [`blob`].
    Blob,
    /// This number.
    Number(u64),
    /// The method awaits for this time.
    Wait(Duration),
    /// The method blocks its thread for this time.
    Block(Duration),
}

/// In mixed workloads, one of this many calls is slow.
const SLOW_EVERY: u64 = 100;
const SLOW: Duration = Duration::from_millis(20);
const SHORT_WAIT: Duration = Duration::from_millis(1);

impl Workload {
    /// The call number `n` of a caller.
    pub fn call(self, n: u64) -> Call {
        let slow = n.is_multiple_of(SLOW_EVERY);
        match self {
            Self::Text => Call::Text,
            Self::Blob => Call::Blob,
            Self::Number => Call::Number(n),
            Self::Wait => Call::Wait(SHORT_WAIT),
            Self::MixedWait if slow => Call::Wait(SLOW),
            Self::MixedBlock if slow => Call::Block(SLOW),
            Self::Order | Self::MixedWait | Self::MixedBlock => Call::Order(n),
        }
    }

    /// Whether this is a slow call, which is not measured.
    pub fn is_slow(self, call: Call) -> bool {
        matches!(self, Self::MixedWait | Self::MixedBlock) && !matches!(call, Call::Order(_))
    }
}

/// The struct of W1. Contestants with their own types fill them from [`order`].
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Order {
    /// Differs from call to call.
    pub id: u64,
    /// 16 bytes.
    pub user: String,
    /// Four of them.
    pub items: Vec<Item>,
    /// 64 bytes.
    pub note: String,
}

/// A part of an [`Order`].
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Item {
    /// 8 bytes.
    pub sku: String,
    /// How many.
    pub quantity: u32,
    /// Of one.
    pub price: f64,
}

/// The 32 bytes of W2.
pub const TEXT: &str = "0123456789abcdef0123456789abcdef";

/// The size of W3's payload.
pub const BLOB_LEN: usize = 1 << 20;

/// The order of W1 with this id.
pub fn order(id: u64) -> Order {
    static ORDER: LazyLock<Order> = LazyLock::new(|| Order {
        id: 0,
        user: "user-0123456789a".into(),
        items: (0..4_u32)
            .map(|i| Item {
                sku: format!("SKU-{i:04}"),
                quantity: 100 + 37 * i,
                price: 19.99 + f64::from(i),
            })
            .collect(),
        note: "the quick brown fox jumps over the lazy dog and runs away again!".into(),
    });
    Order { id, ..ORDER.clone() }
}

/// The 1 MiB of W3; a clone shares the memory.
pub fn blob() -> Bytes {
    static BLOB: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(vec![7; BLOB_LEN]));
    BLOB.clone()
}

/// Fails if an answer does not belong to its call. `what` is a part that identifies the answer.
pub fn check<T: PartialEq>(what: T, expected: T) -> crate::Result<()> {
    if what == expected { Ok(()) } else { Err("an answer is not the one to its call".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_have_the_sizes_that_the_results_state() {
        let order = order(9);
        assert_eq!((order.id, order.user.len(), order.note.len()), (9, 16, 64));
        assert_eq!(order.items.iter().map(|item| item.sku.len()).collect::<Vec<_>>(), [8; 4]);
        assert_eq!((TEXT.len(), blob().len()), (32, 1 << 20));
    }

    #[test]
    fn one_mixed_call_in_a_hundred_is_slow() {
        for mixed in [Workload::MixedWait, Workload::MixedBlock] {
            let slow = (0..1_000).filter(|n| mixed.is_slow(mixed.call(*n))).count();
            assert_eq!(slow, 10);
        }
        assert!(!Workload::Wait.is_slow(Workload::Wait.call(0)));
    }
}
