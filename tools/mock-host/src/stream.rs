//! One request: the client on one side, the router on the other, and the module between them.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::{Rc, Weak};

use crate::abi::{exports, Action};
use crate::half::{Half, Message, Stopped};
use crate::headers::Headers;
use crate::vm::{next_id, Worker};

/// The two directions of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Request,
    Response,
}

/// The module's own answer.
#[derive(Clone, Debug)]
pub(crate) struct LocalReply {
    pub(crate) status: u32,
    pub(crate) details: String,
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
}

/// The client's answer so far.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers, `:status` included.
    pub headers: Headers,
    /// The bytes of the body.
    pub body: Vec<u8>,
    /// Whether the answer is complete.
    pub complete: bool,
    /// The origin of the answer in Envoy's access log: `via_upstream`, or the details of a local reply.
    pub details: String,
}

impl Answer {
    /// The body as text.
    ///
    /// # Panics
    /// If it is not UTF-8.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("headers", &self.headers)
            .field("body", &String::from_utf8_lossy(&self.body))
            .field("complete", &self.complete)
            .field("details", &self.details)
            .finish()
    }
}

pub(crate) type Properties = BTreeMap<Vec<u8>, Vec<u8>>;

pub(crate) struct StreamState {
    pub(crate) id: u32,
    pub(crate) worker: Weak<Worker>,
    /// Whether this is an attempt of the router, among a cluster's filters.
    pub(crate) is_attempt: bool,
    /// Whether the module is missing among the filters.
    pub(crate) bypassed: bool,
    /// An attempt's local reply, which the downstream stream handles.
    pub(crate) refusal: RefCell<Option<LocalReply>>,
    request: RefCell<Half>,
    response: RefCell<Half>,
    action: Cell<Action>,
    /// A local reply that was sent while the response was held.
    direct_reply: RefCell<Option<LocalReply>>,
    pub(crate) logging: Cell<bool>,
    properties: RefCell<Properties>,
    /// Filter state, shared by a request and its attempts.
    pub(crate) filter_state: Rc<RefCell<Properties>>,
}

const CODE_DETAILS: &[u8] = b"response\0code_details";

impl StreamState {
    pub(crate) fn new<V: AsRef<[u8]>>(
        worker: &Rc<Worker>,
        properties: &[(&str, V)],
        request: Option<&StreamState>,
    ) -> Self {
        let properties = properties.iter();
        let properties = properties.map(|(path, value)| ((*path).into(), value.as_ref().into()));
        Self {
            id: next_id(),
            worker: Rc::downgrade(worker),
            is_attempt: request.is_some(),
            bypassed: false,
            refusal: RefCell::default(),
            request: RefCell::default(),
            response: RefCell::default(),
            action: Cell::new(Action::Continue),
            direct_reply: RefCell::default(),
            logging: Cell::default(),
            properties: RefCell::new(properties.collect()),
            filter_state: request.map_or_else(Rc::default, |r| Rc::clone(&r.filter_state)),
        }
    }

    /// Creates the module's context, and passes it the request's headers.
    pub(crate) fn begin(self: &Rc<Self>, worker: &Rc<Worker>, headers: Headers, end: bool) {
        if !self.bypassed {
            let id = self.id;
            let mut streams = worker.instance.streams.borrow_mut();
            streams.insert(id, Rc::clone(self));
            drop(streams);
            worker.callback(id, "proxy_on_context_create", || {
                exports::proxy_on_context_create(id, worker.root);
            });
        }
        self.headers(worker, Direction::Request, headers, end);
    }

    pub(crate) fn set_property(&self, path: &str, value: &[u8]) {
        let mut properties = self.properties.borrow_mut();
        properties.insert(path.into(), value.to_vec());
    }

    pub(crate) fn property(&self, path: &[u8]) -> Option<Vec<u8>> {
        let own = self.properties.borrow().get(path).cloned();
        own.or_else(|| self.filter_state.borrow().get(path).cloned())
    }

    pub(crate) fn action(&self) -> Action {
        self.action.get()
    }

    /// Whether no backend can add to the answer.
    pub(crate) fn is_answered(&self) -> bool {
        let response = self.half(Direction::Response);
        self.half(Direction::Request).aborted
            || response.aborted
            || response.passed().is_some_and(|passed| passed.complete)
    }

    /// The module's action in a callback, and whether it sent a local reply.
    fn ask(
        &self,
        worker: &Rc<Worker>,
        name: &'static str,
        call: impl FnOnce(u32) -> u32,
    ) -> (Action, bool) {
        if self.bypassed {
            return (Action::Continue, false);
        }
        let (action, replied) = worker.callback(self.id, name, || call(self.id));
        let action = Action::from_abi(action);
        self.action.set(action);
        (action, replied)
    }

    pub(crate) fn half(&self, direction: Direction) -> RefMut<'_, Half> {
        match direction {
            Direction::Request => self.request.borrow_mut(),
            Direction::Response => self.response.borrow_mut(),
        }
    }

    pub(crate) fn set_details(&self, details: &str) {
        let mut properties = self.properties.borrow_mut();
        properties.insert(CODE_DETAILS.to_vec(), details.as_bytes().to_vec());
    }

    fn details(&self) -> String {
        let properties = self.properties.borrow();
        let details = properties.get(CODE_DETAILS).map(Vec::as_slice);
        String::from_utf8_lossy(details.unwrap_or_default()).into_owned()
    }

    pub(crate) fn headers(
        &self,
        worker: &Rc<Worker>,
        direction: Direction,
        headers: Headers,
        end: bool,
    ) {
        let count = headers.len();
        self.half(direction).begin(headers, end);
        let (action, replied) = match direction {
            Direction::Request => self.ask(worker, "proxy_on_request_headers", |id| {
                exports::proxy_on_request_headers(id, count, end)
            }),
            Direction::Response => self.ask(worker, "proxy_on_response_headers", |id| {
                exports::proxy_on_response_headers(id, count, end)
            }),
        };
        let mut half = self.half(direction);
        if half.aborted {
            return;
        }
        match action {
            _ if replied => half.stopped = Stopped::All,
            Action::Continue => {
                half.flush();
                half.headers_open = false;
            }
            Action::Pause if worker.allow_on_headers_stop_iteration() => {
                half.stopped = Stopped::Single;
            }
            Action::Pause => half.stopped = Stopped::All,
        }
    }

    pub(crate) fn frame(
        &self,
        worker: &Rc<Worker>,
        direction: Direction,
        frame: &[u8],
        end: bool,
    ) -> Option<Action> {
        {
            let mut half = self.half(direction);
            if half.aborted {
                return None;
            }
            assert!(!half.ended, "a body frame after the end");
            half.ended = end;
            if half.stopped == Stopped::All {
                let unseen = half.unseen.body.get_or_insert_default();
                unseen.extend_from_slice(frame);
                return None;
            }
        }
        Some(self.show_frame(worker, direction, frame, end))
    }

    fn show_frame(
        &self,
        worker: &Rc<Worker>,
        direction: Direction,
        frame: &[u8],
        end: bool,
    ) -> Action {
        let size = self.half(direction).open_body(frame);
        let (action, replied) = match direction {
            Direction::Request => self.ask(worker, "proxy_on_request_body", |id| {
                exports::proxy_on_request_body(id, size, end)
            }),
            Direction::Response => self.ask(worker, "proxy_on_response_body", |id| {
                exports::proxy_on_response_body(id, size, end)
            }),
        };
        let mut half = self.half(direction);
        match action {
            _ if half.aborted || replied => half.drop_body(),
            Action::Continue => half.continue_body(worker.loses_frames()),
            Action::Pause => half.pause_body(),
        }
        action
    }

    pub(crate) fn end_with(
        &self,
        worker: &Rc<Worker>,
        direction: Direction,
        trailers: Headers,
    ) -> Option<Action> {
        {
            let mut half = self.half(direction);
            if half.aborted {
                return None;
            }
            assert!(!half.ended, "trailers after the end");
            half.ended = true;
            if half.stopped == Stopped::All {
                half.unseen.trailers = Some(trailers);
                return None;
            }
        }
        Some(self.show_trailers(worker, direction, trailers))
    }

    fn show_trailers(
        &self,
        worker: &Rc<Worker>,
        direction: Direction,
        trailers: Headers,
    ) -> Action {
        let count = trailers.len();
        {
            let mut half = self.half(direction);
            half.trailers = trailers;
            half.trailers_open = true;
        }
        let (action, replied) = match direction {
            Direction::Request => self.ask(worker, "proxy_on_request_trailers", |id| {
                exports::proxy_on_request_trailers(id, count)
            }),
            Direction::Response => self.ask(worker, "proxy_on_response_trailers", |id| {
                exports::proxy_on_response_trailers(id, count)
            }),
        };
        let mut half = self.half(direction);
        match action {
            _ if half.aborted || replied => {}
            Action::Continue => half.flush(),
            Action::Pause => half.stopped = Stopped::Single,
        }
        action
    }

    /// `proxy_continue_stream`, once its callback has returned.
    pub(crate) fn resume(&self, worker: &Rc<Worker>, direction: Direction) {
        let (unseen, end) = {
            let mut half = self.half(direction);
            if half.aborted {
                return;
            }
            let was = half.stopped;
            assert_ne!(
                was,
                Stopped::No,
                "the module resumed the {direction:?} of context {}, which was not held: Envoy would send it twice",
                self.id
            );
            let unseen = std::mem::take(&mut half.unseen);
            let nothing_unseen = unseen.body.is_none() && unseen.trailers.is_none();
            if was == Stopped::Single || nothing_unseen {
                half.flush();
                return;
            }
            // The part that was stopped before the module saw it passes the module first.
            half.stopped = Stopped::No;
            half.pass_headers();
            (unseen, half.ended)
        };
        if let Some(body) = unseen.body {
            let end = end && unseen.trailers.is_none();
            self.show_frame(worker, direction, &body, end);
        }
        if let Some(trailers) = unseen.trailers {
            self.show_trailers(worker, direction, trailers);
        }
    }

    /// `proxy_close_stream`, after its callback has returned: Envoy resets the stream.
    pub(crate) fn close(&self) {
        for direction in [Direction::Request, Direction::Response] {
            self.half(direction).aborted = true;
        }
    }

    /// `proxy_send_local_response`, once its callback has returned.
    pub(crate) fn reply(&self, worker: &Rc<Worker>, reply: LocalReply) {
        self.half(Direction::Request).aborted = true;
        if self.is_attempt {
            self.half(Direction::Response).aborted = true;
            self.refusal.replace(Some(reply));
            return;
        }
        let (begun, passed) = {
            let half = self.half(Direction::Response);
            (!half.headers.is_empty(), half.passed().is_some())
        };
        if passed || self.direct_reply.borrow().is_some() {
            // Envoy resets the stream.
            return;
        }
        self.set_details(&reply.details);
        if begun {
            self.half(Direction::Response).aborted = true;
            self.direct_reply.replace(Some(reply));
            return;
        }
        self.pass_local_reply(worker, &reply);
    }

    /// A local reply, the router's or the module's, on its way through the module.
    fn pass_local_reply(&self, worker: &Rc<Worker>, reply: &LocalReply) {
        let end = reply.body.is_empty();
        self.headers(worker, Direction::Response, reply.all_headers(), end);
        if !end {
            self.frame(worker, Direction::Response, &reply.body, true);
        }
    }

    /// Envoy's own answer, when no backend answers.
    pub(crate) fn reply_locally(&self, worker: &Rc<Worker>, status: u16, details: &str) {
        self.half(Direction::Request).aborted = true;
        self.set_details(details);
        let reply = LocalReply {
            status: u32::from(status),
            details: details.to_owned(),
            headers: Headers::default(),
            body: details.as_bytes().to_vec(),
        };
        self.pass_local_reply(worker, &reply);
    }

    pub(crate) fn answered(&self) -> Option<Answer> {
        let answer = match &*self.direct_reply.borrow() {
            Some(reply) => Message {
                headers: reply.all_headers(),
                body: reply.body.clone(),
                trailers: None,
                complete: true,
            },
            None => self.half(Direction::Response).passed()?.clone(),
        };
        let status = answer.headers.get(":status").and_then(|s| s.parse().ok());
        Some(Answer {
            status: status.expect("a response has a status"),
            headers: answer.headers,
            body: answer.body,
            complete: answer.complete,
            details: self.details(),
        })
    }
}

impl LocalReply {
    /// The headers, with those that Envoy adds.
    fn all_headers(&self) -> Headers {
        let mut headers = Headers::from([(":status", self.status.to_string().as_str())]);
        for (name, value) in self.headers.iter() {
            headers.add(name, value);
        }
        headers.remove("content-length");
        if !self.body.is_empty() {
            headers.add("content-length", self.body.len().to_string());
            if headers.first("content-type").is_none() {
                headers.add("content-type", "text/plain");
            }
        }
        headers
    }
}

/// A request in progress. The test plays the client and the router.
///
/// When dropped, the stream ends as if its client had received the rest of its answer.
pub struct Stream {
    worker: Rc<Worker>,
    state: Rc<StreamState>,
}

impl Stream {
    pub(crate) fn begin<V: AsRef<[u8]>>(
        worker: &Rc<Worker>,
        properties: &[(&str, V)],
        headers: Headers,
        end: bool,
    ) -> Self {
        let state = Rc::new(StreamState::new(worker, properties, None));
        state.begin(worker, headers, end);
        Self {
            worker: Rc::clone(worker),
            state,
        }
    }

    /// The id of the stream's context.
    pub fn id(&self) -> u32 {
        self.state.id
    }

    /// The module's action after the last callback.
    pub fn action(&self) -> Action {
        self.state.action()
    }

    /// The client sends a frame of the body; `end` with the last one, which may be empty. `None` if the module does not
    /// see it now, because everything is stopped or answered.
    ///
    /// After `Continue` the module sees each frame alone. After a `Pause` it sees the held frames too.
    pub fn body(&self, frame: impl AsRef<[u8]>, end: bool) -> Option<Action> {
        self.state
            .frame(&self.worker, Direction::Request, frame.as_ref(), end)
    }

    /// The client ends its request with trailers.
    pub fn trailers(&self, trailers: impl Into<Headers>) -> Option<Action> {
        self.state
            .end_with(&self.worker, Direction::Request, trailers.into())
    }

    /// The backend begins its answer to the router's request; `end` if it has no body.
    ///
    /// # Panics
    /// When the request has not reached the router.
    pub fn respond(&self, status: u16, headers: impl Into<Headers>, end: bool) -> Action {
        assert!(self.forwarded().is_some(), "the router has no request");
        self.state.set_details("via_upstream");
        let mut all = Headers::from([(":status", status.to_string().as_str())]);
        for (name, value) in headers.into().iter() {
            all.add(name, value);
        }
        all.add("x-envoy-upstream-service-time", "3");
        self.state
            .headers(&self.worker, Direction::Response, all, end);
        self.action()
    }

    /// The backend sends a frame of its body; see [`Stream::body`].
    pub fn response_body(&self, frame: impl AsRef<[u8]>, end: bool) -> Option<Action> {
        self.state
            .frame(&self.worker, Direction::Response, frame.as_ref(), end)
    }

    /// The backend ends its answer with trailers.
    pub fn response_trailers(&self, trailers: impl Into<Headers>) -> Option<Action> {
        self.state
            .end_with(&self.worker, Direction::Response, trailers.into())
    }

    /// Envoy's router answers itself, when no backend does.
    ///
    /// `details` are its code details, such as `upstream_reset_before_response_started{connection_failure}` with 503, or
    /// `response_timeout` with 504.
    ///
    /// # Panics
    /// When the request has not reached the router.
    pub fn respond_locally(&self, status: u16, details: &str) {
        assert!(self.forwarded().is_some(), "the router has no request");
        self.state.reply_locally(&self.worker, status, details);
    }

    /// The message at the router so far; `None` while the headers are held.
    pub fn forwarded(&self) -> Option<Message> {
        self.state.half(Direction::Request).passed().cloned()
    }

    /// The client's answer so far; `None` while the headers are held.
    pub fn answered(&self) -> Option<Answer> {
        self.state.answered()
    }

    /// The client's answer.
    ///
    /// # Panics
    /// When the answer is not complete.
    pub fn answer(&self) -> Answer {
        let answer = self.answered().expect("the client has an answer");
        assert!(answer.complete, "the answer is not complete: {answer:?}");
        answer
    }

    /// Sets a property that the module may read. Zero bytes separate the parts of `path`.
    pub fn set_property(&self, path: &str, value: impl AsRef<[u8]>) {
        self.state.set_property(path, value.as_ref());
    }

    /// A property that the module or the test has set.
    pub fn property(&self, path: &str) -> Option<Vec<u8>> {
        self.state.property(path.as_bytes())
    }

    /// The stream ends: log, done, delete.
    pub fn end(self) {}

    /// The client disconnects.
    pub fn disconnect(self) {
        self.state.set_details("downstream_remote_disconnect");
    }

    /// The backend breaks off its answer.
    pub fn break_off(self) {
        self.state
            .set_details("upstream_reset_after_response_started{connection_termination}");
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.worker.end_stream(&self.state);
        }
    }
}
