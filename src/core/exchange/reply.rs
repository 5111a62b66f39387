//! The client's answer: a backend's answer with the filter's headers, or a reply of the filter.

use alloc::borrow::Cow;

use super::tagging::{tagged_location, Tagging};
use super::{digit, Answer, AnswerBody, Exchange, Host, LocalReply, Next, NoRetry, State, Why};
use crate::balancer::Balancer;
use crate::config::Engine;
use crate::edits::{Edit, Edits};
use crate::limits::Excess;
use crate::prelude::*;
use crate::reply::retry_after;
use crate::stream_start::is_event_stream;
use crate::stripper::Stripper;

/// Headers that are not passed on. These are the headers of the connection (RFC 9110, section 7.6.1) and a backend's
/// report of its health to Envoy. The status is passed separately.
const NOT_PASSED_ON: [&[u8]; 6] = [
    b":status",
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"transfer-encoding",
    b"x-envoy-immediate-health-check-fail",
];

/// A header that Envoy sets on the answer to a filter's call, in place of the backend's own.
const SERVICE_TIME: &[u8] = b"x-envoy-upstream-service-time";

/// An answer that the filter sends itself.
pub(super) enum ClientAnswer {
    /// The filter's own reply, with its explanation.
    Own(LocalReply, Option<String>),
    /// A backend's answer to an attempt.
    Kept(Box<Answer>),
}

/// Edits of an answer's headers. Most answers need at most two.
pub type AnswerEdits<'a> = Edits<'a, 2>;

/// A header's name and value.
pub type Header<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>);

/// An answer for the client.
pub struct Reply<'a> {
    /// The status.
    pub status: u16,
    /// The details in Envoy's access log.
    pub details: &'static str,
    /// The headers.
    pub headers: Vec<Header<'a>>,
    /// The body.
    pub body: Cow<'a, [u8]>,
    /// Whether a local reply of Envoy would change the answer. If possible, the answer then replaces the current one in
    /// place.
    ///
    /// Envoy adds a content type to a local reply with a body. Without a body, as in the answer to `HEAD`, it sends
    /// neither type nor length.
    pub is_changed_by_reply: bool,
}

/// The facts about an answer whose ids may need tags.
#[derive(Debug, Default)]
pub struct TaggedAnswer {
    /// The status.
    pub status: u16,
    /// `content-type`.
    pub content_type: Option<Vec<u8>>,
    /// Whether the answer has a `content-encoding`.
    pub is_encoded: bool,
    /// `location`, if [`Exchange::wants_location`].
    pub location: Option<Vec<u8>>,
}

impl Exchange {
    /// Answers the client with a reply of the filter's own.
    pub(super) fn answer(&mut self, reply: LocalReply) -> Next {
        let why = self.why.as_deref().and_then(Why::text).map(str::to_owned);
        self.reply = Some(Box::new(ClientAnswer::Own(reply, why)));
        // Nothing needs the rest of the client's request.
        self.body.drop_because(NoRetry::AttemptsExhausted);
        self.inspection.give_up();
        self.state = State::Done;
        Next::Reply
    }

    /// Answers the client because no backend is available.
    #[inline(never)]
    pub(super) fn answer_without_backend<H: Host>(
        &mut self,
        reply: LocalReply,
        balancer: &Balancer<H>,
    ) -> Next {
        if let Some(mut why) = self.why.take() {
            self.explain_others(&mut why, balancer);
            self.why = Some(why);
        }
        self.answer(reply)
    }

    /// Answers the client with a backend's kept answer, or with a reply that no backend answered.
    pub(super) fn reply_without_answer(&mut self) -> Next {
        match self.kept.take() {
            Some(answer) => self.answer_with(answer),
            None => self.answer(LocalReply::no_answer(self.timed_out, self.attempts.made())),
        }
    }

    /// Answers the client with a backend's answer.
    pub(super) fn answer_with(&mut self, answer: Box<Answer>) -> Next {
        self.reply = Some(Box::new(ClientAnswer::Kept(answer)));
        self.state = State::Done;
        Next::Reply
    }

    /// Explains why each backend without an attempt was not chosen.
    #[inline(never)]
    pub(super) fn explain_others<H: Host>(&self, why: &mut Why, balancer: &Balancer<H>) {
        let plan = match self.planned {
            true => *self.attempts.plan(),
            false => balancer.unplanned(&self.request),
        };
        balancer.explain(&plan, &self.request.demand(), why);
    }

    /// The client's answer, for [`Next::Reply`].
    #[inline(never)]
    pub fn reply<'a, H: Host>(&'a self, balancer: &'a Balancer<H>) -> Option<Reply<'a>> {
        Some(match self.reply.as_deref()? {
            ClientAnswer::Own(reply, why) => self.own(reply, why.as_deref(), balancer),
            ClientAnswer::Kept(answer) => self.kept(answer, balancer),
        })
    }

    fn own<'a, H: Host>(
        &'a self,
        reply: &'a LocalReply,
        why: Option<&'a str>,
        balancer: &'a Balancer<H>,
    ) -> Reply<'a> {
        let mut headers: Vec<_> = reply
            .headers()
            .into_iter()
            .map(|(name, value)| (bytes(name), Cow::Owned(value.into_bytes())))
            .collect();
        let names = &balancer.config.headers;
        if let Some(excess) = self.excess() {
            let standing = excess.headers().into_iter();
            headers.extend(standing.map(|(name, value)| (bytes(name), value.into_bytes().into())));
        }
        if let (Some(name), Some(why)) = (&names.why, why) {
            headers.push((bytes(name), bytes(why)));
        }
        if let Some(name) = &names.attempts {
            headers.push((bytes(name), bytes(digit(self.attempts.made()))));
        }
        Reply {
            status: reply.status,
            details: self.excess().map_or(reply.code, Excess::details),
            headers,
            body: reply.body(self.request.surface).into(),
            is_changed_by_reply: false,
        }
    }

    /// A backend's kept answer for the client. Envoy's route adds its `response_headers_to_add` to a local reply.
    fn kept<'a, H: Host>(&'a self, answer: &'a Answer, balancer: &'a Balancer<H>) -> Reply<'a> {
        let mut report = AnswerEdits::default();
        self.report(answer.backend, balancer, &mut report);
        let mut body = match &answer.body {
            AnswerBody::Whole(body) | AnswerBody::Begun(body) => Cow::from(body),
            AnswerBody::Stalled => {
                report.set("content-type", "application/json");
                let stalled = LocalReply::stalled_error(answer.status);
                stalled.body(self.request.surface).into()
            }
        };
        let is_whole = !matches!(answer.body, AnswerBody::Stalled);
        let is_from_call = self.engine == Engine::Filter;
        let tag = balancer.tags.of_backend(answer.backend);
        let tag = tag.filter(|_| self.request.tags_answer(&balancer.config));
        if let (Some(tag), true) = (tag, self.wants_location()) {
            let location = answer.headers.get("location");
            if let Some(location) = location.and_then(|it| tagged_location(tag, it)) {
                report.set("location", location);
            }
        }
        let report: Vec<_> = report.iter().filter_map(Edit::value).collect();
        let replaced = |name: &[u8]| {
            !is_whole && name == b"content-encoding"
                || is_from_call && name == SERVICE_TIME
                || report.iter().any(|(other, _)| name == other.as_bytes())
        };
        let kept = answer.headers.iter();
        let kept = kept.filter(|(name, _)| !NOT_PASSED_ON.contains(name) && !replaced(name));
        let kept = kept.map(|(name, value)| (Cow::from(name), Cow::from(value)));
        let mut headers: Vec<_> = kept.collect();
        let added = report.into_iter();
        headers.extend(added.map(|(name, value)| (bytes(name), bytes_of(value.clone()))));
        let has = |name: &[u8]| headers.iter().any(|(known, _)| &**known == name);
        let (has_type, has_length) = (has(b"content-type"), has(b"content-length"));
        let is_changed_by_reply = is_whole
            && match body.is_empty() {
                true => has_type || has_length,
                false => !has_type,
            };
        if let Some(tag) = tag {
            let content_type = answer.headers.get("content-type");
            let is_encoded = answer.headers.get("content-encoding").is_some();
            let tagging = Tagging::of(tag, answer.status, content_type, is_encoded);
            let tagged = tagging.and_then(|mut it| Some(it.push(&body)?.to_owned()));
            if let Some(tagged) = tagged {
                body = tagged.into();
            }
        }
        if answer.status == 200 && self.requests_usage(answer.backend, balancer) {
            let is_stream = is_event_stream(&answer.headers);
            let stripped = is_stream.then(|| Stripper::of_whole(&body)).flatten();
            if let Some(stripped) = stripped {
                body = stripped.into();
            }
        }
        Reply {
            status: answer.status,
            details: "aoai_reissued",
            headers,
            body,
            is_changed_by_reply,
        }
    }

    /// Edits of the passing answer's headers. They name the backend and the number of attempts.
    pub fn signature<'a, H: Host>(&'a self, balancer: &'a Balancer<H>) -> AnswerEdits<'a> {
        let mut edits = AnswerEdits::default();
        self.unmark(&mut edits);
        self.report(self.answered_by, balancer, &mut edits);
        if let Some(location) = &self.location {
            edits.set("location", location.as_str());
        }
        edits
    }

    /// Sets the headers with the backend and the number of attempts.
    fn report<'a, H: Host>(
        &'a self,
        backend: usize,
        balancer: &'a Balancer<H>,
        edits: &mut AnswerEdits<'a>,
    ) {
        let config = &balancer.config;
        let name = config.backends.get(backend);
        if let (Some(header), Some(backend)) = (&config.headers.backend, name) {
            edits.set(header, &backend.name);
        }
        if let Some(header) = &config.headers.attempts {
            edits.set(header, digit(self.attempts.made()));
        }
        if self.why.is_some() || self.attempts.throttled().contains(backend) {
            self.report_further(backend, balancer, edits);
        }
    }

    /// Sets the headers that few answers have: an explanation, and the wait of all backends.
    #[inline(never)]
    fn report_further<'a, H: Host>(
        &'a self,
        backend: usize,
        balancer: &'a Balancer<H>,
        edits: &mut AnswerEdits<'a>,
    ) {
        let why = self.why.as_deref().and_then(Why::text);
        if let (Some(header), Some(why)) = (&balancer.config.headers.why, why) {
            edits.set(header, why);
        }
        if self.attempts.throttled().contains(backend) {
            // The backend's wait is its own. The client needs the wait until any backend can serve it.
            let plan = balancer.unplanned(&self.request);
            let wait = balancer.wait_of_all(&plan, &self.request.demand());
            for (name, value) in wait.into_iter().flat_map(retry_after) {
                edits.set(name, value);
            }
        }
    }

    /// Whether ids in the passing answer may need tags.
    pub fn may_tag<H: Host>(&self, balancer: &Balancer<H>) -> bool {
        self.request.tags_answer(&balancer.config)
    }

    /// Whether `location` names the created object.
    pub fn wants_location(&self) -> bool {
        self.request.operation.answers_with_location()
    }

    /// Begins to tag the passing answer. `true` if it may contain ids, and so may grow.
    pub fn begin_tagging<H: Host>(
        &mut self,
        answer: &TaggedAnswer,
        balancer: &Balancer<H>,
    ) -> bool {
        let content_type = answer.content_type.as_deref().unwrap_or_default();
        let content_type = core::str::from_utf8(content_type).ok();
        let tag = balancer.tags.of_backend(self.answered_by);
        let (status, is_encoded) = (answer.status, answer.is_encoded);
        let tagging = tag.and_then(|tag| Tagging::of(tag, status, content_type, is_encoded));
        self.tagging = tagging.map(Box::new);
        if let (Some(tag), Some(location)) = (tag, &answer.location) {
            let location = core::str::from_utf8(location).unwrap_or_default();
            self.location = tagged_location(tag, location);
        }
        self.tagging.is_some()
    }

    /// The replacement of the answer's next frame. `None` if the frame stays unchanged.
    pub fn tag(&mut self, chunk: &[u8]) -> Option<&[u8]> {
        self.tagging.as_mut()?.push(chunk)
    }
}

impl Reply<'_> {
    /// The headers for a local reply, without the length, which Envoy adds.
    pub fn headers_of_local_reply(&self) -> Vec<(&[u8], &[u8])> {
        let headers = self.all_headers();
        let mut headers: Vec<_> = headers.collect();
        headers.retain(|(name, _)| *name != b"content-length");
        headers
    }

    /// The status and the headers.
    pub fn headers_with_status<'r>(&'r self, status: &'r [u8]) -> Vec<(&'r [u8], &'r [u8])> {
        let status: [(&[u8], &[u8]); 1] = [(b":status", status)];
        status.into_iter().chain(self.all_headers()).collect()
    }

    fn all_headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.headers.iter().map(|(name, value)| (&**name, &**value))
    }
}

fn bytes(text: &str) -> Cow<'_, [u8]> {
    text.as_bytes().into()
}

fn bytes_of(text: Cow<'_, str>) -> Cow<'_, [u8]> {
    match text {
        Cow::Borrowed(text) => bytes(text),
        Cow::Owned(text) => text.into_bytes().into(),
    }
}
