//! The trait for the compiler.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{
    FnArg, Pat, ReturnType, Signature, TraitItem, TraitItemFn, Type, TypeParamBound,
    parse_quote_spanned,
};

use crate::ast::{self, Service};
use crate::check;

/// The trait with `Send` futures in place of `async fn`, and with `Send + Sync + 'static`.
pub(super) fn expand(service: &Service) -> TokenStream {
    let mut contract = service.contract.clone();
    for item in &mut contract.items {
        if let TraitItem::Fn(function) = item {
            desugar(function);
        }
    }
    contract.colon_token.get_or_insert_default();
    let shared: [TypeParamBound; 3] = [
        parse_quote_spanned!(Span::mixed_site()=> ::core::marker::Send),
        parse_quote_spanned!(Span::mixed_site()=> ::core::marker::Sync),
        parse_quote_spanned!(Span::mixed_site()=> 'static),
    ];
    contract.supertraits.extend(shared);
    contract.into_token_stream()
}

/// Changes `async fn f() -> T` to `fn f() -> impl Future<Output = T> + Send` with a body `async
/// move`.
fn desugar(function: &mut TraitItemFn) {
    if function.sig.asyncness.is_some()
        && let Some(body) = &mut function.default
    {
        let statements = &body.stmts;
        let block = quote_spanned!(body.brace_token.span.join()=> { #(#statements)* });
        body.stmts =
            vec![syn::Stmt::Expr(syn::Expr::Verbatim(generated!(async move #block)), None)];
    }
    let has_body = function.default.is_some();
    function.sig = signature(&function.sig);
    if !has_body {
        // `check` has reported them. Without a body, the compiler would report them again.
        for input in &mut function.sig.inputs {
            if let FnArg::Typed(typed) = input
                && !check::is_plain(&typed.pat)
            {
                *typed.pat = Pat::Verbatim(quote!(_));
            }
        }
    }
}

/// The signature of the method in a stub.
pub(super) fn signature(async_signature: &Signature) -> Signature {
    let mut signature = async_signature.clone();
    signature.constness = None;
    if signature.asyncness.take().is_some() {
        let output = ast::output(&signature.output);
        let span = Span::mixed_site().located_at(output.span());
        let future = quote_spanned! {span=>
            impl ::core::future::Future<Output = #output> + ::core::marker::Send
        };
        signature.output = ReturnType::Type(Default::default(), Box::new(Type::Verbatim(future)));
    }
    signature
}
