//! ttrpc as a contestant.

fn main() -> std::process::ExitCode {
    harness::main(peer_ttrpc::run)
}
