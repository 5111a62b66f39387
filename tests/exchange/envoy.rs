//! A model of Envoy. A sequence of numbers decides what it does to one request, and each step is checked.

use std::collections::BTreeMap;

use azure_openai_balancer::core::balancer::{Awaited, WaitResult};
use azure_openai_balancer::core::edits::{Edit, Edits};
use azure_openai_balancer::core::exchange::{Exchange, FinalAnswer, Input, Next, Stalled};
use azure_openai_balancer::core::header_map::HeaderMap;

use super::world::World;

const BODY: &[u8] = br#"{"model":"gpt","messages":[]}"#;

/// Answers of backends: status and body. A body with status 200 that is not JSON is an event stream.
const ANSWERS: [(u16, &str); 13] = [
    (200, "{}"),
    (
        200,
        "data: {\"choices\":[]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"H\"}}]}\n\n",
    ),
    (200, "event: ping\ndata: {}\n\n"),
    (
        200,
        "data: {\"error\":{\"code\":\"429\"}}\n\ndata: [DONE]\n\n",
    ),
    (
        200,
        "event: ping\ndata: {}\n\ndata: {\"error\":{\"code\":\"server_error\"}}\n\n",
    ),
    (200, "data: {\"error\":{\"code\":\"content_filter\"}}\n\n"),
    (429, "{}"),
    (503, "{}"),
    (401, "{}"),
    (401, r#"{"error":{"code":"PermissionDenied"}}"#),
    (404, r#"{"error":{"code":"DeploymentNotFound"}}"#),
    (400, r#"{"error":{"code":"content_filter"}}"#),
    (500, ""),
];

/// The end of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Answered,
    ClientGone,
    /// Its answer was cut off after silence.
    CutOff,
}

/// The answer that Envoy holds for the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hand {
    /// No answer.
    Empty,
    /// No answer yet: an attempt is in progress.
    Out,
    /// The headers and a part of the body.
    Open,
    /// A complete answer.
    Whole,
    /// The last answer, for the listener's filter.
    LastWord,
}

pub(crate) struct Envoy<'w> {
    world: &'w World,
    exchange: Exchange,
    numbers: std::vec::IntoIter<u8>,
    /// The request's headers at the router.
    headers: BTreeMap<String, String>,
    request_ended: bool,
    is_sent: bool,
    awaited: Option<Awaited>,
    hand: Hand,
    /// The body of the answer at hand.
    body: &'static str,
    /// How much of the body has arrived.
    shown: usize,
    /// The backend sends no more of the body.
    stalls: bool,
    /// The listener's filter holds a frame of it: only the next frame can let that one go.
    holds_frame: bool,
    /// The answer passes with its next frame.
    awaits_frame: bool,
    marked: bool,
    call: bool,
    attempt_held: bool,
    /// No newer token came for an attempt that the router had already begun.
    repeats: bool,
    answers: usize,
    /// The passing answer has a limit of silence.
    is_watched: bool,
    /// The clusters of all attempts, with the credential that each got.
    attempts: Vec<(String, String)>,
    trace: Vec<String>,
}

impl<'w> Envoy<'w> {
    pub(crate) fn new(world: &'w World, numbers: &[u8]) -> Self {
        Self {
            world,
            exchange: Exchange::new(&world.balancer),
            numbers: Vec::from(numbers).into_iter(),
            headers: BTreeMap::new(),
            request_ended: false,
            is_sent: false,
            awaited: None,
            hand: Hand::Empty,
            body: "",
            shown: 0,
            stalls: false,
            holds_frame: false,
            awaits_frame: false,
            marked: false,
            call: false,
            attempt_held: false,
            repeats: false,
            answers: 0,
            is_watched: false,
            attempts: Vec::new(),
            trace: Vec::new(),
        }
    }

    /// The next number, modulo `bound`. When there are no more, 0, with which everything succeeds.
    fn draw(&mut self, bound: u8) -> u8 {
        self.numbers.next().map_or(0, |number| number % bound)
    }

    fn handle(&mut self, input: Input) -> Next {
        self.trace.push(format!("{input:?}"));
        let before = self.exchange.state();
        let is_end = matches!(input, Input::End { .. });
        let next = self.exchange.handle(input, &self.world.balancer);
        let after = self.exchange.state();
        if before != after && !is_end {
            self.world.note_step(before, after);
        }
        self.trace.push(format!("  {next:?}"));
        if !matches!(next, Next::Hold | Next::Wait(_) | Next::Continue) {
            self.awaited = None;
        }
        match next {
            Next::Wait(_) if self.draw(8) == 7 => {
                self.repeats |= self.attempt_held;
                self.handle(Input::CannotWait)
            }
            Next::Wait(awaited) => {
                self.awaited = Some(awaited);
                Next::Hold
            }
            Next::Call => {
                let attempt = self.call();
                self.note_attempt(attempt);
                if self.draw(6) == 5 {
                    let unknown_cluster = false;
                    return self.handle(Input::CallRefused { unknown_cluster });
                }
                self.call = true;
                Next::Hold
            }
            next => next,
        }
    }

    fn call(&self) -> (String, BTreeMap<String, String>) {
        let call = self.exchange.call(&self.world.balancer).unwrap();
        let headers = call.headers(&self.world.balancer);
        assert_ne!(call.body().len(), 0, "{:#?}", self.trace);
        let headers = headers.iter().map(|(n, v)| ((*n).into(), (*v).into()));
        (call.attempt.backend.cluster.clone(), headers.collect())
    }

    fn note_attempt(&mut self, (cluster, headers): (String, BTreeMap<String, String>)) {
        let trace = &self.trace;
        let (name, value) = self.world.credential(&cluster);
        assert_eq!(headers.get(name), Some(&value), "{cluster}: {trace:#?}");
        let other = if name == "api-key" {
            "authorization"
        } else {
            "api-key"
        };
        assert_eq!(headers.get(other), None, "{cluster}: {trace:#?}");
        let is_new = |(earlier, shown): &(String, String)| *earlier != cluster || *shown != value;
        let is_new = self.attempts.iter().all(is_new);
        assert!(is_new || self.repeats, "{cluster}: {trace:#?}");
        self.attempts.push((cluster, value));
        assert!(self.attempts.len() <= self.world.max_attempts, "{trace:#?}");
    }

    fn apply<const FEW: usize>(headers: &mut BTreeMap<String, String>, edits: &Edits<'_, FEW>) {
        for edit in edits.iter() {
            match edit {
                Edit::Set(name, value) => headers.insert((*name).into(), value.to_string()),
                Edit::Remove(name) => headers.remove(*name),
            };
        }
    }

    pub(crate) fn run(mut self) -> Ended {
        let path = match self.draw(16) {
            15 => "/elsewhere",
            _ => "/openai/v1/chat/completions",
        };
        let begin = [
            (":method", "POST"),
            (":path", path),
            ("authorization", "Bearer CLIENT"),
            ("content-length", "29"),
        ];
        self.headers = begin.map(|(n, v)| (n.to_owned(), v.to_owned())).into();
        let pairs = begin.map(|(n, v)| (n.as_bytes(), v.as_bytes()));
        let headers = HeaderMap::new(HeaderMap::encode(&pairs));
        let next = self.handle(Input::Request {
            headers,
            end: false,
        });
        self.follow(next);
        for _ in 0..200 {
            if self.is_watched && (self.stalls || self.draw(4) == 3) {
                self.fall_silent();
                return self.end(Ended::CutOff);
            }
            if self.answers > 0 && (self.stalls || self.hand != Hand::Open) {
                return self.end(Ended::Answered);
            }
            // The client disconnects.
            if self.draw(32) == 31 {
                return self.end(Ended::ClientGone);
            }
            self.step();
        }
        panic!("it hangs: {:#?}", self.trace);
    }

    fn end(mut self, ended: Ended) -> Ended {
        let (complete, details) = (ended == Ended::Answered, None);
        let next = self.handle(Input::End { complete, details });
        assert_eq!(next, Next::Continue);
        if ended != Ended::ClientGone {
            assert_eq!(self.answers, 1, "{:#?}", self.trace);
        }
        // A worker looks at all of its streams, one after the other, so it may report a silence late.
        assert_eq!(self.handle(Input::Silent), Next::Continue);
        ended
    }

    /// The passing answer gets no more bytes.
    fn fall_silent(&mut self) {
        assert_eq!(self.handle(Input::Silent), Next::Reset, "{:#?}", self.trace);
        // A frame may still be in progress. A silence is reported once.
        let (bytes, end) = (None, false);
        let next = self.handle(Input::AnswerBody { bytes, end });
        assert_eq!(next, Next::Continue, "{:#?}", self.trace);
        assert_eq!(self.handle(Input::Silent), Next::Continue);
    }

    /// One event.
    fn step(&mut self) {
        if self.answers == 0 && self.draw(16) == 15 {
            // Only a passing answer is cut off.
            assert_eq!(self.handle(Input::Silent), Next::Continue);
        }
        let may_wait_end = self.awaited.is_some() && self.draw(2) == 0;
        if may_wait_end {
            return self.end_wait();
        }
        if !self.request_ended && self.draw(2) == 0 {
            return self.send_body();
        }
        match (self.world.is_router, self.hand) {
            _ if self.call => self.answer_call(),
            (true, _) => self.route(),
            (false, Hand::Out) => self.answer(),
            (false, Hand::Open) if !self.stalls => self.more_of_answer(),
            _ if self.awaited.is_some() => self.end_wait(),
            _ => assert!(
                !self.request_ended,
                "nothing will end this: {:#?}",
                self.trace
            ),
        }
    }

    fn send_body(&mut self) {
        // In one piece or in two.
        let end = self.draw(3) != 2;
        if self.exchange.wants_body(end) {
            let chunk = if end { BODY.to_vec() } else { Vec::new() };
            self.exchange.read(chunk, end, &self.world.balancer);
        }
        self.request_ended = end;
        let shown = BODY.len();
        let next = self.handle(Input::RequestBody { shown, end });
        if self.attempt_held {
            // In this case the attempt waits, in a filter of its own.
            return assert_eq!(next, Next::Continue);
        }
        self.follow(next);
    }

    fn end_wait(&mut self) {
        let Some(awaited) = self.awaited.take() else {
            return;
        };
        let comes = self.draw(3) != 2;
        let result = match awaited {
            Awaited::Token(_) | Awaited::NewerToken(..) if comes => {
                self.world.renew();
                WaitResult::Token(self.world.balancer.credentials.of(2).unwrap())
            }
            Awaited::Token(_) | Awaited::NewerToken(..) => {
                self.repeats |= self.attempt_held;
                WaitResult::NoToken(std::time::Duration::from_secs(1))
            }
            Awaited::RequestBody | Awaited::ErrorBody | Awaited::StreamStart(_) => {
                WaitResult::TimedOut
            }
            Awaited::Backend(wanted) => {
                self.world.pass(wanted.left.as_millis() as u64);
                WaitResult::Backend
            }
        };
        let stalled = self.exchange.wants_stalled().then(|| {
            Box::new(Stalled {
                headers: answer_headers(429, "{}"),
                body: Vec::new(),
            })
        });
        let next = self.handle(Input::WaitEnded { result, stalled });
        self.follow_from_outside(next);
    }

    /// Does what the machine says, in a callback that is not the answer's.
    fn follow_from_outside(&mut self, next: Next) {
        let awaits_frame = self.holds_frame && self.hand == Hand::Open;
        if next != Next::Pass || !awaits_frame || self.exchange.is_late_stream() {
            return self.follow(next);
        }
        match self
            .exchange
            .handle(Input::NeedsFrame, &self.world.balancer)
        {
            Next::Wait(awaited) => self.awaited = Some(awaited),
            next => panic!("{next:?}: {:#?}", self.trace),
        }
        self.trace.push(format!("{:?}", Input::NeedsFrame));
        self.awaits_frame = true;
        if self.draw(8) == 7 {
            // The wait is refused.
            self.end_wait();
        }
    }

    /// Carries out the machine's decision, as far as Envoy takes part in it.
    fn follow(&mut self, next: Next) {
        let was_held = std::mem::take(&mut self.attempt_held);
        match next {
            Next::Hold => {
                self.attempt_held = was_held;
                let goes_on = self.awaited.is_some()
                    || !self.request_ended
                    || self.call
                    || matches!(self.hand, Hand::Out | Hand::LastWord)
                    || self.hand == Hand::Open && !self.stalls;
                assert!(goes_on, "nothing will end this: {:#?}", self.trace);
            }
            Next::Continue | Next::Point => {}
            Next::Send => {
                assert!(!std::mem::replace(&mut self.is_sent, true));
                let edits = self.exchange.edits(&self.world.balancer);
                Self::apply(&mut self.headers, &edits);
                self.hand = Hand::Out;
                if !self.world.is_router {
                    let cluster = self.headers["x-aoai-cluster"].clone();
                    self.note_attempt((cluster, self.headers.clone()));
                } else {
                    self.marked = true;
                }
            }
            Next::PassAttempt => {
                let edits = self.exchange.attempt_edits(&self.world.balancer);
                Self::apply(&mut self.headers, &edits);
                let host = self.headers[":authority"].clone();
                let cluster = host.split('.').next().unwrap().to_owned();
                self.note_attempt((cluster, self.headers.clone()));
                self.hand = Hand::Out;
                self.marked = false;
            }
            Next::Refuse(details) => self.last_word(503, Some(details), false),
            Next::Mark => {
                self.marked = true;
                self.hand = Hand::Whole;
            }
            Next::Pass if self.world.is_router && self.hand != Hand::LastWord => {
                self.hand = Hand::LastWord;
            }
            Next::Yield => self.hand = Hand::LastWord,
            Next::Pass | Next::Reply => {
                self.answers += 1;
                assert_eq!(self.answers, 1, "{:#?}", self.trace);
                let limit = self.exchange.silence_limit(&self.world.balancer);
                self.is_watched = limit.is_some() && self.hand != Hand::Whole;
                assert!(limit.is_none() || next == Next::Pass);
                if next == Next::Reply {
                    let reply = self.exchange.reply(&self.world.balancer);
                    assert!(reply.is_some_and(|reply| reply.status >= 200));
                    self.hand = Hand::Whole;
                }
            }
            Next::Wait(_) | Next::Call | Next::Reset => panic!("{next:?}"),
        }
    }

    /// A backend or Envoy answers the current attempt.
    fn answer(&mut self) {
        let by_envoy = !self.world.is_router && self.draw(5) == 4;
        let (status, body) = match by_envoy {
            true => (503, ""),
            false => ANSWERS[usize::from(self.draw(ANSWERS.len() as u8))],
        };
        let end = body.is_empty();
        self.body = body;
        self.shown = 0;
        self.hand = if end { Hand::Whole } else { Hand::Open };
        self.stalls = !end && self.draw(4) == 3;
        self.holds_frame = false;
        let wants = self.exchange.wants(status, &self.world.balancer);
        let details = match by_envoy {
            true => &b"upstream_reset_before_response_started{connection_failure}"[..],
            false => b"via_upstream",
        };
        let reads_start = !end && self.exchange.reads_stream_start(&self.world.balancer);
        let headers = (wants.headers || reads_start).then(|| answer_headers(status, body));
        let next = self.handle(Input::Answer {
            status,
            details: wants.details.then(|| details.to_vec()),
            headers,
            end,
            may_hold: self.request_ended || !self.world.is_router,
        });
        // Envoy crashes if such an answer is resumed: see `docs/envoy-crash.md`.
        let may_hold = self.request_ended || !self.world.is_router;
        assert!(may_hold || next != Next::Hold, "{:#?}", self.trace);
        if self.world.is_router && next == Next::Continue {
            self.hand = Hand::LastWord;
        }
        self.follow(next);
    }

    fn more_of_answer(&mut self) {
        let end = self.draw(3) != 2;
        if end {
            self.hand = Hand::Whole;
            self.is_watched = false;
        }
        // A random part of the body, unless it is the last one.
        let left = self.body.len() - self.shown;
        self.shown += match end {
            true => left,
            false => left * usize::from(self.draw(8)) / 8,
        };
        self.stalls = !end && self.draw(8) == 7;
        let wanted = self.exchange.wants_answer_body(self.shown, end);
        let bytes = wanted.map(|range| self.body.as_bytes()[range].to_vec());
        let next = self.handle(Input::AnswerBody { bytes, end });
        self.holds_frame |= !self.world.is_router && next == Next::Hold;
        if std::mem::take(&mut self.awaits_frame) {
            assert_eq!(next, Next::Continue, "{:#?}", self.trace);
            self.awaited = None;
            self.answers += 1;
        }
        self.follow(next);
    }

    fn answer_call(&mut self) {
        self.call = false;
        let (headers, body) = match self.draw(4) {
            // None came.
            3 => (HeaderMap::new(HeaderMap::encode(&[])), Vec::new()),
            _ => {
                let (status, body) = ANSWERS[usize::from(self.draw(ANSWERS.len() as u8))];
                (answer_headers(status, body), body.as_bytes().to_vec())
            }
        };
        let next = self.handle(Input::CallAnswer { headers, body });
        self.follow_from_outside(next);
    }

    /// The router's part: it begins an attempt, passes an answer on, or gives up.
    fn route(&mut self) {
        match self.hand {
            Hand::Empty => {
                if self.awaited.is_some() {
                    self.end_wait();
                }
            }
            Hand::LastWord => self.last_word(200, Some("via_upstream"), false),
            Hand::Out if self.marked && !self.attempt_held => match self.draw(8) {
                7 => self.last_word(503, Some("no_healthy_upstream"), false),
                _ => self.begin_attempt(),
            },
            Hand::Out if self.attempt_held => self.end_wait(),
            Hand::Out => match self.draw(6) {
                5 => self.no_answer(),
                _ => self.answer(),
            },
            Hand::Open if self.awaited.is_some() && self.stalls => self.end_wait(),
            Hand::Open => match self.draw(6) {
                _ if self.stalls => self.no_answer(),
                5 => self.no_answer(),
                _ => self.more_of_answer(),
            },
            Hand::Whole if self.marked => match self.draw(8) {
                7 => self.last_word(429, Some("via_upstream"), true),
                6 => self.last_word(503, Some("no_healthy_upstream"), false),
                _ => self.begin_attempt(),
            },
            Hand::Whole => self.end_wait(),
        }
    }

    /// The current attempt ends without an answer. The router begins another one, or gives up.
    fn no_answer(&mut self) {
        let goes_on = self.attempts.len() < self.world.max_attempts && self.draw(2) == 0;
        match goes_on {
            true => self.begin_attempt(),
            false => self.last_word(504, Some("upstream_response_timeout"), false),
        }
    }

    fn begin_attempt(&mut self) {
        let destination = self.exchange.destination(&self.world.balancer);
        let cluster = destination.map(|cluster| cluster.as_bytes().to_vec());
        let cluster = cluster.filter(|_| self.exchange.is_retrying());
        self.hand = Hand::Out;
        self.attempt_held = true;
        let next = self.handle(Input::Attempt { cluster });
        self.attempt_held = next == Next::Hold;
        self.follow(next);
    }

    fn last_word(&mut self, status: u16, details: Option<&str>, is_marked: bool) {
        self.hand = Hand::LastWord;
        self.awaited = None;
        let word = self.exchange.wants_final_answer().then(|| FinalAnswer {
            status,
            details: details.map(|details| details.as_bytes().to_vec()),
            is_marked,
        });
        let next = self.handle(Input::FinalAnswer(word));
        if next == Next::Continue {
            // Envoy's own answer.
            self.answers += 1;
        }
        self.follow(next);
        self.hand = Hand::Whole;
    }
}

fn answer_headers(status: u16, body: &str) -> HeaderMap {
    let media = match (status, body) {
        (200, "{}") => "application/json",
        (200, _) => "text/event-stream",
        _ => "application/json",
    };
    let status = status.to_string();
    let pairs = [
        (":status", &*status),
        ("retry-after", "1"),
        ("content-type", media),
    ];
    let pairs = pairs.map(|(n, v)| (n.as_bytes(), v.as_bytes()));
    HeaderMap::new(HeaderMap::encode(&pairs))
}
