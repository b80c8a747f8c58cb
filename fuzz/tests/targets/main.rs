//! The targets without libFuzzer: their corpora, and what they cost.

mod complexity;
mod corpora;
