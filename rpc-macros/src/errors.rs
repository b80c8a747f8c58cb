use proc_macro2::TokenStream;
use quote::ToTokens;

/// Everything wrong with one use of `#[rpc_service]`.
///
/// Checks push and go on, so that a user sees all errors of a trait in one build.
#[derive(Default)]
pub(crate) struct Errors(Vec<syn::Error>);

impl Errors {
    /// Reports `message` under `tokens`.
    pub(crate) fn at(&mut self, tokens: impl ToTokens, message: impl std::fmt::Display) {
        self.push(syn::Error::new_spanned(tokens, message));
    }

    pub(crate) fn push(&mut self, error: syn::Error) {
        self.0.push(error);
    }

    /// How many there are so far; a check compares before and after.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// One `compile_error!` for each, or nothing.
    pub(crate) fn into_compile_errors(self) -> TokenStream {
        let combined = self.0.into_iter().reduce(|mut all, next| {
            all.combine(next);
            all
        });
        combined.map(syn::Error::into_compile_error).unwrap_or_default()
    }
}
