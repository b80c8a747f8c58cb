//! Calls from stub to method and back: arguments, results, errors, streams, deadlines, versions.

mod dispatch;
mod encoding;
mod handlers;
mod interceptors;
mod large_payloads;
mod macro_descriptor;
mod macro_expansion;
mod other_versions;
mod programs;
mod races;
mod regressions;
mod reply_metadata;
mod round_trip;
mod server_interceptors;
mod streaming;
mod stress;
mod tower_layers;
mod virtual_time;
