//! The walk through the plan: what follows an attempt's outcome, until the client has its answer.

use std::rc::Rc;

use super::{Held, Phase, Stream};
use crate::core::exchange::{NoRetry, Replay, Verdict};
use crate::core::identity::{Authorization, Renewal};
use crate::core::outcome::{Outcome, Trace};
use crate::core::text::number;
use crate::filter::complaint::Complaint;
use crate::filter::header_map::HeaderMap;
use crate::filter::host::{self, Buffer, HostError, Map};
use crate::filter::journey::outcomes::{self, Next, ERROR_BODY};
use crate::filter::journey::{Answer, AnswerBody, Replaced};
use crate::filter::waiting::{Granted, Wish};

/// What became of the router's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Settled {
    /// It is held on.
    Held,
    /// It goes to the client.
    Released,
    /// The client gets another one.
    Replaced,
}

impl Stream {
    /// Does what follows the current attempt's `outcome`. In a callback of the answer, which acts on what is returned.
    pub(super) fn proceed(&mut self, mut outcome: Outcome) -> Result<Settled, HostError> {
        // Every turn makes an attempt, or asks for the one renewal there is, or ends.
        loop {
            match self
                .journey
                .after(outcome, self.replay(outcome), Next::Best)
            {
                Verdict::Deliver | Verdict::GiveUp(_) => return self.deliver(),
                Verdict::AwaitRequest => {
                    self.phase = Phase::Held(Held::Request(outcome));
                    return Ok(Settled::Held);
                }
                Verdict::TryNext => {
                    // Without a token there is no attempt, and the others would fare no better.
                    let backend = self.journey.exchange.backend();
                    let Some(token) = self.worker().credentials.of(backend) else {
                        return self.deliver();
                    };
                    if self.call(&token) {
                        return Ok(Settled::Held);
                    }
                    outcome = Outcome::Unavailable;
                }
                Verdict::RenewToken => {
                    let backend = self.journey.exchange.backend();
                    let generation = self.journey.token_generation();
                    match self.worker().credentials.renew(backend, generation)? {
                        Renewal::Done(token) => {
                            if self.call(&token) {
                                return Ok(Settled::Held);
                            }
                            outcome = Outcome::Unavailable;
                        }
                        Renewal::Pending if self.wait(Wish::NewerToken(backend, generation)) => {
                            self.phase = Phase::Held(Held::Token);
                            return Ok(Settled::Held);
                        }
                        // Asked once more, the exchange goes on to the next backend.
                        Renewal::IsNew => self.journey.conclude_new_token(),
                        Renewal::Pending | Renewal::Failed => {}
                    }
                }
            }
        }
    }

    /// Whether the request can be sent once more, should this `outcome` call for it.
    fn replay(&self, outcome: Outcome) -> Replay {
        let delivered = matches!(outcome, Outcome::Success | Outcome::ClientError);
        match self.body.replay() {
            // Looked at only now: most requests are sent once.
            Replay::Ready | Replay::Incomplete
                if !delivered && !self.journey.original.is_utf8() =>
            {
                Replay::Impossible(NoRetry::HeadersNotReplayable)
            }
            replay => replay,
        }
    }

    /// The same in any other callback, from which the router's answer has to be resumed.
    pub(super) fn proceed_from_outside(&mut self, outcome: Outcome) -> Result<(), HostError> {
        match self.proceed(outcome)? {
            Settled::Released if self.down.awaits_frame() => {
                self.phase = Phase::Held(Held::Frame);
                match self.wait(Wish::ErrorBody) {
                    true => Ok(()),
                    false => self.deliver_stalled(),
                }
            }
            Settled::Released => self.down.open(),
            Settled::Held | Settled::Replaced => Ok(()),
        }
    }

    /// The router's answer is the client's, and its backend has stalled.
    fn deliver_stalled(&mut self) -> Result<(), HostError> {
        self.keep_stalled(outcomes::status()?, self.router_answer.backend)?;
        self.deliver().map(|_| ())
    }

    /// Makes an attempt on the exchange's current backend as a call; `false` if Envoy does not take it.
    fn call(&mut self, token: &Rc<Authorization>) -> bool {
        let journey = &mut self.journey;
        journey.carry(token);
        journey.attempt_made();
        let Some(attempt) = journey.attempt(token) else {
            return false;
        };
        let config = &journey.worker.config;
        let path = attempt.path(|| journey.client_path());
        let splices = journey.splices();
        let spliced = (!splices.is_empty()).then(|| splices.apply(self.body.bytes()));
        let called = host::call(
            &attempt.backend.cluster,
            attempt.headers(
                &config.headers,
                path.as_deref(),
                journey.original.iter_utf8(),
            ),
            spliced.as_deref().unwrap_or(self.body.bytes()),
            self.trailers.iter_utf8().collect(),
            config.retry.per_try_timeout,
        );
        match called {
            Ok(call) => {
                if let Some(me) = self.me.upgrade() {
                    self.worker().call_made(call, self.id, me);
                }
                self.phase = Phase::Held(Held::Call(call));
                true
            }
            Err(error) => {
                // Otherwise the cluster has no healthy host, or a circuit breaker is open.
                if error.is_bad_argument() {
                    let missing = Complaint::Cluster(journey.exchange.backend());
                    journey.worker.complain(missing);
                }
                journey.trace = Trace::None;
                journey.conclude(Outcome::Unavailable, None);
                journey.timed_out = false;
                false
            }
        }
    }

    pub(super) fn on_call_response(&mut self, call: u32) -> Result<(), HostError> {
        if self.phase != Phase::Held(Held::Call(call)) {
            return Ok(());
        }
        let headers = host::headers(Map::CallHeaders)?;
        let body = host::buffer(Buffer::CallBody, 0, usize::MAX)?;
        let status = headers
            .get(":status")
            .and_then(|text| number(text.as_bytes()))
            .unwrap_or(0);
        let outcome = match status {
            // No answer at all.
            0 => Outcome::Unavailable,
            status => Outcome::from_status(status, &self.worker().config.retry)
                .unwrap_or_else(|| self.journey.error_outcome(status, &body)),
        };
        let is_real = is_from_backend(status, &headers);
        self.journey.trace = match is_real {
            true => Trace::of_status(status),
            false => Trace::of_no_answer(&body),
        };
        self.journey.conclude(outcome, Some(&headers));
        if is_real {
            self.journey.answer = Some(Answer {
                status,
                headers,
                body: AnswerBody::Whole(body),
                backend: self.journey.exchange.backend(),
            });
        } else {
            self.journey.timed_out = status == 504;
        }
        self.proceed_from_outside(outcome)
    }

    pub(super) fn on_granted(&mut self, granted: Granted) -> Result<(), HostError> {
        match (self.phase, granted) {
            (Phase::AwaitingToken, Granted::Token(_))
            | (Phase::AwaitingBackend, Granted::Backend) => self.start_from_outside(),
            (Phase::AwaitingToken, Granted::NoToken(wait)) => self.reply_without_token(wait),
            (Phase::Held(Held::Token), Granted::Token(token)) => {
                if self.call(&token) {
                    return Ok(());
                }
                self.proceed_from_outside(Outcome::Unavailable)
            }
            (Phase::Held(Held::Token), _) => self.proceed_from_outside(Outcome::BadToken),
            (Phase::AwaitingBody, Granted::NoBody) => self.forward_unheld(),
            (Phase::Held(Held::Frame), Granted::NoBody) => self.deliver_stalled(),
            (Phase::Held(Held::ErrorBody { status }), Granted::NoBody)
                if self.worker().listener_bodies.have_come() =>
            {
                self.on_stalled_error(status)
            }
            (Phase::Held(Held::ErrorBody { status }), Granted::NoBody) => {
                self.unheld.released(host::now());
                let outcome = self.journey.error_outcome(status, &[]);
                self.journey.conclude(outcome, None);
                self.proceed_from_outside(outcome)
            }
            _ => Ok(()),
        }
    }

    /// The backend answered with an error and then stalled: what has come of it decides.
    fn on_stalled_error(&mut self, status: u16) -> Result<(), HostError> {
        let body = host::buffer(Buffer::ResponseBody, 0, ERROR_BODY)?;
        let outcome = self.journey.error_outcome(status, &body);
        self.journey.conclude_answer(outcome)?;
        self.keep_stalled(status, self.router_answer.backend)?;
        self.proceed_from_outside(outcome)
    }

    /// Keeps the head of the router's answer, whose backend has stalled.
    fn keep_stalled(&mut self, status: u16, backend: usize) -> Result<(), HostError> {
        self.journey.answer = Some(Answer {
            status,
            headers: host::headers(Map::ResponseHeaders)?,
            body: AnswerBody::Stalled,
            backend,
        });
        Ok(())
    }

    /// Gives the client the last answer of a backend there is: a call's, or else the router's, or else a reply that says there
    /// was none.
    fn deliver(&mut self) -> Result<Settled, HostError> {
        // An answer may take a minute to pass, and its request is not needed any more.
        self.body.drop_because(NoRetry::AttemptsExhausted);
        if let Some(answer) = self.journey.answer.take() {
            self.phase = Phase::Replied;
            let mut put_body = |body: &[u8]| self.put_body(body);
            return Ok(match self.journey.replace(&answer, &mut put_body)? {
                Replaced::ByReply => Settled::Replaced,
                Replaced::InPlace => {
                    self.phase = Phase::Passing;
                    Settled::Released
                }
            });
        }
        if !self.router_answer.is_real {
            self.phase = Phase::Replied;
            self.journey.reply_without_answer()?;
            return Ok(Settled::Replaced);
        }
        self.phase = Phase::Passing;
        self.journey.open_answer()?;
        self.journey.sign(self.router_answer.backend)?;
        Ok(Settled::Released)
    }

    /// Puts a body in the place of the one of the router's answer, which is held. `false` if there is no room for it: the router's answer
    /// is not complete, or ends otherwise, or Envoy might refuse to hold so much.
    fn put_body(&self, body: &[u8]) -> Result<bool, HostError> {
        let holds_body = self.down.holds_body();
        let has_room = self.down.is_complete()
            && !self.router_answer.has_trailers
            && (holds_body || body.is_empty())
            && body.len() <= ERROR_BODY;
        if has_room && holds_body {
            host::replace_buffer(Buffer::ResponseBody, body)?;
        }
        Ok(has_room)
    }
}

/// Whether the answer to a call is a backend's, not Envoy's own for want of one.
fn is_from_backend(status: u16, headers: &HeaderMap) -> bool {
    status != 0 && (status < 500 || headers.get("x-envoy-upstream-service-time").is_some())
}
