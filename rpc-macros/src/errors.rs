use proc_macro2::TokenStream;
use quote::ToTokens;

/// All errors of a use of `#[rpc_service]`.
///
/// Checks continue after an error, so that one build reports all errors of a trait.
#[derive(Default)]
pub(crate) struct Errors(Vec<syn::Error>);

impl Errors {
    /// Adds the error `message` at `tokens`.
    pub(crate) fn at(&mut self, tokens: impl ToTokens, message: impl std::fmt::Display) {
        self.push(syn::Error::new_spanned(tokens, message));
    }

    pub(crate) fn push(&mut self, error: syn::Error) {
        self.0.push(error);
    }

    /// The number of errors so far. Callers compare it before and after a check.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// One `compile_error!` for each error.
    pub(crate) fn into_compile_errors(self) -> TokenStream {
        let combined = self.0.into_iter().reduce(|mut all, next| {
            all.combine(next);
            all
        });
        combined.map(syn::Error::into_compile_error).unwrap_or_default()
    }
}
