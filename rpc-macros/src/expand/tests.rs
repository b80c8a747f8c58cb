//! Tests of the text and the size of the expansion.

use std::path::Path;

use proc_macro2::TokenStream;
use quote::quote;

use super::rpc_service;

/// The environment variable that rewrites the checked-in expansion.
const BLESS: &str = "RPC_BLESS";

fn pretty(tokens: TokenStream) -> String {
    prettyplease::unparse(&syn::parse2(tokens).unwrap())
}

/// The number of lines of the expansion, without documentation.
fn lines(contract: TokenStream) -> usize {
    let code = pretty(rpc_service(quote!(), contract));
    code.lines().filter(|line| !line.trim_start().starts_with("///")).count()
}

#[test]
fn the_checked_in_expansion_is_what_the_macro_writes() {
    let contract = quote! {
        /// Greets.
        pub trait HelloService {
            /// Greets `name`.
            async fn hello(&self, name: String) -> rpc_runtime::Result<String>;
        }
    };
    let expansion = format!(
        "// The expansion of `#[rpc_service]` on:\n//\n{}//\n// Rewritten by `{BLESS}=1 cargo test -p rpc-macros`.\n\n{}",
        pretty(contract.clone()).lines().map(|line| format!("//     {line}\n")).collect::<String>(),
        pretty(rpc_service(quote!(), contract)),
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/expansion/hello_service.rs");
    if std::env::var_os(BLESS).is_some() {
        std::fs::write(&path, &expansion).unwrap();
    }
    let checked_in = std::fs::read_to_string(&path).unwrap();
    assert!(checked_in == expansion, "the expansion changed:\n{}", diff(&checked_in, &expansion));
}

#[test]
fn a_method_expands_to_less_than_sixty_lines() {
    let empty = lines(quote!(
        pub trait Service {}
    ));
    let small = lines(quote! {
        pub trait Service {
            async fn hello(&self, name: String) -> rpc_runtime::Result<String>;
        }
    });
    let large = lines(quote! {
        pub trait Service {
            #[rpc(name = "other", idempotent, oneway, timeout = "3s", blocking)]
            async fn hello(
                &self, account: u32, #[rpc(default)] limit: u32,
            ) -> rpc_runtime::Result<()>;
        }
    });
    assert!(small - empty < 50, "{} lines for a small method", small - empty);
    assert!(large - empty < 60, "{} lines for a large method", large - empty);
}

#[test]
fn a_renamed_runtime_is_named_nowhere_by_its_old_name() {
    let contract = quote! {
        pub trait Store<V> {
            #[rpc(oneway, idempotent, timeout = "1s", inline)]
            async fn put(&self, #[rpc(default)] value: V) -> other::Result<()>;
            async fn get(&self) -> other::Result<V>;
        }
    };
    let code = rpc_service(quote!(crate = other), contract).to_string();
    assert!(!code.contains("rpc_runtime"), "{code}");
}

#[test]
fn what_cannot_be_parsed_is_handed_back_with_the_error() {
    let code = rpc_service(quote!(), quote!(pub trait Broken { async fn })).to_string();
    assert!(code.starts_with("pub trait Broken") && code.contains("compile_error"), "{code}");
}

/// The different lines, without the common beginning and end.
fn diff(old: &str, new: &str) -> String {
    let (old, new): (Vec<_>, Vec<_>) = (old.lines().collect(), new.lines().collect());
    let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[head..], &new[head..]);
    let tail = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    let removed = old[..old.len() - tail].iter().map(|line| format!("-{line}\n"));
    let added = new[..new.len() - tail].iter().map(|line| format!("+{line}\n"));
    removed.chain(added).collect()
}
