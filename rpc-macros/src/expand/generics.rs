//! The parameters of a generic trait, for the generated types.

use proc_macro2::TokenStream;
use syn::{GenericParam, Generics, Ident};

/// The parameters without bounds, for structs. Only the methods need the bounds.
pub(super) fn without_bounds(generics: &Generics) -> Generics {
    let mut generics = generics.clone();
    generics.where_clause = None;
    for param in &mut generics.params {
        match param {
            GenericParam::Type(param) => {
                param.colon_token = None;
                param.bounds.clear();
            }
            GenericParam::Lifetime(_) | GenericParam::Const(_) => {}
        }
    }
    generics
}

/// The parameters with the type of the provider before them.
pub(super) fn with_provider(generics: &Generics, provider: &Ident) -> Generics {
    let mut generics = generics.clone();
    generics.params.insert(0, GenericParam::Type(provider.clone().into()));
    generics
}

/// `PhantomData<fn() -> (V,)>`, which is `Send` and `Sync` for any `V`. `None` for a trait without
/// parameters.
pub(super) fn phantom(generics: &Generics) -> Option<TokenStream> {
    if generics.params.is_empty() {
        return None;
    }
    let types = generics.type_params().map(|param| &param.ident);
    Some(generated! {
        ::core::marker::PhantomData<fn() -> (#(#types,)*)>
    })
}
