//! Old and new versions of a type, each calling each: a field is what was sent in it, or its
//! default, or the call fails. It never has another field's value.
#![allow(missing_docs, dead_code)]

use std::future::Future;
use std::pin::Pin;

use rpc_runtime::{Client, Encoding, Result, Server, ServerBuilder};
use rpc_tests::waiting::soon;

/// The value of the field or variant with this name, wherever it is.
const fn mark(name: char) -> u8 {
    // Of one byte as MessagePack, and of no other name.
    name as u8
}

/// What is wrong with a value, by its `Debug`: a number that is neither 0 nor the mark of the name
/// in front of it.
fn misread(value: &impl std::fmt::Debug) -> Option<String> {
    let text = format!("{value:?}");
    let mut name = None;
    for word in text.split(|c: char| !c.is_ascii_alphanumeric()) {
        match word.parse::<u64>() {
            Ok(0) => {}
            Ok(number) if name.is_some_and(|name| u64::from(mark(name)) == number) => {}
            Ok(_) => return Some(text),
            Err(_) if word.len() == 1 => name = word.chars().next(),
            Err(_) => {}
        }
    }
    None
}

type Called<'c> = Pin<Box<dyn Future<Output = Vec<Result<()>>> + 'c>>;

/// One version of a contract, as provider and as consumer.
struct Version {
    name: &'static str,
    provide: fn(ServerBuilder) -> ServerBuilder,
    /// Calls with each of its values.
    call: fn(Client, Encoding) -> Called<'static>,
}

macro_rules! version {
    ($module:ident: [$($value:expr),+ $(,)?] $($item:item)*) => {
        mod $module {
            #[allow(unused_imports)]
            use std::collections::BTreeMap;
            #[allow(unused_imports)]
            use serde::{Deserialize, Serialize};
            use rpc_runtime::{Client, Encoding, RpcError, ServerBuilder};
            #[allow(unused_imports)]
            use super::{mark, misread};

            $($item)*

            #[rpc_runtime::rpc_service]
            pub trait Echo {
                async fn echo(&self, value: Value) -> rpc_runtime::Result<Value>;
                async fn many(&self, values: Vec<Value>, one: Option<Value>)
                    -> rpc_runtime::Result<Vec<Value>>;
            }

            struct Same;
            impl Echo for Same {
                async fn echo(&self, value: Value) -> rpc_runtime::Result<Value> {
                    match misread(&value) {
                        None => Ok(value),
                        Some(text) => Err(RpcError::internal(format!("misread: {text}"))),
                    }
                }
                async fn many(&self, mut values: Vec<Value>, one: Option<Value>)
                    -> rpc_runtime::Result<Vec<Value>> {
                    values.extend(one);
                    match misread(&values) {
                        None => Ok(values),
                        Some(text) => Err(RpcError::internal(format!("misread: {text}"))),
                    }
                }
            }

            pub fn provide(server: ServerBuilder) -> ServerBuilder {
                server.provide(EchoServer::new(Same))
            }

            pub fn call(client: Client, encoding: Encoding) -> super::Called<'static> {
                Box::pin(async move {
                    let echo = EchoClient::new(client).with_encoding(encoding);
                    let mut outcomes = Vec::new();
                    let check = |back: Option<String>| match back {
                        None => Ok(()),
                        Some(text) => Err(RpcError::internal(format!("misread: {text}"))),
                    };
                    for value in [$($value),+] {
                        let back = echo.echo(value.clone()).await;
                        outcomes.push(back.and_then(|back| check(misread(&back))));
                        let back = echo.many(vec![value.clone(), value.clone()], Some(value)).await;
                        outcomes.push(back.and_then(|back| check(misread(&back))));
                    }
                    outcomes
                })
            }
        }
    };
}

macro_rules! versions {
    ($($module:ident),+ $(,)?) => {
        [$(Version {
            name: stringify!($module),
            provide: $module::provide,
            call: $module::call,
        }),+]
    };
}

version! { first: [Value { a: mark('a').into(), b: mark('b').into() }]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Value { a: u32, b: u32 } }

version! { skipping: [
    Value { a: Some(mark('a')), b: Some(mark('b')), c: None },
    Value { a: None, b: Some(mark('b')), c: Some(mark('c')) },
    Value { a: Some(mark('a')), b: None, c: None },
    Value { a: None, b: None, c: None }]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Value {
    #[serde(default, skip_serializing_if = "Option::is_none")] a: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")] b: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")] c: Option<u8>,
} }

version! { skipping_zero: [
    Value { a: 0, b: mark('b'), c: mark('c') },
    Value { a: mark('a'), b: mark('b'), c: 0 }]
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Value {
    #[serde(skip_serializing_if = "zero")] a: u8,
    b: u8,
    #[serde(skip_serializing_if = "zero")] c: u8,
}
fn zero(n: &u8) -> bool { *n == 0 } }

version! { swapped: [Value { b: mark('b').into(), a: mark('a').into() }]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Value { b: u64, a: i64 } }

version! { added: [
    Value { a: mark('a'), b: mark('b'), c: Some(mark('c')) },
    Value { a: mark('a'), b: mark('b'), c: None }]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Value { a: u8, b: u8, c: Option<u8> } }

version! { between: [Value { a: mark('a'), c: mark('c'), b: mark('b') }]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Value { a: u8, #[serde(default)] c: u8, b: u8 } }

version! { flat: [Value { a: mark('a'), rest: Rest { b: mark('b'), c: mark('c') } }]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Value { a: u8, #[serde(flatten)] rest: Rest }
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rest { b: u8, #[serde(default)] c: u8 } }

version! { flat_map: [
    Value { c: 0, rest: [("a".into(), mark('a')), ("b".into(), mark('b'))].into() }]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Value { #[serde(default)] c: u8, #[serde(flatten)] rest: BTreeMap<String, u8> } }

version! { map: [Value([("a".into(), mark('a')), ("b".into(), mark('b'))].into())]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Value(BTreeMap<String, u8>); }

version! { untagged: [
    Value::One { a: mark('a'), b: mark('b') },
    Value::Two { b: mark('b') },
    Value::Three { c: mark('c') }]
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value { One { a: u8, b: u8 }, Two { b: u8 }, Three { c: u8 } } }

version! { converted: [Value { b: mark('b'), a: mark('a') }]
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "In", into = "Out")]
pub struct Value { b: u8, a: u8 }
#[derive(Deserialize)]
pub struct In { a: u8, b: u8 }
#[derive(Serialize)]
pub struct Out { b: u8, a: u8 }
impl From<In> for Value { fn from(v: In) -> Self { Self { a: v.a, b: v.b } } }
impl From<Value> for Out { fn from(v: Value) -> Self { Self { a: v.a, b: v.b } } } }

version! { one_way: [Value { a: mark('a'), b: mark('b'), c: mark('c') }]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Value {
    #[serde(skip_deserializing, default)] c: u8,
    a: u8,
    #[serde(skip_serializing, default)] b: u8,
} }

version! { strict: [Value { a: mark('a') }]
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Value { a: u8 } }

version! { nested: [
    Value { a: mark('a'), b: mark('b'), inner: None },
    Value { a: mark('a'), b: mark('b'), inner: Some(Box::new(
        Value { a: mark('a'), b: mark('b'), inner: None })) }]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Value {
    a: u8, b: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")] inner: Option<Box<Value>>,
} }

version! { enum_first: [
    Value::A(mark('A')),
    Value::B(mark('B')),
    Value::C { a: mark('a'), b: mark('b') },
    Value::D(mark('D'), 0),
    Value::E]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Value { A(u8), B(u8), C { a: u8, b: u8 }, D(u8, u8), E } }

version! { enum_reordered: [Value::A(mark('A').into()), Value::B(Some(mark('B').into())),
    Value::C { b: mark('b'), a: mark('a') }, Value::E, Value::D(mark('D'), mark('D'))]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Value { E, D(u8, u8), C { b: u8, a: u8 }, B(Option<u64>), A(u64) } }

version! { enum_grown: [Value::A(mark('A')), Value::F(mark('F')),
    Value::C { a: None, c: mark('c'), b: mark('b') },
    Value::C { a: Some(mark('a')), c: mark('c'), b: mark('b') }, Value::D(mark('D'))]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Value {
    F(u8), A(u8),
    C {
        #[serde(default, skip_serializing_if = "Option::is_none")] a: Option<u8>,
        #[serde(default)] c: u8, b: u8
    },
    D(u8), B,
    #[serde(other)] Unknown,
} }

version! { enum_tagged: [Value::C { a: mark('a'), b: mark('b') }, Value::E]
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum Value { C { a: u8, b: u8 }, E } }

version! { enum_adjacent: [Value::A(mark('A')), Value::C { a: mark('a'), b: mark('b') }, Value::E]
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "t", content = "v")]
pub enum Value { A(u8), C { b: u8, a: u8 }, E } }

#[tokio::test]
async fn a_field_is_what_was_sent_in_it_or_its_default_or_the_call_fails() {
    let versions = versions![
        first,
        skipping,
        skipping_zero,
        swapped,
        added,
        between,
        flat,
        flat_map,
        map,
        untagged,
        converted,
        one_way,
        strict,
        nested,
        enum_first,
        enum_reordered,
        enum_grown,
        enum_tagged,
        enum_adjacent,
    ];
    let mut wrong = Vec::new();
    let (mut right, mut refused) = (0, 0);
    for provider in &versions {
        let uri = format!("memory:versions-{}", provider.name);
        let server = (provider.provide)(Server::builder()).bind(uri).await.unwrap();
        for consumer in &versions {
            for encoding in [Encoding::ByContract, Encoding::Named] {
                let client = Client::builder().connect(server.local_uri()).await.unwrap();
                let outcomes = soon("the calls", (consumer.call)(client, encoding)).await;
                let own = consumer.name == provider.name;
                for (number, outcome) in outcomes.into_iter().enumerate() {
                    let place = || {
                        format!("{} to {}, {encoding:?}, {number}", consumer.name, provider.name)
                    };
                    match outcome {
                        Ok(()) => right += 1,
                        Err(error) if error.is_decode() && !own => refused += 1,
                        Err(error) => wrong.push(format!("{}: {error}", place())),
                    }
                }
            }
        }
    }
    assert!(right > 300 && refused > 100, "{right} right, {refused} refused");
    assert!(wrong.is_empty(), "{} of {right}+{refused}:\n{}", wrong.len(), wrong.join("\n"));
}
