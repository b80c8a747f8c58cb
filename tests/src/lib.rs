//! What the end-to-end tests share: a contract to call, peers that speak raw frames, a client that
//! notices any trouble, and waiting that ends.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test code: a failure is to end the test"
)]

pub mod authority;
pub mod bystander;
pub mod complexity;
pub mod pace;
pub mod probe;
#[cfg(unix)]
pub mod process;
pub mod random;
pub mod turn;
#[cfg(target_os = "linux")]
pub mod victim;
pub mod waiting;
pub mod wire;
