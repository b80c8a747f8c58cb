// The expansion of `#[rpc_service]` on:
//
//     /// Greets.
//     pub trait HelloService {
//         /// Greets `name`.
//         async fn hello(&self, name: String) -> rpc_runtime::Result<String>;
//     }
//
// Rewritten by `RPC_BLESS=1 cargo test -p rpc-macros`.

/// Greets.
pub trait HelloService: ::core::marker::Send + ::core::marker::Sync + 'static {
    /// Greets `name`.
    fn hello(
        &self,
        name: String,
    ) -> impl ::core::future::Future<
        Output = rpc_runtime::Result<String>,
    > + ::core::marker::Send;
}
/// The descriptor of `HelloService`: its methods and their arguments.
pub const HELLO_SERVICE_DESCRIPTOR: ::rpc_runtime::ServiceDescriptor = ::rpc_runtime::ServiceDescriptor::new(
    ::rpc_runtime::ServiceKey::new("HelloService", "1.0.0", ""),
    &[__HelloServiceMethods::hello],
);
struct __HelloServiceMethods;
/// A client stub of `HelloService`, which implements the trait by remote calls. Clones are cheap and share the connections.
pub struct HelloServiceClient {
    __client: ::rpc_runtime::Client,
}
/// The dispatcher of `HelloService`, which serves an implementation. Clones share the implementation.
pub struct HelloServiceServer<__S> {
    __service: ::std::sync::Arc<__S>,
}
const _: () = {
    impl __HelloServiceMethods {
        const hello: &'static ::rpc_runtime::MethodDescriptor = &::rpc_runtime::MethodDescriptor::new(
            ::rpc_runtime::ServiceKey::new("HelloService", "1.0.0", ""),
            "hello",
            &[::rpc_runtime::ArgumentDescriptor::new("name", "String")],
            "rpc_runtime::Result<String>",
        );
    }
    struct __method_hello {}
    impl ::rpc_runtime::__private::Method for __method_hello {
        const DESCRIPTOR: &'static ::rpc_runtime::MethodDescriptor = __HelloServiceMethods::hello;
        type Arguments = (String,);
        type Outcome = rpc_runtime::Result<String>;
    }
    impl HelloServiceClient {
        /// A stub that calls through `client`.
        pub fn new(client: ::rpc_runtime::Client) -> Self {
            Self { __client: client }
        }
        /// Connects to the provider at `uri`, such as `tcp://127.0.0.1:9000`.
        pub async fn connect(
            uri: impl ::core::convert::AsRef<::core::primitive::str>,
        ) -> ::rpc_runtime::Result<Self> {
            let uri = ::core::convert::AsRef::as_ref(&uri);
            let client = ::rpc_runtime::__private::connect(
                    uri,
                    &HELLO_SERVICE_DESCRIPTOR,
                )
                .await?;
            ::core::result::Result::Ok(Self::new(client))
        }
        /// Finds the providers in `registry`, and follows its changes.
        pub async fn discover(
            registry: ::std::sync::Arc<dyn ::rpc_runtime::__private::Registry>,
        ) -> ::rpc_runtime::Result<Self> {
            let client = ::rpc_runtime::__private::discover(
                    registry,
                    &HELLO_SERVICE_DESCRIPTOR,
                )
                .await?;
            ::core::result::Result::Ok(Self::new(client))
        }
        /// Returns a stub with this timeout for each call.
        #[must_use]
        pub fn with_timeout(&self, timeout: ::core::time::Duration) -> Self {
            Self::new(::rpc_runtime::Client::with_timeout(&self.__client, timeout))
        }
        /// Returns a stub with this encoding of structs.
        #[must_use]
        pub fn with_encoding(&self, encoding: ::rpc_runtime::Encoding) -> Self {
            Self::new(::rpc_runtime::Client::with_encoding(&self.__client, encoding))
        }
        /// Returns a stub whose calls wait for a connection, or fail without one if `wait` is
        /// `false`.
        #[must_use]
        pub fn with_wait_for_ready(&self, wait: ::core::primitive::bool) -> Self {
            Self::new(::rpc_runtime::Client::with_wait_for_ready(&self.__client, wait))
        }
        /// The same stub, whose calls pass through one more interceptor, the innermost.
        #[must_use]
        pub fn with_interceptor(
            &self,
            interceptor: impl ::rpc_runtime::Interceptor,
        ) -> Self {
            Self::new(
                ::rpc_runtime::Client::with_interceptor(&self.__client, interceptor),
            )
        }
        /// Returns a stub that adds this entry to the metadata of each call.
        #[must_use]
        pub fn with_metadata(
            &self,
            key: impl ::core::convert::Into<::std::string::String>,
            value: impl ::core::convert::Into<::std::string::String>,
        ) -> Self {
            Self::new(::rpc_runtime::Client::with_metadata(&self.__client, key, value))
        }
    }
    impl HelloService for HelloServiceClient {
        fn hello(
            &self,
            name: String,
        ) -> impl ::core::future::Future<
            Output = rpc_runtime::Result<String>,
        > + ::core::marker::Send {
            ::rpc_runtime::__private::call::<__method_hello>(&self.__client, (name,))
        }
    }
    impl ::core::clone::Clone for HelloServiceClient {
        fn clone(&self) -> Self {
            Self::new(::core::clone::Clone::clone(&self.__client))
        }
    }
    impl ::core::fmt::Debug for HelloServiceClient {
        fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
            f.debug_tuple("HelloServiceClient").field(&self.__client).finish()
        }
    }
    impl ::core::convert::AsRef<::rpc_runtime::Client> for HelloServiceClient {
        fn as_ref(&self) -> &::rpc_runtime::Client {
            &self.__client
        }
    }
    impl<__S> HelloServiceServer<__S>
    where
        __S: HelloService,
    {
        /// A dispatcher for `service`.
        pub fn new(service: __S) -> Self {
            Self::from_arc(::std::sync::Arc::new(service))
        }
        /// A dispatcher for `service`, which may be shared.
        pub fn from_arc(service: ::std::sync::Arc<__S>) -> Self {
            Self { __service: service }
        }
    }
    /// The method ids as constants, for a `match`.
    struct __Ids;
    impl __Ids {
        const hello: ::core::primitive::u64 = __HelloServiceMethods::hello.id();
    }
    impl<__S> ::rpc_runtime::Service for HelloServiceServer<__S>
    where
        __S: HelloService,
    {
        fn descriptor(&self) -> &'static ::rpc_runtime::ServiceDescriptor {
            &HELLO_SERVICE_DESCRIPTOR
        }
        fn fingerprints(
            &self,
        ) -> ::std::vec::Vec<(::core::primitive::u64, ::core::primitive::u64)> {
            ::core::convert::From::from([
                ::rpc_runtime::__private::fingerprint_of::<__method_hello>(),
            ])
        }
        fn dispatch(
            &self,
            request: ::rpc_runtime::Request<'_>,
        ) -> ::rpc_runtime::Dispatched {
            match request.method_id() {
                __Ids::hello => {
                    let service = ::core::clone::Clone::clone(&self.__service);
                    ::rpc_runtime::__private::unary::<
                        __method_hello,
                        _,
                        _,
                    >(
                        request,
                        move |(name,)| async move {
                            <__S as HelloService>::hello(&service, name).await
                        },
                    )
                }
                _ => ::rpc_runtime::__private::unknown_method(request),
            }
        }
    }
    impl<__S> ::core::clone::Clone for HelloServiceServer<__S> {
        fn clone(&self) -> Self {
            Self {
                __service: ::core::clone::Clone::clone(&self.__service),
            }
        }
    }
    impl<__S> ::core::fmt::Debug for HelloServiceServer<__S> {
        fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
            f.debug_struct("HelloServiceServer").finish_non_exhaustive()
        }
    }
};
