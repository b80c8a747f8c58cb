//! The dispatcher `HelloServiceServer`, which passes requests to the user's implementation.

use proc_macro2::{Span, TokenStream};
use quote::format_ident;
use syn::{Generics, Ident};

use super::generics;
use crate::ast::{Argument, Method, Service};

/// The struct, in the module of the trait.
pub(super) fn structure(service: &Service) -> TokenStream {
    let vis = &service.contract.vis;
    let cfg_attributes = &service.cfg_attributes;
    let server = &service.names.server;
    let provider = provider();
    let parameters = generics::without_bounds(&with_provider(service));
    let marker = generics::phantom(&service.contract.generics)
        .map(|phantom| generated!(__marker: #phantom,));
    let docs = format!(
        " The dispatcher of `{}`, which serves an implementation. Clones share the implementation.",
        service.contract.ident
    );
    generated! {
        #[doc = #docs]
        #(#cfg_attributes)*
        #vis struct #server #parameters {
            __service: ::std::sync::Arc<#provider>,
            #marker
        }
    }
}

/// The implementations.
pub(super) fn implementations(service: &Service) -> TokenStream {
    let inherent = inherent(service);
    let dispatch = dispatch(service);
    let common = standard_traits(service);
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
            /// A dispatcher for `service`.
            #vis fn new(service: #provider) -> Self {
                Self::from_arc(::std::sync::Arc::new(service))
            }

            /// A dispatcher for `service`, which may be shared.
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
        let (cfg_attributes, constant) = (&method.cfg_attributes, method.constant());
        generated!(#(#cfg_attributes)* const #constant: ::core::primitive::u64 = #holder::#constant.id();)
    });
    let fingerprints = service.methods.iter().map(|method| {
        let (cfg_attributes, ty) = (&method.cfg_attributes, method.type_name());
        let (_, type_generics, _) = service.contract.generics.split_for_impl();
        generated!(#(#cfg_attributes)* #runtime::__private::fingerprint_of::<#ty #type_generics>())
    });
    let arms = service.methods.iter().map(|method| arm(service, method));
    generated! {
        /// The method ids as constants, for a `match`.
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
    let Method { ident, cfg_attributes, .. } = method;
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
        #(#cfg_attributes)*
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

/// Standard traits. Derived ones would require the same traits of the implementation.
fn standard_traits(service: &Service) -> TokenStream {
    let server = &service.names.server;
    let name = server.to_string();
    let parameters = generics::without_bounds(&with_provider(service));
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

/// The type parameter of the implementation. The underscores avoid hiding a type of the user.
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
