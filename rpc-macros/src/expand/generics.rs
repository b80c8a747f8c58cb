//! The parameters of a generic trait, on the types beside it.

use proc_macro2::TokenStream;
use syn::{GenericParam, Generics, Ident};

/// The same parameters without bounds: a struct asks for none, its methods do.
pub(super) fn unbounded(generics: &Generics) -> Generics {
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

/// The same parameters behind one more type, the provider's.
pub(super) fn with_provider(generics: &Generics, provider: &Ident) -> Generics {
    let mut generics = generics.clone();
    generics.params.insert(0, GenericParam::Type(provider.clone().into()));
    generics
}

/// `PhantomData<fn() -> (V,)>`, which is `Send` and `Sync` whatever `V` is; nothing for a trait
/// without parameters.
pub(super) fn phantom(generics: &Generics) -> Option<TokenStream> {
    if generics.params.is_empty() {
        return None;
    }
    let types = generics.type_params().map(|param| &param.ident);
    Some(generated! {
        ::core::marker::PhantomData<fn() -> (#(#types,)*)>
    })
}
