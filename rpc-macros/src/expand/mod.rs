//! Generating code from the parsed trait.

/// `quote!` with names that cannot collide with local variables of the user.
macro_rules! generated {
    ($($tokens:tt)*) => {
        quote::quote_spanned!(proc_macro2::Span::mixed_site()=> $($tokens)*)
    };
}

mod client;
mod contract;
mod descriptor;
mod generics;
mod server;
mod type_name;

use proc_macro2::TokenStream;
use quote::quote;
use syn::Item;

pub(crate) use self::type_name::type_name;
use crate::ast::Service;
use crate::errors::Errors;
use crate::read;

/// Expands `#[rpc_service(args)] input`.
pub(crate) fn rpc_service(args: TokenStream, input: TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let contract = match syn::parse2(input.clone()) {
        Ok(Item::Trait(contract)) => contract,
        Ok(other) => {
            errors.at(keyword(&other), not_a_trait(&other));
            return with_errors(input, errors);
        }
        Err(error) => {
            errors.push(error);
            return with_errors(input, errors);
        }
    };
    let service = read::service(args, contract, &mut errors);
    with_errors(expand(&service), errors)
}

/// The trait, and all items that can be generated for its valid methods. So code that uses the
/// trait, the stub or the server compiles, and the compiler shows only the real errors.
fn expand(service: &Service) -> TokenStream {
    let contract = contract::expand(service);
    if service.contract.generics.lifetimes().next().is_some() {
        // The trait has an error, and no generated item could be `'static`.
        return contract;
    }
    let descriptor = descriptor::constant(service);
    let client = client::structure(service);
    let server = server::structure(service);
    let methods = descriptor::methods(service);
    let stub = client::implementations(service);
    let dispatcher = server::implementations(service);
    let cfg_attributes = &service.cfg_attributes;
    let allow = service.deprecated.then(|| quote!(#[allow(deprecated)]));
    generated! {
        #contract
        #descriptor
        #client
        #server
        #(#cfg_attributes)*
        #allow
        const _: () = {
            #methods
            #stub
            #dispatcher
        };
    }
}

fn with_errors(expanded: TokenStream, errors: Errors) -> TokenStream {
    let errors = errors.into_compile_errors();
    quote!(#expanded #errors)
}

/// The keyword of an item that is not a trait.
fn keyword(item: &Item) -> TokenStream {
    match item {
        Item::Impl(item) => {
            let keyword = &item.impl_token;
            quote!(#keyword)
        }
        Item::Struct(item) => {
            let keyword = &item.struct_token;
            quote!(#keyword)
        }
        Item::Enum(item) => {
            let keyword = &item.enum_token;
            quote!(#keyword)
        }
        Item::Fn(item) => {
            let keyword = &item.sig.fn_token;
            quote!(#keyword)
        }
        Item::Mod(item) => {
            let keyword = &item.mod_token;
            quote!(#keyword)
        }
        other => quote!(#other),
    }
}

fn not_a_trait(item: &Item) -> &'static str {
    match item {
        Item::Impl(_) => {
            "`#[rpc_service]` belongs on the trait; write the implementation without it and \
             pass it to the generated server: `HelloServiceServer::new(Hello)`"
        }
        _ => "`#[rpc_service]` belongs on a trait: the trait is the contract of the service",
    }
}

#[cfg(test)]
mod tests;
