//! The prototype as a contestant.

fn main() -> std::process::ExitCode {
    harness::main(prototype::run)
}
