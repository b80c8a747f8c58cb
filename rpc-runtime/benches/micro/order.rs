//! The sent value: W1 of `benches/harness`, about 200 bytes.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Order {
    id: u64,
    user: String,
    items: Vec<Item>,
    note: String,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
struct Item {
    sku: String,
    quantity: u32,
    price: f64,
}

pub(crate) fn order() -> Order {
    let item = |i: u32| Item {
        sku: format!("SKU-{i:04}"),
        quantity: 100 + 37 * i,
        price: 19.99 + f64::from(i),
    };
    Order {
        id: 7,
        user: "user-0123456789a".into(),
        items: (0..4).map(item).collect(),
        note: "the quick brown fox jumps over the lazy dog and runs away again!".into(),
    }
}
