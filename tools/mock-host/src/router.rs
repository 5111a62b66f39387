//! Envoy's router, as a module on both sides of it sees it: it sends a request to a cluster, and retries it on another
//! one.
//!
//! Modelled after Envoy's `source/common/router/router.cc`, `upstream_request.cc` and `retry_state_impl.cc`. There are
//! no waits here: the next attempt begins when the last one has ended, without Envoy's back-off of some milliseconds.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::Deref;
use std::rc::{Rc, Weak};

use crate::abi::Action;
use crate::half::Message;
use crate::headers::Headers;
use crate::stream::{Answer, Direction, LocalReply, StreamState};
use crate::vm::{Vm, Worker};

/// The header that marks an answer for the route's retry policy.
const MARK: &str = "x-aoai-retry";
const RATE_LIMITED: &str = "x-envoy-ratelimited";
const NEXT: &[u8] = b"aoai_next";
const MAX_RETRIES: &str = "x-envoy-max-retries";
/// The route's `num_retries`, for three attempts.
const ROUTE_RETRIES: u32 = 2;
const TRY_TIMEOUT: &str = "x-envoy-upstream-rq-per-try-timeout-ms";

/// A route to the clusters of a fleet, with the module before and behind the router.
///
/// The route reads the cluster of each attempt in the filter state that the module writes. An answer with the header
/// `x-aoai-retry` causes another attempt.
#[derive(Clone)]
pub struct Router {
    listener: Rc<Worker>,
    upstream: Rc<Worker>,
    bypassing: BTreeSet<String>,
    clusters: BTreeSet<String>,
    without_hosts: BTreeSet<String>,
    refreshes: bool,
    heeds_marks: bool,
}

impl Router {
    /// A route to `clusters`, between the `listener`'s plugin and the clusters' `upstream` one.
    pub fn new(listener: &Vm, upstream: &Vm, clusters: &[&str]) -> Self {
        Self {
            listener: Rc::clone(&listener.0),
            upstream: Rc::clone(&upstream.0),
            bypassing: BTreeSet::new(),
            clusters: clusters.iter().copied().map(str::to_owned).collect(),
            without_hosts: BTreeSet::new(),
            refreshes: true,
            heeds_marks: true,
        }
    }

    /// Removes the module from the filters of this cluster.
    #[must_use]
    pub fn without_upstream_filter(mut self, cluster: &str) -> Self {
        self.bypassing.insert(cluster.to_owned());
        self
    }

    /// Sends retries to the first attempt's cluster: the route lacks `refresh_cluster_on_retry`.
    #[must_use]
    pub fn without_refresh(self) -> Self {
        Self {
            refreshes: false,
            ..self
        }
    }

    /// Ignores the mark on answers: the route does not know the header, or a circuit breaker is open.
    #[must_use]
    pub fn without_heed(self) -> Self {
        Self {
            heeds_marks: false,
            ..self
        }
    }

    /// Leaves this cluster without a healthy host.
    #[must_use]
    pub fn without_hosts(mut self, cluster: &str) -> Self {
        self.without_hosts.insert(cluster.to_owned());
        self
    }

    /// A client's request; `end` if it has no body.
    pub fn request(&self, headers: impl Into<Headers>, end: bool) -> Routed {
        let state = Rc::new(RoutedState {
            router: self.clone(),
            stream: Rc::new(StreamState::new::<&str>(&self.listener, &[], None)),
            headers: RefCell::default(),
            attempts: RefCell::default(),
            retries_left: Cell::default(),
            started: Cell::default(),
            busy: Cell::default(),
        });
        let mut routed = self.listener.instance.routed.borrow_mut();
        routed.push(Rc::downgrade(&state));
        drop(routed);
        state.stream.begin(&self.listener, headers.into(), end);
        state.proceed();
        Routed(state)
    }
}

pub(crate) struct RoutedState {
    router: Router,
    stream: Rc<StreamState>,
    /// The request's headers: one map for all attempts.
    headers: RefCell<Headers>,
    attempts: RefCell<Vec<Attempt>>,
    retries_left: Cell<u32>,
    started: Cell<bool>,
    busy: Cell<bool>,
}

impl RoutedState {
    /// Takes all steps that have become possible.
    pub(crate) fn proceed(self: &Rc<Self>) {
        if self.busy.replace(true) {
            return;
        }
        while self.step() {}
        self.busy.set(false);
    }

    /// Takes the next possible step; `false` if there is none.
    fn step(self: &Rc<Self>) -> bool {
        let attempt = self.current();
        if let Some(attempt) = &attempt {
            if let Some(reply) = attempt.stream.refusal.take() {
                attempt.end();
                self.answer(reply);
                return true;
            }
        }
        if self.stream.is_answered() {
            if let Some(attempt) = &attempt {
                attempt.end();
            }
            return attempt.is_some();
        }
        match attempt {
            Some(attempt) => self.pass_request(&attempt) || self.pass_answer(&attempt),
            None if !self.started.get() => self.start(),
            None => false,
        }
    }

    /// The current attempt.
    fn current(&self) -> Option<Attempt> {
        let attempts = self.attempts.borrow();
        attempts.last().filter(|a| !a.ended.get()).cloned()
    }

    fn forwarded(&self) -> Option<Message> {
        self.stream.half(Direction::Request).passed().cloned()
    }

    fn start(self: &Rc<Self>) -> bool {
        let Some(request) = self.forwarded() else {
            return false;
        };
        self.started.set(true);
        let mut headers = request.headers;
        let retries = headers.get(MAX_RETRIES).and_then(|text| text.parse().ok());
        self.retries_left.set(retries.unwrap_or(ROUTE_RETRIES));
        // Envoy does not pass the router's instructions on.
        headers.remove(MAX_RETRIES);
        headers.remove(TRY_TIMEOUT);
        self.headers.replace(headers);
        self.attempt(self.next_cluster());
        true
    }

    fn next_cluster(&self) -> String {
        let first = self.attempts.borrow().first().map(|a| a.cluster.clone());
        match first {
            Some(first) if !self.router.refreshes => first,
            _ => {
                let next = self.stream.property(NEXT).unwrap_or_default();
                let next = String::from_utf8_lossy(&next);
                next.split(' ').next().unwrap_or_default().to_owned()
            }
        }
    }

    fn attempt(self: &Rc<Self>, cluster: String) {
        let router = &self.router;
        if !router.clusters.contains(&cluster) || router.without_hosts.contains(&cluster) {
            let known = router.clusters.contains(&cluster) || !self.attempts.borrow().is_empty();
            let details = if known {
                "no_healthy_upstream"
            } else {
                "cluster_not_found"
            };
            let stream = &self.stream;
            return stream.reply_locally(&router.listener, 503, details);
        }
        let properties = [("xds\0cluster_name", cluster.as_str())];
        let mut stream = StreamState::new(&router.upstream, &properties, Some(&self.stream));
        stream.bypassed = router.bypassing.contains(&cluster);
        let attempt = Attempt(Rc::new(AttemptState {
            request: Rc::downgrade(self),
            worker: Rc::clone(&router.upstream),
            stream: Rc::new(stream),
            cluster,
            ended: Cell::default(),
            passing: Cell::default(),
            body_sent: Cell::default(),
            body_passed: Cell::default(),
        }));
        self.attempts.borrow_mut().push(attempt.clone());
        let complete = self
            .forwarded()
            .is_some_and(|m| m.complete && m.body.is_empty() && m.trailers.is_none());
        let headers = self.headers.borrow().clone();
        attempt.stream.begin(&router.upstream, headers, complete);
        // There is one map, so the next attempt has this attempt's changes.
        let headers = attempt.stream.half(Direction::Request).headers.clone();
        self.headers.replace(headers);
    }

    /// Passes the part of the request that has arrived to the attempt.
    fn pass_request(&self, attempt: &AttemptState) -> bool {
        let Some(message) = self.forwarded() else {
            return false;
        };
        {
            let half = attempt.stream.half(Direction::Request);
            if half.ended || half.aborted {
                return false;
            }
        }
        let (stream, worker) = (&attempt.stream, &attempt.worker);
        let rest = message.body[attempt.body_sent.get()..].to_vec();
        attempt.body_sent.set(message.body.len());
        let end = message.complete && message.trailers.is_none();
        if !rest.is_empty() || end {
            stream.frame(worker, Direction::Request, &rest, end);
            return true;
        }
        match message.trailers {
            Some(trailers) if message.complete => {
                stream.end_with(worker, Direction::Request, trailers);
                true
            }
            _ => false,
        }
    }

    /// Passes the part of an answer that has arrived to the client, or decides on another attempt.
    fn pass_answer(self: &Rc<Self>, attempt: &Attempt) -> bool {
        let passed = attempt.stream.half(Direction::Response).passed().cloned();
        let Some(message) = passed else {
            return false;
        };
        let worker = &self.router.listener;
        if !attempt.passing.replace(true) {
            // The retry policy has no `envoy-ratelimited`.
            let limited = message.headers.get(RATE_LIMITED).is_some();
            let marked = self.router.heeds_marks && message.headers.get(MARK).is_some() && !limited;
            if marked && self.retry(attempt) {
                return true;
            }
            let end = message.complete && message.body.is_empty() && message.trailers.is_none();
            self.stream.set_details("via_upstream");
            self.stream
                .headers(worker, Direction::Response, message.headers, end);
            return true;
        }
        if self.stream.half(Direction::Response).ended {
            return false;
        }
        let rest = message.body[attempt.body_passed.get()..].to_vec();
        attempt.body_passed.set(message.body.len());
        let end = message.complete && message.trailers.is_none();
        if !rest.is_empty() || end {
            self.stream.frame(worker, Direction::Response, &rest, end);
            return true;
        }
        match message.trailers {
            Some(trailers) if message.complete => {
                self.stream.end_with(worker, Direction::Response, trailers);
                true
            }
            _ => false,
        }
    }

    /// Begins another attempt, if one is allowed. It gets the part of the request that has arrived, and later the rest.
    fn retry(self: &Rc<Self>, attempt: &Attempt) -> bool {
        let left = self.retries_left.get();
        if left == 0 {
            return false;
        }
        self.retries_left.set(left - 1);
        attempt.end();
        self.attempt(self.next_cluster());
        true
    }

    fn no_answer(self: &Rc<Self>, attempt: &Attempt, status: u16, details: &str) {
        if attempt.passing.get() {
            let details = "upstream_reset_after_response_started{connection_termination}";
            self.end(details);
        } else if !self.retry(attempt) {
            attempt.end();
            self.stream
                .reply_locally(&self.router.listener, status, details);
        }
        self.proceed();
    }

    /// An upstream filter's own answer: the downstream filters see it, and the retry policy does not.
    fn answer(&self, reply: LocalReply) {
        self.stream.reply(&self.router.listener, reply);
    }

    /// Ends a request before its attempt. Envoy destroys the filters in their order, and the router is the last.
    fn end(&self, details: &str) {
        if !details.is_empty() {
            self.stream.set_details(details);
        }
        self.router.listener.end_stream(&self.stream);
        if let Some(attempt) = self.current() {
            attempt.end();
        }
    }
}

/// A request through a [`Router`]. The test plays the client.
///
/// When dropped, the request ends as if its client had received the rest of its answer.
pub struct Routed(Rc<RoutedState>);

impl Routed {
    /// The id of the downstream stream's context.
    pub fn id(&self) -> u32 {
        self.0.stream.id
    }

    /// The module's action after the last downstream callback.
    pub fn action(&self) -> Action {
        self.0.stream.action()
    }

    /// The client sends a frame of the body; `end` with the last one.
    pub fn body(&self, frame: impl AsRef<[u8]>, end: bool) {
        let worker = &self.0.router.listener;
        self.0
            .stream
            .frame(worker, Direction::Request, frame.as_ref(), end);
        self.0.proceed();
    }

    /// The client ends its request with trailers.
    pub fn trailers(&self, trailers: impl Into<Headers>) {
        let worker = &self.0.router.listener;
        self.0
            .stream
            .end_with(worker, Direction::Request, trailers.into());
        self.0.proceed();
    }

    /// The message at the router, its instructions included; `None` while the headers are held.
    pub fn forwarded(&self) -> Option<Message> {
        self.0.forwarded()
    }

    /// All attempts so far.
    pub fn attempts(&self) -> Vec<Attempt> {
        self.0.attempts.borrow().clone()
    }

    /// The clusters of all attempts that reached a backend.
    pub fn clusters(&self) -> Vec<String> {
        let attempts = self.attempts().into_iter();
        let left = attempts.filter(|attempt| attempt.sent().is_some());
        left.map(|attempt| attempt.cluster.clone()).collect()
    }

    /// The current attempt.
    ///
    /// # Panics
    /// When there is none.
    pub fn attempt(&self) -> Attempt {
        self.0.current().expect("an attempt is out")
    }

    /// The client's answer so far; `None` while the headers are held.
    pub fn answered(&self) -> Option<Answer> {
        self.0.stream.answered()
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

    /// Sets a property that the listener's filter may read. Zero bytes separate the parts of `path`.
    pub fn set_property(&self, path: &str, value: impl AsRef<[u8]>) {
        self.0.stream.set_property(path, value.as_ref());
    }

    /// A property that the module set.
    pub fn property(&self, path: &str) -> Option<Vec<u8>> {
        self.0.stream.property(path.as_bytes())
    }

    /// The listener answers before any backend does, after a time limit such as `stream_idle_timeout`: with 408 for an
    /// incomplete request, else 504. This ends the current attempt.
    pub fn answer_locally(&self, status: u16, details: &str) {
        let worker = &self.0.router.listener;
        self.0.stream.reply_locally(worker, status, details);
        self.0.proceed();
    }

    /// The request ends.
    pub fn end(self) {}

    /// The client disconnects.
    pub fn disconnect(self) {
        self.0.end("downstream_remote_disconnect");
    }
}

impl Drop for Routed {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.0.end("");
        }
    }
}

/// One attempt of a [`Routed`] request. The test plays the backend.
#[derive(Clone)]
pub struct Attempt(Rc<AttemptState>);

/// Shared by the handles of an attempt.
pub struct AttemptState {
    request: Weak<RoutedState>,
    worker: Rc<Worker>,
    stream: Rc<StreamState>,
    cluster: String,
    ended: Cell<bool>,
    /// Whether its answer passes to the client.
    passing: Cell<bool>,
    body_sent: Cell<usize>,
    body_passed: Cell<usize>,
}

impl Deref for Attempt {
    type Target = AttemptState;

    fn deref(&self) -> &AttemptState {
        &self.0
    }
}

impl AttemptState {
    /// The cluster.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The request at the backend; `None` if none was sent.
    pub fn sent(&self) -> Option<Message> {
        self.stream.half(Direction::Request).passed().cloned()
    }

    /// Whether the attempt is over.
    pub fn ended(&self) -> bool {
        self.ended.get()
    }

    /// The module's action after the last upstream callback.
    pub fn action(&self) -> Action {
        self.stream.action()
    }

    fn end(&self) {
        if !self.ended.replace(true) && !self.stream.bypassed {
            self.worker.end_stream(&self.stream);
        }
    }

    fn proceed(&self) {
        if let Some(request) = self.request.upgrade() {
            request.proceed();
        }
    }
}

impl Attempt {
    /// The backend begins its answer; `end` if it has no body.
    ///
    /// # Panics
    /// When the attempt was not sent, or is over.
    pub fn respond(&self, status: u16, headers: impl Into<Headers>, end: bool) -> Action {
        assert!(self.sent().is_some(), "the backend has no request");
        assert!(!self.ended.get(), "the attempt is over");
        let mut all = Headers::from([(":status", status.to_string().as_str())]);
        for (name, value) in headers.into().iter() {
            all.add(name, value);
        }
        self.stream
            .headers(&self.worker, Direction::Response, all, end);
        let action = self.action();
        self.proceed();
        action
    }

    /// The backend sends a frame of its body, `end` with the last one. Frames after the attempt's end are ignored.
    pub fn response_body(&self, frame: impl AsRef<[u8]>, end: bool) -> Option<Action> {
        if self.ended.get() {
            return None;
        }
        let (stream, frame) = (&self.stream, frame.as_ref());
        let action = stream.frame(&self.worker, Direction::Response, frame, end);
        self.proceed();
        action
    }

    /// The backend ends its answer with trailers.
    pub fn response_trailers(&self, trailers: impl Into<Headers>) -> Option<Action> {
        if self.ended.get() {
            return None;
        }
        let (stream, trailers) = (&self.stream, trailers.into());
        let action = stream.end_with(&self.worker, Direction::Response, trailers);
        self.proceed();
        action
    }

    /// The connection fails, or breaks before the answer is complete.
    pub fn fail(&self) {
        let details = "upstream_reset_before_response_started{connection_failure}";
        self.no_answer(503, details);
    }

    /// The attempt's time limit ends.
    pub fn time_out(&self) {
        self.no_answer(504, "upstream_per_try_timeout");
    }

    fn no_answer(&self, status: u16, details: &str) {
        assert!(!self.ended.get(), "the attempt is over");
        if let Some(request) = self.request.upgrade() {
            request.no_answer(self, status, details);
        }
    }
}
