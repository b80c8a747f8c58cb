//! What `#[rpc_service]` accepts, and what it says about the rest.
//!
//! `TRYBUILD=overwrite cargo test -p rpc-macro-tests` rewrites the messages; read them
//! as a user would before you commit them.

#[test]
fn contracts_are_accepted_or_refused_with_advice() {
    let cases = trybuild::TestCases::new();
    cases.pass("ui/pass/*.rs");
    cases.compile_fail("ui/fail/*.rs");
}
