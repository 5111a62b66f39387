//! What the drivers of both retry engines share: carrying out what a request's [state machine](crate::core::exchange) says.

use std::rc::{Rc, Weak};
use std::time::Duration;

use proxy_wasm::types::Action;

use super::envoy::Envoy;
use super::gate::Gate;
use super::host::{self, Buffer, HostError, Map};
use super::shown::ShownBody;
use super::worker::{Stream, Worker};
use crate::core::balancer::{Balancer, Wish};
use crate::core::client_credentials::is_credential_header;
use crate::core::edits::{Edit, Edits};
use crate::core::exchange::{Exchange, Input, Next, Reply, Stalled, TaggedAnswer, ERROR_BODY};
use crate::core::header_map::HeaderMap;
use crate::core::stream_start::is_event_stream;
use crate::core::text::number;
use crate::core::time::Timestamp;

/// A stream's place among those of its worker.
pub(super) struct Place {
    pub(super) id: u32,
    pub(super) worker: Rc<Worker>,
    me: Weak<dyn Stream>,
    waits: bool,
    is_watched: bool,
}

impl Place {
    pub(super) fn new(id: u32, worker: Rc<Worker>, me: Weak<dyn Stream>) -> Self {
        Self {
            id,
            worker,
            me,
            waits: false,
            is_watched: false,
        }
    }

    pub(super) fn balancer(&self) -> &Balancer<Envoy> {
        &self.worker.balancer
    }

    /// Hands `input` over, and waits if that is what is to be done.
    pub(super) fn advance(&mut self, exchange: &mut Exchange, input: Input) -> Next {
        let mut next = exchange.handle(input, &self.worker.balancer);
        while let Next::Wait(wish) = next {
            let me = self.me.upgrade();
            self.waits = me.is_some_and(|me| self.worker.wait(self.id, me, wish));
            next = match self.waits {
                true => Next::Hold,
                false => exchange.handle(Input::CannotWait, &self.worker.balancer),
            };
        }
        // Where the other half of the stream goes on, this one may wait all the same.
        if !matches!(next, Next::Hold | Next::Continue) {
            self.leave();
        }
        next
    }

    /// The stream waits no longer.
    pub(super) fn leave(&mut self) {
        if std::mem::take(&mut self.waits) {
            self.worker.forget(self.id);
        }
    }

    /// The client's answer begins to pass: watches its silences, if they have a limit.
    pub(super) fn watch_silences(&mut self, exchange: &Exchange) {
        let limit = exchange.silence_limit(self.balancer());
        if let (Some(longest), Some(me)) = (limit, self.me.upgrade()) {
            self.worker.watch(self.id, me, longest);
            self.is_watched = true;
        }
    }

    /// The stream has ended.
    pub(super) fn end(&mut self) {
        self.leave();
        if std::mem::take(&mut self.is_watched) {
            self.worker.unwatch(self.id);
        }
    }

    /// The callback of a frame of the answer ends with this action, or with another one that `gate` asks for.
    pub(super) fn end_frame(&mut self, gate: &mut Gate, action: Action) -> Action {
        match gate.is_open_early() {
            false => gate.body(action),
            true => self.end_late_frame(gate, action),
        }
    }

    #[inline(never)]
    fn end_late_frame(&mut self, gate: &mut Gate, action: Action) -> Action {
        let held_one = gate.holds_frame();
        let action = gate.body(action);
        if gate.holds_frame() {
            return self.hold_frame(gate);
        }
        if held_one {
            self.leave();
        }
        action
    }

    /// A frame is held that `gate` did not let pass. The stream is told soon, unless another frame comes first.
    fn hold_frame(&mut self, gate: &Gate) -> Action {
        /// Time for another frame. Without one the frame goes its way.
        const NEXT_FRAME: Duration = Duration::from_millis(50);
        let time = if gate.is_complete() {
            Duration::ZERO
        } else {
            NEXT_FRAME
        };
        let me = self.me.upgrade();
        self.waits = me.is_some_and(|me| self.worker.wait(self.id, me, Wish::StreamStart(time)));
        // Where too many wait, the next frame brings this one along. The last has none.
        match self.waits || !gate.is_complete() {
            true => Action::Pause,
            false => Action::Continue,
        }
    }

    /// A call was made, whose answer is this stream's.
    pub(super) fn call_made(&self, call: u32) {
        if let Some(me) = self.me.upgrade() {
            self.worker.call_made(call, self.id, me);
        }
    }
}

/// Changes the headers of a half of the current stream.
pub(super) fn apply<const FEW: usize>(map: Map, edits: &Edits<'_, FEW>) -> Result<(), HostError> {
    edits.iter().try_for_each(|edit| match edit {
        Edit::Set(name, value) => host::set_header(map, name, value),
        Edit::Remove(name) => host::remove_header(map, name),
    })
}

/// The request's trailers, without the client's credentials: none may reach a backend there either.
pub(super) fn clean_trailers() -> Result<HeaderMap, HostError> {
    let trailers = host::headers(Map::RequestTrailers)?;
    for (name, _) in trailers.iter() {
        match std::str::from_utf8(name) {
            Ok(text) if is_credential_header(name) => {
                host::remove_header(Map::RequestTrailers, text)?;
            }
            _ => {}
        }
    }
    Ok(trailers)
}

/// Reads what is new of the request's body, if it is `wanted`; `end` if it is the last.
pub(super) fn read_body(
    exchange: &mut Exchange,
    shown: &mut ShownBody,
    worker: &Worker,
    wanted: bool,
    end: bool,
) -> Result<(), HostError> {
    if wanted {
        exchange.read(shown.read()?, end, &worker.balancer);
    }
    Ok(())
}

/// Keeps the client's name for the access log, where it knows it as `%FILTER_STATE(wasm.aoai_client:PLAIN)%`.
pub(super) fn name_client(exchange: &Exchange) -> Result<(), HostError> {
    match exchange.client() {
        Some(client) => host::set_property("aoai_client", client.as_bytes()),
        None => Ok(()),
    }
}

/// The status of the answer whose callback this is, with all its headers where these are `wanted`: they cost one call as well.
pub(super) fn head(wanted: bool) -> Result<(u16, Option<HeaderMap>), HostError> {
    if !wanted {
        return Ok((status()?, None));
    }
    let headers = host::headers(Map::ResponseHeaders)?;
    let status = headers.get(":status").map(str::as_bytes);
    Ok((status.and_then(number).unwrap_or(0), Some(headers)))
}

/// The bytes of the answer's body that are `wanted`.
pub(super) fn answer_body_if(
    wanted: Option<std::ops::Range<usize>>,
) -> Result<Option<Vec<u8>>, HostError> {
    let read = |range: std::ops::Range<usize>| {
        host::buffer(Buffer::ResponseBody, range.start, range.len())
    };
    wanted.map(read).transpose()
}

/// The status of the answer whose callback this is.
pub(super) fn status() -> Result<u16, HostError> {
    let status = host::header(Map::ResponseHeaders, ":status")?;
    Ok(status.as_deref().and_then(number).unwrap_or(0))
}

/// What Envoy says of the answer, where that is wanted.
pub(super) fn details_if(wanted: bool) -> Result<Option<Vec<u8>>, HostError> {
    match wanted {
        true => host::property("response\0code_details"),
        false => Ok(None),
    }
}

/// The headers of the answer, where they are wanted.
pub(super) fn headers_if(wanted: bool) -> Result<Option<HeaderMap>, HostError> {
    wanted
        .then(|| host::headers(Map::ResponseHeaders))
        .transpose()
}

/// What has come of the answer that is held, where that is wanted.
pub(super) fn stalled_if(wanted: bool) -> Result<Option<Box<Stalled>>, HostError> {
    if !wanted {
        return Ok(None);
    }
    Ok(Some(Box::new(Stalled {
        headers: host::headers(Map::ResponseHeaders)?,
        body: host::buffer(Buffer::ResponseBody, 0, ERROR_BODY)?,
    })))
}

/// Lets an answer pass: signs it, and prepares the tagging of its ids.
pub(super) fn sign(exchange: &mut Exchange, worker: &Worker) -> Result<(), HostError> {
    let balancer = &worker.balancer;
    if exchange.may_tag(balancer) {
        let answer = TaggedAnswer {
            status: status()?,
            content_type: host::header(Map::ResponseHeaders, "content-type")?,
            is_encoded: host::header(Map::ResponseHeaders, "content-encoding")?.is_some(),
            location: match exchange.wants_location() {
                true => host::header(Map::ResponseHeaders, "location")?,
                false => None,
            },
        };
        if exchange.begin_tagging(&answer, balancer) {
            // Envoy frames the answer anew.
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

/// A frame of that answer passes; `end` if it is the last.
pub(super) fn pass_frame(
    exchange: &mut Exchange,
    worker: &Worker,
    size: usize,
    end: bool,
) -> Result<(), HostError> {
    if !exchange.reads_answer() {
        return Ok(());
    }
    if let Some(wanted) = exchange.wants_frame(size) {
        let chunk = host::buffer(Buffer::ResponseBody, wanted.start, wanted.len())?;
        if let Some(tagged) = exchange.tag(&chunk) {
            host::replace_buffer(Buffer::ResponseBody, tagged)?;
        }
        if let Some(stripped) = exchange.strip(&chunk, end) {
            host::replace_buffer(Buffer::ResponseBody, stripped)?;
        }
        if !chunk.is_empty() {
            exchange.note_frame(&worker.balancer);
        }
        exchange.take_frame(chunk);
    } else if let Some(rest) = exchange.strip(&[], end).filter(|rest| !rest.is_empty()) {
        host::replace_buffer(Buffer::ResponseBody, rest)?;
    }
    match end {
        true => end_usage(exchange, worker),
        false => Ok(()),
    }
}

/// The client's answer is over: its tokens are counted, and kept for the access log, where it knows them as
/// `%FILTER_STATE(wasm.aoai_input_tokens:PLAIN)%` and `%FILTER_STATE(wasm.aoai_output_tokens:PLAIN)%`.
pub(super) fn end_usage(exchange: &mut Exchange, worker: &Worker) -> Result<(), HostError> {
    if exchange.wants_begin() {
        if let Some(began) = request_time()? {
            exchange.note_begin(began, &worker.balancer);
        }
    }
    let Some(usage) = exchange.end_usage(&worker.balancer) else {
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

/// When the client's request began.
#[inline(never)]
fn request_time() -> Result<Option<Timestamp>, HostError> {
    // The property is a whole number of nanoseconds.
    let bytes = host::property("request\0time")?.and_then(|bytes| bytes.try_into().ok());
    Ok(bytes.map(|bytes| Timestamp::from_millis(u64::from_le_bytes(bytes) / 1_000_000)))
}

/// How an answer took the place of the one that Envoy has for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Replaced {
    /// By a local reply of Envoy's.
    ByReply,
    /// The headers and the body that Envoy has became those of the answer, which is to pass now.
    InPlace,
}

/// Answers the client. `put_body` puts a body in the place of the one at hand; `false` if there is no room for it.
#[inline(never)]
pub(super) fn reply(
    exchange: &Exchange,
    worker: &Worker,
    put_body: &mut dyn FnMut(&[u8]) -> Result<bool, HostError>,
) -> Result<Replaced, HostError> {
    let Some(reply) = exchange.reply(&worker.balancer) else {
        return Ok(Replaced::ByReply);
    };
    if reply.is_changed_by_reply {
        match put(&reply, put_body) {
            Ok(true) => return Ok(Replaced::InPlace),
            Ok(false) => {}
            Err(error) => log::error!("{error}"),
        }
    }
    let headers = reply.headers_of_local_reply();
    host::send_local_response(reply.status, reply.details, &headers, &reply.body)?;
    Ok(Replaced::ByReply)
}

fn put(
    reply: &Reply<'_>,
    put_body: &mut dyn FnMut(&[u8]) -> Result<bool, HostError>,
) -> Result<bool, HostError> {
    let placed = put_body(&reply.body)?;
    if placed {
        let status = reply.status.to_string();
        let headers = reply.headers_with_status(status.as_bytes());
        host::replace_headers(Map::ResponseHeaders, &headers)?;
    }
    Ok(placed)
}
