//! tarpc as a contestant.

fn main() -> std::process::ExitCode {
    harness::main(peer_tarpc::run)
}
