//! The descriptor of a service: its key, its methods and their arguments.

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;

use super::generics;
use super::type_name::type_name;
use crate::ast::{Argument, Method, Service};
use crate::attr::Dispatch;

/// `HELLO_SERVICE_DESCRIPTOR`, and a type whose associated constants are its parts. As associated
/// constants they can have the names of the methods without collisions.
pub(super) fn constant(service: &Service) -> TokenStream {
    let vis = &service.contract.vis;
    let cfg_attributes = &service.cfg_attributes;
    let runtime = &service.options.runtime;
    let descriptor = &service.names.descriptor;
    let methods = &service.names.methods;
    let entries = service.methods.iter().map(|method| {
        let (cfg_attributes, constant) = (&method.cfg_attributes, method.constant());
        generated!(#(#cfg_attributes)* #methods::#constant)
    });
    let key = key(service);
    let docs = format!(
        " The descriptor of `{}`: its methods and their arguments.",
        service.contract.ident
    );
    generated! {
        #[doc = #docs]
        #(#cfg_attributes)*
        #vis const #descriptor: #runtime::ServiceDescriptor =
            #runtime::ServiceDescriptor::new(#key, &[#(#entries),*]);

        #(#cfg_attributes)*
        struct #methods;
    }
}

/// For each method the descriptor, and a type that connects it with arguments and result.
pub(super) fn methods(service: &Service) -> TokenStream {
    let holder = &service.names.methods;
    let constants = service.methods.iter().map(|method| descriptor(service, method));
    let types = service.methods.iter().map(|method| method_type(service, method));
    generated! {
        impl #holder {
            #(#constants)*
        }
        #(#types)*
    }
}

fn key(service: &Service) -> TokenStream {
    let runtime = &service.options.runtime;
    let name = service.wire_name();
    let (version, group) = (&service.options.version, &service.options.group);
    generated!(#runtime::ServiceKey::new(#name, #version, #group))
}

/// `const hello: &'static MethodDescriptor = …;`
fn descriptor(service: &Service, method: &Method) -> TokenStream {
    let runtime = &service.options.runtime;
    let Method { cfg_attributes, options, .. } = method;
    let constant = method.constant();
    let key = key(service);
    let name = method.wire_name();
    let arguments = method.arguments.iter().map(|argument| {
        let (name, ty) = (argument.wire_name(), type_name(&argument.ty));
        generated!(#runtime::ArgumentDescriptor::new(#name, #ty))
    });
    let returns = type_name(&method.output);
    let idempotent = options.idempotent.then(|| generated!(.idempotent()));
    let oneway = options.oneway.then(|| generated!(.oneway()));
    let timeout = options.timeout_ms.map(|ms| generated!(.timeout_ms(#ms)));
    let dispatch = options.dispatch.map(|mode| {
        let mode = match mode {
            Dispatch::Inline => generated!(Inline),
            Dispatch::Spawn => generated!(Spawn),
            Dispatch::Blocking => generated!(Blocking),
        };
        generated!(.dispatch(#runtime::Dispatch::#mode))
    });
    generated! {
        #(#cfg_attributes)*
        const #constant: &'static #runtime::MethodDescriptor =
            &#runtime::MethodDescriptor::new(#key, #name, &[#(#arguments),*], #returns)
                #idempotent #oneway #timeout #dispatch;
    }
}

/// The type of a method. It has braces, since a unit struct is also a value that an argument
/// pattern could match. The bounds of the runtime on arguments and result are checked only here, so
/// a type without them leads to one error, at the user's token.
fn method_type(service: &Service, method: &Method) -> TokenStream {
    let runtime = &service.options.runtime;
    let holder = &service.names.methods;
    let Method { cfg_attributes, output, .. } = method;
    let constant = method.constant();
    let ty = method.type_name();
    let arguments = method.arguments.iter().map(|Argument { ty, defaulted, .. }| {
        if *defaulted {
            quote_spanned!(ty.span()=> #runtime::__private::Defaulted<#ty>)
        } else {
            quote!(#ty)
        }
    });
    let arguments = quote_spanned!(method.arguments_span=> (#(#arguments,)*));
    let (impl_generics, type_generics, where_clause) = service.contract.generics.split_for_impl();
    let parameters = generics::without_bounds(&service.contract.generics);
    let marker =
        generics::phantom(&service.contract.generics).map(|phantom| generated!(__marker: #phantom));
    let oneway = method.options.oneway.then(|| {
        // At the return type, which does not meet the bound of `Oneway`.
        let span = Span::mixed_site().located_at(output.span());
        let runtime = located_at(span, runtime);
        quote_spanned! {span=>
            #(#cfg_attributes)*
            impl #impl_generics #runtime::__private::Oneway for #ty #type_generics #where_clause {}
        }
    });
    generated! {
        #(#cfg_attributes)*
        struct #ty #parameters { #marker }

        #(#cfg_attributes)*
        impl #impl_generics #runtime::__private::Method for #ty #type_generics #where_clause {
            const DESCRIPTOR: &'static #runtime::MethodDescriptor = #holder::#constant;
            type Arguments = #arguments;
            type Outcome = #output;
        }
        #oneway
    }
}

/// The path with another location in errors.
fn located_at(span: Span, path: &TokenStream) -> TokenStream {
    let move_token = |mut token: TokenTree| {
        token.set_span(token.span().located_at(span));
        token
    };
    path.clone().into_iter().map(move_token).collect()
}
