//! The client stub `HelloServiceClient`, which implements the trait by remote calls.

use proc_macro2::TokenStream;
use syn::visit::Visit;
use syn::{FnArg, Pat, ReturnType, TraitItem, TraitItemFn, TypeImplTrait};

use super::{contract, generics};
use crate::ast::{Argument, Method, Service};

/// The struct, in the module of the trait.
pub(super) fn structure(service: &Service) -> TokenStream {
    let vis = &service.contract.vis;
    let cfg_attributes = &service.cfg_attributes;
    let runtime = &service.options.runtime;
    let client = &service.names.client;
    let parameters = generics::without_bounds(&service.contract.generics);
    let marker = generics::phantom(&service.contract.generics)
        .map(|phantom| generated!(__marker: #phantom,));
    let docs = format!(
        " A client stub of `{}`, which implements the trait by remote calls. Clones are cheap \
        and share the connections.",
        service.contract.ident
    );
    generated! {
        #[doc = #docs]
        #(#cfg_attributes)*
        #vis struct #client #parameters {
            __client: #runtime::Client,
            #marker
        }
    }
}

/// The implementations.
pub(super) fn implementations(service: &Service) -> TokenStream {
    let inherent = inherent(service);
    let contract = contract_implementation(service);
    let common = standard_traits(service);
    generated!(#inherent #contract #common)
}

fn inherent(service: &Service) -> TokenStream {
    let vis = &service.contract.vis;
    let runtime = &service.options.runtime;
    let client = &service.names.client;
    let descriptor = &service.names.descriptor;
    let parameters = generics::without_bounds(&service.contract.generics);
    let (impl_generics, type_generics, _) = parameters.split_for_impl();
    let marker = marker(service);
    generated! {
        impl #impl_generics #client #type_generics {
            /// A stub that calls through `client`.
            #vis fn new(client: #runtime::Client) -> Self {
                Self { __client: client, #marker }
            }

            /// Connects to the provider at `uri`, such as `tcp://127.0.0.1:9000`.
            #vis async fn connect(
                uri: impl ::core::convert::AsRef<::core::primitive::str>,
            ) -> #runtime::Result<Self> {
                let uri = ::core::convert::AsRef::as_ref(&uri);
                let client = #runtime::__private::connect(uri, &#descriptor).await?;
                ::core::result::Result::Ok(Self::new(client))
            }

            /// Finds the providers in `registry`, and follows its changes.
            #vis async fn discover(
                registry: ::std::sync::Arc<dyn #runtime::__private::Registry>,
            ) -> #runtime::Result<Self> {
                let client = #runtime::__private::discover(registry, &#descriptor).await?;
                ::core::result::Result::Ok(Self::new(client))
            }

            /// Returns a stub with this timeout for each call.
            #[must_use]
            #vis fn with_timeout(&self, timeout: ::core::time::Duration) -> Self {
                Self::new(#runtime::Client::with_timeout(&self.__client, timeout))
            }

            /// Returns a stub with this encoding of structs.
            #[must_use]
            #vis fn with_encoding(&self, encoding: #runtime::Encoding) -> Self {
                Self::new(#runtime::Client::with_encoding(&self.__client, encoding))
            }

            /// Returns a stub whose calls wait for a connection, or fail without one if `wait` is
            /// `false`.
            #[must_use]
            #vis fn with_wait_for_ready(&self, wait: ::core::primitive::bool) -> Self {
                Self::new(#runtime::Client::with_wait_for_ready(&self.__client, wait))
            }

            /// The same stub, whose calls pass through one more interceptor, the innermost.
            #[must_use]
            #vis fn with_interceptor(&self, interceptor: impl #runtime::Interceptor) -> Self {
                Self::new(#runtime::Client::with_interceptor(&self.__client, interceptor))
            }

            /// Returns a stub that adds this entry to the metadata of each call.
            #[must_use]
            #vis fn with_metadata(
                &self,
                key: impl ::core::convert::Into<::std::string::String>,
                value: impl ::core::convert::Into<::std::string::String>,
            ) -> Self {
                Self::new(#runtime::Client::with_metadata(&self.__client, key, value))
            }
        }
    }
}

fn contract_implementation(service: &Service) -> Option<TokenStream> {
    if !can_implement(service) {
        return None;
    }
    let contract = &service.contract.ident;
    let client = &service.names.client;
    let (impl_generics, type_generics, where_clause) = service.contract.generics.split_for_impl();
    let calls = service.methods.iter().map(|method| call(service, method));
    let placeholders = service.invalid.iter().map(placeholder);
    Some(generated! {
        impl #impl_generics #contract #type_generics for #client #type_generics #where_clause {
            #(#calls)*
            #(#placeholders)*
        }
    })
}

/// The stub of a remote method, which calls the runtime.
fn call(service: &Service, method: &Method) -> TokenStream {
    let runtime = &service.options.runtime;
    let Method { ident, cfg_attributes, output, .. } = method;
    let ty = method.type_name();
    let (_, type_generics, _) = service.contract.generics.split_for_impl();
    let names = method.arguments.iter().map(|argument| &argument.ident);
    let types = method.arguments.iter().map(|argument| &argument.ty);
    let values = method.arguments.iter().map(|Argument { ident, defaulted, .. }| {
        if *defaulted {
            generated!(#runtime::__private::Defaulted(#ident))
        } else {
            generated!(#ident)
        }
    });
    let function = if method.options.oneway { generated!(notify) } else { generated!(call) };
    generated! {
        #(#cfg_attributes)*
        fn #ident(
            &self,
            #(#names: #types),*
        ) -> impl ::core::future::Future<Output = #output> + ::core::marker::Send {
            #runtime::__private::#function::<#ty #type_generics>(&self.__client, (#(#values,)*))
        }
    }
}

/// A stub for a method with errors, so that its callers get no errors.
fn placeholder(function: &TraitItemFn) -> TokenStream {
    let mut signature = contract::signature(&function.sig);
    for input in &mut signature.inputs {
        if let FnArg::Typed(typed) = input {
            *typed.pat = Pat::Verbatim(generated!(_));
        }
    }
    let cfg_attributes = crate::attr::cfg_attributes(&function.attrs);
    let body = match function.sig.asyncness {
        Some(_) => generated!(async { ::core::unimplemented!() }),
        None => generated!(::core::unimplemented!()),
    };
    generated!(#(#cfg_attributes)* #signature { #body })
}

/// Whether the trait can be implemented. Only a trait with errors cannot.
fn can_implement(service: &Service) -> bool {
    let contract = &service.contract;
    contract.unsafety.is_none()
        && contract.items.iter().all(|item| matches!(item, TraitItem::Fn(_)))
        && !service.invalid.iter().any(|function| returns_impl_trait(&function.sig.output))
}

fn returns_impl_trait(output: &ReturnType) -> bool {
    struct Search(bool);
    impl Visit<'_> for Search {
        fn visit_type_impl_trait(&mut self, _: &TypeImplTrait) {
            self.0 = true;
        }
    }
    let mut search = Search(false);
    search.visit_return_type(output);
    search.0
}

/// Standard traits. Derived ones would require the same traits of the parameters.
fn standard_traits(service: &Service) -> TokenStream {
    let runtime = &service.options.runtime;
    let client = &service.names.client;
    let name = client.to_string();
    let parameters = generics::without_bounds(&service.contract.generics);
    let (impl_generics, type_generics, _) = parameters.split_for_impl();
    generated! {
        impl #impl_generics ::core::clone::Clone for #client #type_generics {
            fn clone(&self) -> Self {
                Self::new(::core::clone::Clone::clone(&self.__client))
            }
        }

        impl #impl_generics ::core::fmt::Debug for #client #type_generics {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.debug_tuple(#name).field(&self.__client).finish()
            }
        }

        impl #impl_generics ::core::convert::AsRef<#runtime::Client> for #client #type_generics {
            fn as_ref(&self) -> &#runtime::Client {
                &self.__client
            }
        }
    }
}

fn marker(service: &Service) -> Option<TokenStream> {
    generics::phantom(&service.contract.generics)
        .map(|_| generated!(__marker: ::core::marker::PhantomData,))
}
