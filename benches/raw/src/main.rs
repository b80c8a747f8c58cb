//! The limit as a contestant.

fn main() -> std::process::ExitCode {
    harness::main(raw::run)
}
