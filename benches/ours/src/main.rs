//! This framework as a contestant.

fn main() -> std::process::ExitCode {
    harness::main(ours::run)
}
