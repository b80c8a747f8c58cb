//! What a service says about itself: its key, its methods, their arguments.

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;

use super::generics;
use super::type_name::type_name;
use crate::ast::{Argument, Method, Service};
use crate::attr::Dispatch;

/// `HELLO_SERVICE_DESCRIPTOR`, and the type whose constants are the parts of it. They hang on a
/// type so that they have the names of the methods and still collide with nothing.
pub(super) fn constant(service: &Service) -> TokenStream {
    let vis = &service.contract.vis;
    let cfgs = &service.cfgs;
    let runtime = &service.options.runtime;
    let descriptor = &service.names.descriptor;
    let methods = &service.names.methods;
    let entries = service.methods.iter().map(|method| {
        let (cfgs, constant) = (&method.cfgs, method.constant());
        generated!(#(#cfgs)* #methods::#constant)
    });
    let key = key(service);
    let docs =
        format!(" What `{}` offers: its methods and their arguments.", service.contract.ident);
    generated! {
        #[doc = #docs]
        #(#cfgs)*
        #vis const #descriptor: #runtime::ServiceDescriptor =
            #runtime::ServiceDescriptor::new(#key, &[#(#entries),*]);

        #(#cfgs)*
        struct #methods;
    }
}

/// For each method its descriptor, and the type that ties it to what goes in and comes out.
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
    let Method { cfgs, options, .. } = method;
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
        #(#cfgs)*
        const #constant: &'static #runtime::MethodDescriptor =
            &#runtime::MethodDescriptor::new(#key, #name, &[#(#arguments),*], #returns)
                #idempotent #oneway #timeout #dispatch;
    }
}

/// The method as a type, with braces so that it has no constructor that an argument of its name
/// could be taken for. The runtime's bounds on arguments and result are checked here and only
/// here, so a type that breaks one is one error, at the user's token.
fn method_type(service: &Service, method: &Method) -> TokenStream {
    let runtime = &service.options.runtime;
    let holder = &service.names.methods;
    let Method { cfgs, output, .. } = method;
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
    let parameters = generics::unbounded(&service.contract.generics);
    let marker =
        generics::phantom(&service.contract.generics).map(|phantom| generated!(__marker: #phantom));
    let oneway = method.options.oneway.then(|| {
        // All at the return type, which is what breaks the bound of `Oneway`.
        let span = Span::mixed_site().located_at(output.span());
        let runtime = located_at(span, runtime);
        quote_spanned! {span=>
            #(#cfgs)*
            impl #impl_generics #runtime::__private::Oneway for #ty #type_generics #where_clause {}
        }
    });
    generated! {
        #(#cfgs)*
        struct #ty #parameters { #marker }

        #(#cfgs)*
        impl #impl_generics #runtime::__private::Method for #ty #type_generics #where_clause {
            const DESCRIPTOR: &'static #runtime::MethodDescriptor = #holder::#constant;
            type Arguments = #arguments;
            type Outcome = #output;
        }
        #oneway
    }
}

/// The same names, shown elsewhere by errors.
fn located_at(span: Span, path: &TokenStream) -> TokenStream {
    let move_token = |mut token: TokenTree| {
        token.set_span(token.span().located_at(span));
        token
    };
    path.clone().into_iter().map(move_token).collect()
}
