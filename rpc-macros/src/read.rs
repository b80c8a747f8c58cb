//! Parsing an annotated trait into a [`Service`], with all errors.

use proc_macro2::TokenStream;
use syn::{FnArg, ItemTrait, TraitItem, TraitItemFn};

use crate::ast::{Method, Names, Service};
use crate::attr::{self, ServiceOptions};
use crate::check;
use crate::errors::Errors;

/// Parses the trait. Items with errors are left out of `methods`, so that the rest can still be
/// expanded.
pub(crate) fn service(args: TokenStream, mut contract: ItemTrait, errors: &mut Errors) -> Service {
    let options = ServiceOptions::parse(args, errors);
    check::contract(&contract, errors);
    attr::refuse_rpc(
        &mut contract.attrs,
        "options of the service belong in `#[rpc_service(…)]`",
        errors,
    );

    let mut methods = Vec::<Method>::new();
    let mut invalid = Vec::new();
    let mut deprecated = attr::is_deprecated(&contract.attrs);
    for item in &mut contract.items {
        let TraitItem::Fn(function) = item else { continue };
        deprecated |= attr::is_deprecated(&function.attrs);
        if function.default.is_some() {
            refuse_rpc_on_local(function, errors);
            continue;
        }
        let errors_before = errors.count();
        let method = Method::read(function, errors);
        check::method(function, &method, errors);
        check::distinct(&methods, &method, errors);
        if errors.count() == errors_before {
            methods.push(method);
        } else {
            invalid.push(function.clone());
        }
    }

    let names = Names::of(&contract.ident);
    let cfg_attributes = attr::cfg_attributes(&contract.attrs);
    Service { contract, options, names, methods, invalid, cfg_attributes, deprecated }
}

fn refuse_rpc_on_local(function: &mut TraitItemFn, errors: &mut Errors) {
    const REASON: &str =
        "a method with a body runs where it is called, so `#[rpc]` has no effect on it";
    attr::refuse_rpc(&mut function.attrs, REASON, errors);
    for input in &mut function.sig.inputs {
        match input {
            FnArg::Receiver(receiver) => attr::refuse_rpc(&mut receiver.attrs, REASON, errors),
            FnArg::Typed(typed) => attr::refuse_rpc(&mut typed.attrs, REASON, errors),
        }
    }
}
