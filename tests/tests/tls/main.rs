//! TLS: certificates, their life, and what a registry cannot make a client do.

mod certificates;
mod life;
mod trust;
