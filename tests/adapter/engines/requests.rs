//! A request and its attempts, with either engine.

use std::cell::RefCell;
use std::ops::Deref;
use std::rc::{Rc, Weak};
use std::time::Duration;

use mock_host::{Action, Answer, Call, Headers, Message, Routed, Stream, Vm};

use super::CLUSTERS;

/// The details of Envoy's own answer when it could not connect.
const UNREACHABLE: &str = "upstream_reset_before_response_started{connection_failure}";

/// A client's request: the test plays the client.
///
/// When dropped, the request ends as if its client had received the rest of its answer.
pub(crate) enum Request {
    Filter(Ending),
    Router(Routed),
}

/// A request that the filter engine serves. Its first attempt is the stream's own, and further ones are calls.
pub(crate) struct Filtered {
    /// The worker, which may end before the request.
    vm: Weak<Vm>,
    /// `None` once it has ended.
    stream: RefCell<Option<Stream>>,
    calls: RefCell<Vec<Rc<Called>>>,
}

/// A further attempt. The module gets its answer when it is whole.
pub(crate) struct Called {
    call: Call,
    begun: RefCell<Option<(u16, Headers, Vec<u8>)>>,
}

/// Ends the request, even if a test still holds one of its attempts.
pub(crate) struct Ending(Rc<Filtered>);

impl Deref for Ending {
    type Target = Rc<Filtered>;

    fn deref(&self) -> &Rc<Filtered> {
        &self.0
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        drop(self.stream.take());
    }
}

impl Filtered {
    fn with<T>(&self, act: impl FnOnce(&Stream) -> T) -> T {
        act(self.stream.borrow().as_ref().expect("it has not ended"))
    }

    fn vm(&self) -> Rc<Vm> {
        self.vm.upgrade().expect("the worker has not ended")
    }

    fn is_out(&self, called: &Called) -> bool {
        let calls = self.vm().calls();
        calls.iter().any(|call| call.number == called.call.number)
    }

    /// All calls of the request so far.
    fn calls(&self) -> Vec<Rc<Called>> {
        let id = self.with(Stream::id);
        let mut known = self.calls.borrow_mut();
        for call in self.vm().calls() {
            let is_known = known.iter().any(|known| known.call.number == call.number);
            if call.context == id && CLUSTERS.contains(&call.cluster.as_str()) && !is_known {
                known.push(Rc::new(Called {
                    call,
                    begun: RefCell::default(),
                }));
            }
        }
        known.clone()
    }
}

impl Request {
    pub(super) fn filtered(vm: &Rc<Vm>, stream: Stream) -> Self {
        Self::Filter(Ending(Rc::new(Filtered {
            vm: Rc::downgrade(vm),
            stream: RefCell::new(Some(stream)),
            calls: RefCell::default(),
        })))
    }

    /// The id of the request's context.
    pub(crate) fn id(&self) -> u32 {
        match self {
            Self::Filter(filtered) => filtered.with(Stream::id),
            Self::Router(routed) => routed.id(),
        }
    }

    /// The client sends a frame of the body; `end` with the last one.
    pub(crate) fn body(&self, frame: impl AsRef<[u8]>, end: bool) {
        match self {
            Self::Filter(filtered) => drop(filtered.with(|stream| stream.body(frame, end))),
            Self::Router(routed) => routed.body(frame, end),
        }
    }

    /// The client ends its request with trailers.
    pub(crate) fn trailers(&self, trailers: impl Into<Headers>) {
        match self {
            Self::Filter(filtered) => drop(filtered.with(|stream| stream.trailers(trailers))),
            Self::Router(routed) => routed.trailers(trailers),
        }
    }

    /// The message that passed the module towards the router; `None` while the headers are held.
    pub(crate) fn forwarded(&self) -> Option<Message> {
        match self {
            Self::Filter(filtered) => filtered.with(Stream::forwarded),
            Self::Router(routed) => routed.forwarded(),
        }
    }

    /// All attempts so far.
    pub(crate) fn attempts(&self) -> Vec<Attempt> {
        match self {
            Self::Filter(filtered) => {
                let first = self
                    .forwarded()
                    .map(|_| Attempt::First(Rc::clone(filtered)));
                let again = |called| Attempt::Again(Rc::clone(filtered), called);
                first
                    .into_iter()
                    .chain(filtered.calls().into_iter().map(again))
                    .collect()
            }
            Self::Router(routed) => routed.attempts().into_iter().map(Attempt::Router).collect(),
        }
    }

    /// The clusters of all attempts that reached a backend.
    pub(crate) fn clusters(&self) -> Vec<String> {
        let attempts = self.attempts();
        let left = attempts.iter().filter(|attempt| attempt.sent().is_some());
        left.map(Attempt::cluster).collect()
    }

    /// The current attempt.
    pub(crate) fn attempt(&self) -> Attempt {
        let last = self.attempts().pop().expect("an attempt was made");
        assert!(!last.ended(), "no attempt is out");
        last
    }

    /// The client's answer so far; `None` while the headers are held.
    pub(crate) fn answered(&self) -> Option<Answer> {
        match self {
            Self::Filter(filtered) => filtered.with(Stream::answered),
            Self::Router(routed) => routed.answered(),
        }
    }

    /// The client's answer, which must be complete.
    pub(crate) fn answer(&self) -> Answer {
        match self {
            Self::Filter(filtered) => filtered.with(Stream::answer),
            Self::Router(routed) => routed.answer(),
        }
    }

    /// Whether the request is held: neither sent on nor answered.
    pub(crate) fn is_held(&self) -> bool {
        self.forwarded().is_none() && self.answered().is_none()
    }

    /// A property that the module set.
    pub(crate) fn property(&self, path: &str) -> Option<Vec<u8>> {
        match self {
            Self::Filter(filtered) => filtered.with(|stream| stream.property(path)),
            Self::Router(routed) => routed.property(path),
        }
    }

    /// Sets the time at which Envoy says that the request began.
    pub(crate) fn began_at(&self, time: Duration) {
        let (path, nanos) = ("request\0time", (time.as_nanos() as u64).to_le_bytes());
        match self {
            Self::Filter(filtered) => filtered.with(|stream| stream.set_property(path, nanos)),
            Self::Router(routed) => routed.set_property(path, nanos),
        }
    }

    /// The listener answers before any backend does, such as after a time limit of the stream.
    pub(crate) fn answer_locally(&self, status: u16, details: &str) {
        match self {
            Self::Filter(filtered) => filtered.with(|s| s.respond_locally(status, details)),
            Self::Router(routed) => routed.answer_locally(status, details),
        }
    }

    /// The backend breaks off the answer that passes to the client.
    pub(crate) fn break_off(self) {
        match self {
            Self::Filter(ref filtered) => {
                let stream = filtered.stream.take();
                stream.expect("it has not ended").break_off();
            }
            Self::Router(routed) => routed.attempt().fail(),
        }
    }

    /// The client disconnects.
    pub(crate) fn disconnect(self) {
        match self {
            Self::Filter(ref filtered) => {
                let stream = filtered.stream.take();
                stream.expect("it has not ended").disconnect();
            }
            Self::Router(routed) => routed.disconnect(),
        }
    }
}

/// One attempt: the test plays the backend.
pub(crate) enum Attempt {
    /// The first attempt with the filter engine.
    First(Rc<Filtered>),
    /// A further attempt, which the filter engine makes.
    Again(Rc<Filtered>, Rc<Called>),
    Router(mock_host::Attempt),
}

impl Attempt {
    /// The attempt's cluster.
    pub(crate) fn cluster(&self) -> String {
        match self {
            Self::First(filtered) => filtered.with(super::routed_to),
            Self::Again(_, called) => called.call.cluster.clone(),
            Self::Router(attempt) => attempt.cluster().to_owned(),
        }
    }

    /// The request at the backend; `None` if none was sent.
    pub(crate) fn sent(&self) -> Option<Message> {
        match self {
            Self::First(filtered) => filtered.with(Stream::forwarded),
            Self::Again(_, called) => {
                let Call {
                    headers,
                    body,
                    trailers,
                    ..
                } = called.call.clone();
                Some(Message {
                    // Envoy announces the length.
                    headers: headers.with("content-length", body.len().to_string()),
                    body,
                    trailers: (!trailers.is_empty()).then_some(trailers),
                    complete: true,
                })
            }
            Self::Router(attempt) => attempt.sent(),
        }
    }

    /// A header of the request at the backend.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let sent = self.sent().expect("it left");
        sent.headers.get(name).map(str::to_owned)
    }

    /// Whether the attempt is over.
    pub(crate) fn ended(&self) -> bool {
        match self {
            Self::First(filtered) => {
                let answered = filtered.with(Stream::answered);
                !filtered.calls().is_empty() || answered.is_some_and(|answer| answer.complete)
            }
            Self::Again(filtered, called) => !filtered.is_out(called),
            Self::Router(attempt) => attempt.ended(),
        }
    }

    /// The backend begins its answer; `end` if it has no body. `None` if the module does not get it now.
    pub(crate) fn respond(
        &self,
        status: u16,
        headers: impl Into<Headers>,
        end: bool,
    ) -> Option<Action> {
        match self {
            Self::First(filtered) => {
                Some(filtered.with(|stream| stream.respond(status, headers, end)))
            }
            Self::Again(filtered, called) => {
                let begun = (status, headers.into(), Vec::new());
                called.begun.replace(Some(begun));
                called.complete(filtered, end)
            }
            Self::Router(attempt) => Some(attempt.respond(status, headers, end)),
        }
    }

    /// The backend sends a frame of its body; `end` with the last one. `None` if the module does not get it now.
    pub(crate) fn response_body(&self, frame: impl AsRef<[u8]>, end: bool) -> Option<Action> {
        match self {
            Self::First(filtered) => filtered.with(|stream| stream.response_body(frame, end)),
            Self::Again(filtered, called) => {
                if let Some((_, _, body)) = &mut *called.begun.borrow_mut() {
                    body.extend_from_slice(frame.as_ref());
                }
                called.complete(filtered, end)
            }
            Self::Router(attempt) => attempt.response_body(frame, end),
        }
    }

    /// The backend ends its answer with trailers.
    pub(crate) fn response_trailers(&self, trailers: impl Into<Headers>) -> Option<Action> {
        match self {
            Self::First(filtered) => filtered.with(|stream| stream.response_trailers(trailers)),
            Self::Again(filtered, called) => called.complete(filtered, true),
            Self::Router(attempt) => attempt.response_trailers(trailers),
        }
    }

    /// The connection fails.
    pub(crate) fn fail(&self) {
        match self {
            Self::First(filtered) => filtered.with(|s| s.respond_locally(503, UNREACHABLE)),
            Self::Again(filtered, called) => filtered.vm().answer_locally(&called.call, 503),
            Self::Router(attempt) => attempt.fail(),
        }
    }

    /// The attempt's time limit ends.
    pub(crate) fn time_out(&self) {
        match self {
            Self::First(filtered) => filtered.with(|s| s.respond_locally(504, "response_timeout")),
            Self::Again(filtered, called) => filtered.vm().answer_locally(&called.call, 504),
            Self::Router(attempt) => attempt.time_out(),
        }
    }
}

impl Called {
    /// Passes the answer to the module when it is whole.
    fn complete(&self, filtered: &Filtered, end: bool) -> Option<Action> {
        if end {
            let (status, headers, body) = self.begun.take().expect("the answer has begun");
            filtered.vm().answer(&self.call, status, headers, body);
        }
        None
    }
}

/// The backend's whole answer.
pub(crate) fn answer(attempt: &Attempt, status: u16, body: &str) {
    let headers = [("content-type", "application/json")];
    attempt.respond(status, headers, body.is_empty());
    if !body.is_empty() {
        attempt.response_body(body, true);
    }
}

/// The backend's quota is used up, and its answer states the wait.
pub(crate) fn throttle(attempt: &Attempt, retry_after: &str) {
    attempt.respond(429, [("retry-after", retry_after)], true);
}

/// The client's answer: status, backend, attempts, body.
pub(crate) fn outcome(request: &Request) -> (u16, String, String, String) {
    let answer = request.answer();
    assert_eq!(answer.headers.get("x-aoai-retry"), None, "{answer:?}");
    let header = |name| answer.headers.get(name).unwrap_or_default().to_owned();
    (
        answer.status,
        header("x-aoai-backend"),
        header("x-aoai-attempts"),
        answer.text().to_owned(),
    )
}

/// An expected outcome.
pub(crate) fn is(
    status: u16,
    backend: &str,
    attempts: &str,
    body: &str,
) -> (u16, String, String, String) {
    (status, backend.into(), attempts.into(), body.into())
}
