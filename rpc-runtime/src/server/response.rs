//! Encoding of responses: headers, metadata, errors.

use rpc_registry::limited;

use crate::call::Context;
use crate::connection::Channel;
use crate::error::{RpcError, exposed};
use crate::metadata::Metadata;
use crate::protocol::{Flags, Header, Output, REPLY_METADATA, error_answer, payload};
use crate::service::Finished;

/// The header of the response to `request`, whose value is encoded.
pub(super) fn header(request: &Header, finished: &Finished) -> Header {
    let mut header = Header::response(request.id, finished.status);
    header.flags = finished.form.flags();
    if finished.stream.is_some() {
        header.flags = header.flags.with(Flags::STREAM);
    }
    if finished.metadata.is_some() {
        header.flags = header.flags.with(Flags::METADATA);
    }
    header
}

/// The error response to the request `id`.
pub(super) fn error(channel: &Channel, id: u64, error: &RpcError) -> (Header, Vec<u8>) {
    let expose = channel.settings().expose_internal_errors;
    let (mut header, mut body) = exposed(expose, || error_answer(id, error));
    if let Some(metadata) = error.own_metadata() {
        write_error_metadata(channel, metadata, &mut header, &mut body);
    }
    (header, body)
}

/// Puts the metadata of a reply in front of its value, which is in `out` behind `start`: that of
/// the reply and, where it has no such key, that of the call's context. `finished` keeps its
/// metadata only if it was written.
///
/// # Errors
/// It is over the limit. The method has run.
#[inline]
pub(super) fn write_metadata(
    channel: &Channel,
    finished: &mut Finished,
    context: &mut Context,
    out: &mut Output,
    start: usize,
) -> Result<(), RpcError> {
    match (finished.metadata.take(), context.take_reply_metadata()) {
        (None, None) => Ok(()),
        (Some(one), None) | (None, Some(one)) => write_some(channel, finished, one, out, start),
        (Some(of_reply), Some(mut merged)) => {
            merged.extend(*of_reply);
            write_some(channel, finished, merged, out, start)
        }
    }
}

#[cold]
fn write_some(
    channel: &Channel,
    finished: &mut Finished,
    metadata: Box<Metadata>,
    out: &mut Output,
    start: usize,
) -> Result<(), RpcError> {
    if !is_read(channel) || metadata.is_empty() {
        return Ok(());
    }
    let mut section = Vec::new();
    payload::encode_metadata(&metadata, &mut section).map_err(RpcError::maybe_executed)?;
    let value = out.split_off_small(start);
    out.extend_from_slice(&section);
    out.append_all(&value);
    finished.metadata = Some(metadata);
    Ok(())
}

/// Puts the metadata of an error in front of it.
#[cold]
fn write_error_metadata(
    channel: &Channel,
    metadata: &Metadata,
    header: &mut Header,
    body: &mut Vec<u8>,
) {
    if !is_read(channel) {
        return;
    }
    let mut section = Vec::new();
    // The error is sent without its metadata if that is too large.
    match payload::encode_metadata(metadata, &mut section) {
        Ok(()) => {
            header.flags = header.flags.with(Flags::METADATA);
            body.splice(0..0, section);
        }
        Err(why) => {
            limited!(warn, peer = %channel.peer(), %why, "the metadata of an error is not sent");
        }
    }
}

/// Whether the peer reads metadata on responses.
fn is_read(channel: &Channel) -> bool {
    channel.peer_hello().is_some_and(|hello| hello.has_feature(REPLY_METADATA))
}
