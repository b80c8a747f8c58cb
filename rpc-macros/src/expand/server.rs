//! The dispatcher: `HelloServiceServer`, which takes requests to the user's implementation.

use proc_macro2::{Span, TokenStream};
use quote::format_ident;
use syn::{Generics, Ident};

use super::generics;
use crate::ast::{Argument, Method, Service};

/// The type, next to the trait.
pub(super) fn structure(service: &Service) -> TokenStream {
    let vis = &service.contract.vis;
    let cfgs = &service.cfgs;
    let server = &service.names.server;
    let provider = provider();
    let parameters = generics::unbounded(&with_provider(service));
    let marker = generics::phantom(&service.contract.generics)
        .map(|phantom| generated!(__marker: #phantom,));
    let docs = format!(
        " Serves an implementation of `{}`. Clones share the implementation.",
        service.contract.ident
    );
    generated! {
        #[doc = #docs]
        #(#cfgs)*
        #vis struct #server #parameters {
            __service: ::std::sync::Arc<#provider>,
            #marker
        }
    }
}

/// What it can do.
pub(super) fn implementations(service: &Service) -> TokenStream {
    let inherent = inherent(service);
    let dispatch = dispatch(service);
    let common = common_traits(service);
    generated!(#inherent #dispatch #common)
}

fn inherent(service: &Service) -> TokenStream {
    let vis = &service.contract.vis;
    let server = &service.names.server;
    let provider = provider();
    let bound = provider_bound(service);
    let parameters = with_provider(service);
    let (impl_generics, type_generics, where_clause) = parameters.split_for_impl();
    let predicates = where_clause.map(|clause| &clause.predicates);
    let marker = generics::phantom(&service.contract.generics)
        .map(|_| generated!(__marker: ::core::marker::PhantomData,));
    generated! {
        impl #impl_generics #server #type_generics
        where
            #bound,
            #predicates
        {
            /// Serves `service`.
            #vis fn new(service: #provider) -> Self {
                Self::from_arc(::std::sync::Arc::new(service))
            }

            /// Serves `service`, which may be in use elsewhere too.
            #vis fn from_arc(service: ::std::sync::Arc<#provider>) -> Self {
                Self { __service: service, #marker }
            }
        }
    }
}

fn dispatch(service: &Service) -> TokenStream {
    let runtime = &service.options.runtime;
    let server = &service.names.server;
    let descriptor = &service.names.descriptor;
    let holder = &service.names.methods;
    let bound = provider_bound(service);
    let parameters = with_provider(service);
    let (impl_generics, type_generics, where_clause) = parameters.split_for_impl();
    let predicates = where_clause.map(|clause| &clause.predicates);
    let ids = service.methods.iter().map(|method| {
        let (cfgs, constant) = (&method.cfgs, method.constant());
        generated!(#(#cfgs)* const #constant: ::core::primitive::u64 = #holder::#constant.id();)
    });
    let fingerprints = service.methods.iter().map(|method| {
        let (cfgs, ty) = (&method.cfgs, method.type_name());
        let (_, type_generics, _) = service.contract.generics.split_for_impl();
        generated!(#(#cfgs)* #runtime::__private::fingerprint_of::<#ty #type_generics>())
    });
    let arms = service.methods.iter().map(|method| arm(service, method));
    generated! {
        /// The method ids as constants, which a `match` can be made of.
        struct __Ids;

        impl __Ids {
            #(#ids)*
        }

        impl #impl_generics #runtime::Service for #server #type_generics
        where
            #bound,
            #predicates
        {
            fn descriptor(&self) -> &'static #runtime::ServiceDescriptor {
                &#descriptor
            }

            fn fingerprints(
                &self,
            ) -> ::std::vec::Vec<(::core::primitive::u64, ::core::primitive::u64)> {
                ::core::convert::From::from([#(#fingerprints),*])
            }

            fn dispatch(&self, request: #runtime::Request<'_>) -> #runtime::Dispatched {
                match request.method_id() {
                    #(#arms)*
                    _ => #runtime::__private::unknown_method(request),
                }
            }
        }
    }
}

fn arm(service: &Service, method: &Method) -> TokenStream {
    let runtime = &service.options.runtime;
    let contract = &service.contract.ident;
    let provider = provider();
    let Method { ident, cfgs, .. } = method;
    let (ty, constant) = (method.type_name(), method.constant());
    let (_, type_generics, _) = service.contract.generics.split_for_impl();
    let names = method.arguments.iter().map(|argument| &argument.ident);
    let patterns = method.arguments.iter().map(|Argument { ident, defaulted, .. }| {
        if *defaulted {
            generated!(#runtime::__private::Defaulted(#ident))
        } else {
            generated!(#ident)
        }
    });
    generated! {
        #(#cfgs)*
        __Ids::#constant => {
            let service = ::core::clone::Clone::clone(&self.__service);
            #runtime::__private::unary::<#ty #type_generics, _, _>(
                request,
                move |(#(#patterns,)*)| async move {
                    <#provider as #contract #type_generics>::#ident(&service, #(#names),*).await
                },
            )
        }
    }
}

/// Written out, since derived ones would ask the implementation for the same.
fn common_traits(service: &Service) -> TokenStream {
    let server = &service.names.server;
    let name = server.to_string();
    let parameters = generics::unbounded(&with_provider(service));
    let (impl_generics, type_generics, _) = parameters.split_for_impl();
    let marker = generics::phantom(&service.contract.generics)
        .map(|_| generated!(__marker: ::core::marker::PhantomData,));
    generated! {
        impl #impl_generics ::core::clone::Clone for #server #type_generics {
            fn clone(&self) -> Self {
                Self { __service: ::core::clone::Clone::clone(&self.__service), #marker }
            }
        }

        impl #impl_generics ::core::fmt::Debug for #server #type_generics {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.debug_struct(#name).finish_non_exhaustive()
            }
        }
    }
}

/// The implementation's type. Underscores, since a type parameter hides a type of the user's.
fn provider() -> Ident {
    format_ident!("__S", span = Span::mixed_site())
}

fn with_provider(service: &Service) -> Generics {
    generics::with_provider(&service.contract.generics, &provider())
}

fn provider_bound(service: &Service) -> TokenStream {
    let contract = &service.contract.ident;
    let provider = provider();
    let (_, type_generics, _) = service.contract.generics.split_for_impl();
    generated!(#provider: #contract #type_generics)
}
