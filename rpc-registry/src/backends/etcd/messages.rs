//! The messages of etcd's version 3 API that are used here, with the field numbers of `rpc.proto`
//! and `kv.proto` of etcd. Unused fields are left out.

use std::fmt;

use prost::{Enumeration, Message, Oneof};

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct ResponseHeader {
    #[prost(int64, tag = "3")]
    pub(super) revision: i64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct KeyValue {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub(super) mod_revision: i64,
    #[prost(bytes = "vec", tag = "5")]
    pub(super) value: Vec<u8>,
    #[prost(int64, tag = "6")]
    pub(super) lease: i64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    /// Up to this key, without it; empty for `key` alone.
    #[prost(bytes = "vec", tag = "2")]
    pub(super) range_end: Vec<u8>,
    #[prost(bool, tag = "8")]
    pub(super) keys_only: bool,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct RangeResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<ResponseHeader>,
    #[prost(message, repeated, tag = "2")]
    pub(super) kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub(super) lease: i64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct DeleteRangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct RequestOp {
    #[prost(oneof = "Operation", tags = "1, 2, 3")]
    pub(super) request: Option<Operation>,
}

#[derive(Clone, PartialEq, Eq, Oneof)]
pub(super) enum Operation {
    #[prost(message, tag = "1")]
    Range(RangeRequest),
    #[prost(message, tag = "2")]
    Put(PutRequest),
    #[prost(message, tag = "3")]
    Delete(DeleteRangeRequest),
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct ResponseOp {
    #[prost(oneof = "Outcome", tags = "1")]
    pub(super) response: Option<Outcome>,
}

/// The result of an operation. Only reads have one.
#[derive(Clone, PartialEq, Eq, Oneof)]
pub(super) enum Outcome {
    #[prost(message, tag = "1")]
    Range(RangeResponse),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Enumeration)]
#[repr(i32)]
pub(super) enum CompareResult {
    Equal = 0,
    Greater = 1,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Enumeration)]
#[repr(i32)]
pub(super) enum CompareTarget {
    Version = 0,
    Mod = 2,
    Lease = 4,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Compare {
    #[prost(enumeration = "CompareResult", tag = "1")]
    pub(super) result: i32,
    #[prost(enumeration = "CompareTarget", tag = "2")]
    pub(super) target: i32,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) key: Vec<u8>,
    #[prost(oneof = "Target", tags = "4, 6, 8")]
    pub(super) value: Option<Target>,
}

#[derive(Clone, Copy, PartialEq, Eq, Oneof)]
pub(super) enum Target {
    /// How often the key was written since its creation; 0 if it does not exist.
    #[prost(int64, tag = "4")]
    Version(i64),
    /// The revision of the last write.
    #[prost(int64, tag = "6")]
    Mod(i64),
    #[prost(int64, tag = "8")]
    Lease(i64),
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct TxnRequest {
    #[prost(message, repeated, tag = "1")]
    pub(super) compare: Vec<Compare>,
    #[prost(message, repeated, tag = "2")]
    pub(super) success: Vec<RequestOp>,
    #[prost(message, repeated, tag = "3")]
    pub(super) failure: Vec<RequestOp>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct TxnResponse {
    #[prost(bool, tag = "2")]
    pub(super) succeeded: bool,
    #[prost(message, repeated, tag = "3")]
    pub(super) responses: Vec<ResponseOp>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct LeaseGrantRequest {
    /// In seconds.
    #[prost(int64, tag = "1")]
    pub(super) ttl: i64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct LeaseGrantResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<ResponseHeader>,
    #[prost(int64, tag = "2")]
    pub(super) id: i64,
    /// In seconds; may be more than was asked for.
    #[prost(int64, tag = "3")]
    pub(super) ttl: i64,
    #[prost(string, tag = "4")]
    pub(super) error: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct LeaseRevokeRequest {
    #[prost(int64, tag = "1")]
    pub(super) id: i64,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct LeaseKeepAliveRequest {
    #[prost(int64, tag = "1")]
    pub(super) id: i64,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct LeaseKeepAliveResponse {
    /// In seconds; 0 if there is no such lease any more.
    #[prost(int64, tag = "3")]
    pub(super) ttl: i64,
}

/// A response without content.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct EmptyResponse {}

#[derive(Clone, PartialEq, Eq, Message)]
#[prost(skip_debug)]
pub(super) struct AuthenticateRequest {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) password: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
#[prost(skip_debug)]
pub(super) struct AuthenticateResponse {
    #[prost(string, tag = "2")]
    pub(super) token: String,
}

/// Without the password.
impl fmt::Debug for AuthenticateRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthenticateRequest").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Without the token.
impl fmt::Debug for AuthenticateResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthenticateResponse").finish_non_exhaustive()
    }
}

impl RequestOp {
    pub(super) fn read(key: &[u8]) -> Self {
        Self::of(Operation::Range(RangeRequest { key: key.to_vec(), ..RangeRequest::default() }))
    }

    pub(super) fn put(key: &[u8], value: Vec<u8>, lease: i64) -> Self {
        Self::of(Operation::Put(PutRequest { key: key.to_vec(), value, lease }))
    }

    pub(super) fn delete(key: &[u8]) -> Self {
        Self::of(Operation::Delete(DeleteRangeRequest { key: key.to_vec() }))
    }

    fn of(operation: Operation) -> Self {
        Self { request: Some(operation) }
    }
}

impl Compare {
    pub(super) fn is_absent(key: &[u8]) -> Self {
        Self::of(key, CompareTarget::Version, CompareResult::Equal, Target::Version(0))
    }

    pub(super) fn is_there(key: &[u8]) -> Self {
        Self::of(key, CompareTarget::Version, CompareResult::Greater, Target::Version(0))
    }

    pub(super) fn is_unchanged_since(key: &[u8], revision: i64) -> Self {
        Self::of(key, CompareTarget::Mod, CompareResult::Equal, Target::Mod(revision))
    }

    pub(super) fn belongs_to(key: &[u8], lease: i64) -> Self {
        Self::of(key, CompareTarget::Lease, CompareResult::Equal, Target::Lease(lease))
    }

    fn of(key: &[u8], target: CompareTarget, result: CompareResult, value: Target) -> Self {
        let (result, target) = (result.into(), target.into());
        Self { result, target, key: key.to_vec(), value: Some(value) }
    }
}

impl TxnResponse {
    /// What the only operation of the transaction has read.
    pub(super) fn read(self) -> Option<KeyValue> {
        match self.responses.into_iter().next()?.response? {
            Outcome::Range(range) => range.kvs.into_iter().next(),
        }
    }
}
