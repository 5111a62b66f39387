//! Translates the results of a request's [state machine](crate::core::exchange) into host calls, for the drivers of
//! both engines.

use std::ops::Range;

use proxy_wasm::types::Action;

use super::envoy::Envoy;
use super::host::{self, Buffer, Half, HostError, Map};
use super::place::Request;
use crate::core::balancer::Balancer;
use crate::core::edits::{Edit, Edits};
use crate::core::exchange::{Exchange, Reply, TaggedAnswer};
use crate::core::gate::Gate;
use crate::core::header_map::HeaderMap;
use crate::core::stream_start::is_event_stream;
use crate::core::text::number;
use crate::core::time::Timestamp;

type Result<T> = std::result::Result<T, HostError>;

/// The return value of a callback whose frame passes, or is held.
pub(super) fn action_of(passes: bool) -> Action {
    match passes {
        true => Action::Continue,
        false => Action::Pause,
    }
}

/// Resumes a half of the current stream outside its own callbacks.
pub(super) fn open(gate: &Gate, half: Half) -> Result<()> {
    match gate.awaits_frame() {
        true => Ok(()),
        false => host::resume(half),
    }
}

/// Changes the headers of a half of the current stream.
pub(super) fn apply<const FEW: usize>(map: Map, edits: &Edits<'_, FEW>) -> Result<()> {
    edits.iter().try_for_each(|edit| match edit {
        Edit::Set(name, value) => host::set_header(map, name, value),
        Edit::Remove(name) => host::remove_header(map, name),
    })
}

/// The bytes `wanted` of the answer's body in Envoy's buffer.
pub(super) fn answer_body(wanted: Range<usize>) -> Result<Vec<u8>> {
    host::buffer(Buffer::ResponseBody, wanted.start, wanted.len())
}

/// The status of the current callback's answer.
pub(super) fn status() -> Result<Option<u16>> {
    let status = host::header(Map::ResponseHeaders, ":status")?;
    Ok(status.as_deref().and_then(number))
}

/// Envoy's `response.code_details`, if `wanted`.
pub(super) fn details_if(wanted: bool) -> Result<Option<Vec<u8>>> {
    match wanted {
        true => host::property("response\0code_details"),
        false => Ok(None),
    }
}

/// The answer's headers, if `wanted`.
pub(super) fn headers_if(wanted: bool) -> Result<Option<HeaderMap>> {
    wanted
        .then(|| host::headers(Map::ResponseHeaders))
        .transpose()
}

/// Adds the module's headers to the answer that passes, and prepares the reading of its frames.
pub(super) fn sign(exchange: &mut Exchange, balancer: &Balancer<Envoy>) -> Result<()> {
    if exchange.may_tag(balancer) {
        let answer = TaggedAnswer {
            status: status()?.unwrap_or(0),
            content_type: host::header(Map::ResponseHeaders, "content-type")?,
            is_encoded: host::header(Map::ResponseHeaders, "content-encoding")?.is_some(),
            location: match exchange.wants_location() {
                true => host::header(Map::ResponseHeaders, "location")?,
                false => None,
            },
        };
        if exchange.begin_tagging(&answer, balancer) {
            // Tags change the length. Envoy frames the answer itself without this header.
            host::remove_header(Map::ResponseHeaders, "content-length")?;
        }
    }
    exchange.begin_usage(balancer);
    if exchange.may_strip(balancer) && is_event_stream(&host::headers(Map::ResponseHeaders)?) {
        exchange.begin_stripping();
        host::remove_header(Map::ResponseHeaders, "content-length")?;
    }
    apply(Map::ResponseHeaders, &exchange.signature(balancer))
}

/// Reads a frame that passes, and changes it. `end` marks the last frame.
pub(super) fn pass_frame(
    exchange: &mut Exchange,
    balancer: &Balancer<Envoy>,
    size: usize,
    end: bool,
) -> Result<()> {
    if let Some(wanted) = exchange.wants_frame(size) {
        let chunk = answer_body(wanted)?;
        if let Some(tagged) = exchange.tag(&chunk) {
            host::replace_buffer(Buffer::ResponseBody, tagged)?;
        }
        if let Some(stripped) = exchange.strip(&chunk, end) {
            host::replace_buffer(Buffer::ResponseBody, stripped)?;
        }
        if !chunk.is_empty() {
            exchange.note_frame(balancer);
        }
        exchange.take_frame(chunk);
    } else if let Some(rest) = exchange.strip(&[], end).filter(|rest| !rest.is_empty()) {
        host::replace_buffer(Buffer::ResponseBody, rest)?;
    }
    match end {
        true => end_usage(exchange, balancer),
        false => Ok(()),
    }
}

/// Ends the client's answer: counts its tokens and stores them for the access log, as
/// `%FILTER_STATE(wasm.aoai_input_tokens:PLAIN)%` and `%FILTER_STATE(wasm.aoai_output_tokens:PLAIN)%`.
pub(super) fn end_usage(exchange: &mut Exchange, balancer: &Balancer<Envoy>) -> Result<()> {
    if exchange.wants_begin() {
        if let Some(began) = request_time()? {
            exchange.note_begin(began, balancer);
        }
    }
    let Some(usage) = exchange.end_usage(balancer) else {
        return Ok(());
    };
    let tokens = [
        ("aoai_input_tokens", usage.prompt),
        ("aoai_output_tokens", usage.completion),
    ];
    tokens
        .into_iter()
        .try_for_each(|(name, tokens)| match tokens {
            Some(tokens) => host::set_property(name, tokens.to_string().as_bytes()),
            None => Ok(()),
        })
}

/// The start of the client's request.
#[inline(never)]
fn request_time() -> Result<Option<Timestamp>> {
    // Envoy encodes the property as nanoseconds in a 64-bit integer.
    let bytes = host::property("request\0time")?.and_then(|bytes| bytes.try_into().ok());
    Ok(bytes.map(|bytes| Timestamp::from_millis(u64::from_le_bytes(bytes) / 1_000_000)))
}

/// The way in which a new answer replaced Envoy's answer for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Replaced {
    /// Envoy sends a local reply.
    ByReply,
    /// Envoy's answer got the new headers and body, and passes now.
    InPlace,
}

/// Answers the client. `put_body` replaces the current body, and returns `false` if the new one does not fit.
#[inline(never)]
pub(super) fn reply(
    request: &Request,
    put_body: &mut dyn FnMut(&[u8]) -> Result<bool>,
) -> Result<Replaced> {
    let exchange = request.exchange();
    let Some(reply) = exchange.reply(request.balancer()) else {
        return Ok(Replaced::ByReply);
    };
    if reply.is_changed_by_reply {
        match put(&reply, put_body) {
            Ok(true) => return Ok(Replaced::InPlace),
            Ok(false) => {}
            Err(error) => log::error!("replacing an answer: {error}; sending a local reply"),
        }
    }
    let headers = reply.headers_of_local_reply();
    host::send_local_response(reply.status, reply.details, &headers, &reply.body)?;
    Ok(Replaced::ByReply)
}

fn put(reply: &Reply<'_>, put_body: &mut dyn FnMut(&[u8]) -> Result<bool>) -> Result<bool> {
    let placed = put_body(&reply.body)?;
    if placed {
        let status = reply.status.to_string();
        let headers = reply.headers_with_status(status.as_bytes());
        host::replace_headers(Map::ResponseHeaders, &headers)?;
    }
    Ok(placed)
}
