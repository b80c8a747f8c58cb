//! The parsed trait: the contract itself, and its remote methods.

use proc_macro2::Span;
use quote::{ToTokens, format_ident, quote};
use syn::ext::IdentExt;
use syn::{Attribute, FnArg, Ident, ItemTrait, Pat, ReturnType, TraitItemFn, Type};

use crate::attr::{self, MethodOptions, ServiceOptions};
use crate::errors::Errors;

/// A trait with `#[rpc_service]`.
pub(crate) struct Service {
    /// The trait as written, without its `#[rpc]` attributes.
    pub(crate) contract: ItemTrait,
    pub(crate) options: ServiceOptions,
    pub(crate) names: Names,
    /// The remote methods, in the order of the trait.
    pub(crate) methods: Vec<Method>,
    /// Methods without a body that have errors.
    pub(crate) invalid: Vec<TraitItemFn>,
    pub(crate) cfg_attributes: Vec<Attribute>,
    pub(crate) deprecated: bool,
}

/// A remote method.
pub(crate) struct Method {
    pub(crate) ident: Ident,
    pub(crate) arguments: Vec<Argument>,
    /// The span of the list of arguments, for errors about all of them.
    pub(crate) arguments_span: Span,
    pub(crate) output: Type,
    pub(crate) options: MethodOptions,
    pub(crate) cfg_attributes: Vec<Attribute>,
}

pub(crate) struct Argument {
    pub(crate) ident: Ident,
    pub(crate) ty: Type,
    /// `#[rpc(default)]`
    pub(crate) defaulted: bool,
}

/// The names of the generated items.
pub(crate) struct Names {
    /// `HelloServiceClient`
    pub(crate) client: Ident,
    /// `HelloServiceServer`
    pub(crate) server: Ident,
    /// `HELLO_SERVICE_DESCRIPTOR`
    pub(crate) descriptor: Ident,
    /// `__HelloServiceMethods`
    pub(crate) methods: Ident,
}

impl Service {
    /// The name under which providers are registered and found.
    pub(crate) fn wire_name(&self) -> String {
        self.options.name.clone().unwrap_or_else(|| self.contract.ident.unraw().to_string())
    }
}

impl Method {
    /// Parses a method without a body and removes its `#[rpc]` attributes.
    pub(crate) fn read(function: &mut TraitItemFn, errors: &mut Errors) -> Self {
        let options = MethodOptions::take(&mut function.attrs, errors);
        let mut arguments = Vec::new();
        for input in &mut function.sig.inputs {
            match input {
                FnArg::Receiver(receiver) => attr::refuse_rpc(
                    &mut receiver.attrs,
                    "write `#[rpc]` above the method or before one of its arguments",
                    errors,
                ),
                FnArg::Typed(typed) => {
                    let defaulted = attr::take_default(&mut typed.attrs, errors);
                    // `check` reports any other pattern.
                    if let Pat::Ident(pattern) = &*typed.pat {
                        let (ident, ty) = (pattern.ident.clone(), (*typed.ty).clone());
                        arguments.push(Argument { ident, ty, defaulted });
                    }
                }
            }
        }
        Self {
            ident: function.sig.ident.clone(),
            arguments,
            arguments_span: function.sig.paren_token.span.join(),
            output: output(&function.sig.output),
            options,
            cfg_attributes: attr::cfg_attributes(&function.attrs),
        }
    }

    /// The name on the wire, which is part of the method id.
    pub(crate) fn wire_name(&self) -> String {
        match &self.options.name {
            Some(name) => name.value(),
            None => self.ident.unraw().to_string(),
        }
    }

    /// `hello` as the name of a constant. The spelling is that of the method, so two constants
    /// cannot collide. The token is the macro's own, so no lint asks for capitals.
    pub(crate) fn constant(&self) -> Ident {
        let mut ident = self.ident.clone();
        ident.set_span(Span::mixed_site().located_at(self.ident.span()));
        ident
    }

    /// `__method_hello`, the type of the method. The prefix avoids collisions with the other
    /// generated names, `__S` and `__Ids`.
    pub(crate) fn type_name(&self) -> Ident {
        format_ident!("__method_{}", self.ident.unraw(), span = self.constant().span())
    }

    /// The token for errors about the name.
    pub(crate) fn name_token(&self) -> &dyn ToTokens {
        match &self.options.name {
            Some(name) => name,
            None => &self.ident,
        }
    }
}

impl Argument {
    /// The name in errors and descriptions.
    pub(crate) fn wire_name(&self) -> String {
        self.ident.unraw().to_string()
    }
}

impl Names {
    pub(crate) fn of(service: &Ident) -> Self {
        let name = service.unraw().to_string();
        // Errors and editors locate it at the trait; it resolves like names of the macro.
        let span = Span::mixed_site().located_at(service.span());
        Self {
            client: format_ident!("{name}Client", span = span),
            server: format_ident!("{name}Server", span = span),
            descriptor: format_ident!("{}_DESCRIPTOR", screaming_snake_case(&name), span = span),
            methods: format_ident!("__{name}Methods", span = span),
        }
    }
}

/// The return type of a function; `()` if none is written.
pub(crate) fn output(output: &ReturnType) -> Type {
    match output {
        ReturnType::Type(_, ty) => (**ty).clone(),
        ReturnType::Default => Type::Verbatim(quote!(())),
    }
}

/// `HelloService` → `HELLO_SERVICE`, `HTTPProxy2` → `HTTP_PROXY2`
fn screaming_snake_case(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let mut shouted = String::new();
    for (i, letter) in letters.iter().enumerate() {
        let after_lower = i > 0 && (letters[i - 1].is_lowercase() || letters[i - 1].is_numeric());
        let ends_acronym = i > 0
            && letters[i - 1].is_uppercase()
            && letters.get(i + 1).is_some_and(|next| next.is_lowercase());
        if letter.is_uppercase() && (after_lower || ends_acronym) {
            shouted.push('_');
        }
        shouted.extend(letter.to_uppercase());
    }
    shouted
}

#[cfg(test)]
mod tests {
    use super::screaming_snake_case;

    #[test]
    fn constants_are_named_after_the_words_of_the_trait() {
        for (name, shouted) in [
            ("HelloService", "HELLO_SERVICE"),
            ("HTTPProxy2", "HTTP_PROXY2"),
            ("KV", "KV"),
            ("V2Store", "V2_STORE"),
            ("Snake_Case", "SNAKE_CASE"),
            ("x", "X"),
        ] {
            assert_eq!(screaming_snake_case(name), shouted);
        }
    }
}
