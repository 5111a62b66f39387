//! How attempts end: what an answer, or the want of one, says of its backend, and what follows from that.

use std::borrow::Cow;
use std::rc::Rc;

use super::Journey;
use crate::core::config::Policy;
use crate::core::exchange::{NoRetry, Replay, TokenId, Verdict};
use crate::core::health::{Finding, TokenAge};
use crate::core::metrics::Event;
use crate::core::outcome::{Diagnosis, Origin, Outcome, Trace};
use crate::core::plan::Plan;
use crate::core::retry_after::stated_wait;
use crate::core::text::number;
use crate::filter::announce::Detail;
use crate::filter::complaint::Complaint;
use crate::filter::header_map::HeaderMap;
use crate::filter::host::{self, HostError, Map};

/// As much of an error's body as is read for its code.
pub(in crate::filter) const ERROR_BODY: usize = 64 * 1024;

/// Why a backend that refuses tokens gets no requests, and what to do about it.
const NEW_TOKEN_REFUSED: &str = "refuses a token that was just renewed (401): check the audience of the token, and the resource's tenant";

/// [`NEW_TOKEN_REFUSED`] during an outage of the token service.
const OLD_TOKEN_REFUSED: &str = "refuses the access token (401), and there is no newer one yet: see what the log says of the identity";

/// Where another attempt goes.
#[derive(Clone, Copy, Debug)]
pub(in crate::filter) enum Next {
    /// To the best backend there is now.
    Best,
    /// To the one that was foreseen, if any was: the router has not asked again.
    Foreseen(Option<usize>),
}

impl Journey {
    /// The outcome of an answer whose error code decides.
    pub(in crate::filter) fn error_outcome(&mut self, status: u16, body: &[u8]) -> Outcome {
        let diagnosis = Diagnosis::of(status, body);
        self.denial = diagnosis.denial;
        match diagnosis.outcome {
            // There is no other key to try.
            Outcome::BadToken if self.worker.credentials.is_keyed(self.exchange.backend()) => {
                Outcome::PermissionDenied
            }
            outcome => outcome,
        }
    }

    /// The current attempt ended: counts its `outcome`, and learns from it. `headers` are the answer's, where there was one and
    /// [`Self::wants_headers`].
    pub(in crate::filter) fn conclude(&mut self, outcome: Outcome, headers: Option<&HeaderMap>) {
        let backend = self.exchange.backend();
        self.worker.count(Event::Outcome(backend, outcome));
        if self.why.is_some() {
            self.explain_attempt(outcome);
        }
        let is_answered = matches!(outcome, Outcome::Success | Outcome::ClientError);
        if is_answered {
            self.worker.credentials.accepted(backend);
        }
        let is_plain = is_answered && headers.is_none() && !self.exchange.is_admitted();
        if !(is_plain && self.worker.backends.learn_plainly(backend)) {
            self.learn(outcome, headers);
        }
    }

    #[inline(never)]
    fn explain_attempt(&mut self, outcome: Outcome) {
        let chosen = self.exchange.chosen();
        let backend = self.worker.config.backends.get(chosen.backend);
        if let (Some(why), Some(backend)) = (&mut self.why, backend) {
            why.attempt(&backend.name, chosen.because, outcome);
        }
    }

    /// Counts and explains why there is no further attempt.
    #[inline(never)]
    fn give_up(&mut self, reason: NoRetry) {
        self.worker.count(Event::NoRetry(reason));
        if let Some(mut why) = self.why.take() {
            why.not_retried(reason);
            if reason == NoRetry::BackendsOut {
                self.explain_others(&mut why);
            }
            self.why = Some(why);
        }
    }

    #[inline(never)]
    fn learn(&mut self, outcome: Outcome, headers: Option<&HeaderMap>) {
        let backend = self.exchange.backend();
        let stated = |name: &str| headers.and_then(|headers| headers.get(name));
        let demand = self.request.demand();
        let wait = match outcome {
            Outcome::Throttled => stated_wait(stated, host::now()),
            _ => None,
        };
        if self.worker.config.policy == Policy::LeastThrottled {
            let remaining = stated("x-ratelimit-remaining-tokens");
            if let Some(remaining) = remaining.and_then(|text| text.trim().parse().ok()) {
                let backends = &self.worker.backends;
                backends.note_capacity(backend, demand.quota, remaining);
            }
        }
        if outcome == Outcome::DeploymentNotFound && self.request.names_unread_deployment() {
            self.worker.backends.note_unread_deployment();
        }
        let token = TokenId {
            identity: self.worker.credentials.identity_of(backend),
            generation: self.token_generation(),
        };
        let lesson = self.exchange.conclude(outcome, wait, &demand, token);
        self.worker
            .learn(&lesson, || self.detail(lesson.finding, outcome));
    }

    /// The current attempt's token was refused although it is new: that is this backend's fault.
    pub(in crate::filter) fn conclude_new_token(&mut self) {
        let lesson = self.exchange.conclude_new_token(&self.request.demand());
        self.worker
            .learn(&lesson, || self.detail(lesson.finding, Outcome::BadToken));
    }

    /// The current attempt, for people.
    #[inline(never)]
    fn detail(&self, finding: Finding, outcome: Outcome) -> Detail {
        let client_path = self.client_path();
        Detail {
            text: match finding {
                Finding::Denied => self.denial.advice().to_owned(),
                Finding::TokenDenied(TokenAge::New) => NEW_TOKEN_REFUSED.to_owned(),
                Finding::TokenDenied(TokenAge::Old) => OLD_TOKEN_REFUSED.to_owned(),
                _ => self.request.wanted(client_path, outcome),
            },
            deployment: self
                .request
                .deployment_name(client_path)
                .map(Cow::into_owned),
        }
    }

    /// Whether the headers of an answer with this outcome say something to learn.
    fn wants_headers(&self, outcome: Outcome) -> bool {
        outcome == Outcome::Throttled || self.worker.config.policy == Policy::LeastThrottled
    }

    /// [`Self::conclude`] in a callback of the answer.
    pub(in crate::filter) fn conclude_answer(&mut self, outcome: Outcome) -> Result<(), HostError> {
        let headers = match self.wants_headers(outcome) {
            true => Some(host::headers(Map::ResponseHeaders)?),
            false => None,
        };
        self.conclude(outcome, headers.as_ref());
        Ok(())
    }

    /// Counts an answer that ended before it was complete.
    pub(in crate::filter) fn count_break(&self) {
        let details = host::property("response\0code_details").ok().flatten();
        let origin = details.map(|details| Origin::of(&details));
        self.worker.count(match origin {
            Some(Origin::Router) => Event::StreamBroken,
            _ => Event::ClientGone,
        });
    }

    /// Where the answer is from that the callback is for.
    pub(in crate::filter) fn origin(&mut self) -> Result<Origin, HostError> {
        let Some(details) = host::property("response\0code_details")? else {
            return Ok(Origin::Backend);
        };
        let origin = Origin::of(&details);
        if origin != Origin::Backend {
            self.trace = Trace::of_no_answer(&details);
        }
        if details == b"cluster_not_found" {
            self.worker
                .complain(Complaint::Cluster(self.exchange.backend()));
        }
        Ok(origin)
    }

    /// Whether it is a backend's.
    pub(in crate::filter) fn is_from_backend(&mut self) -> Result<bool, HostError> {
        Ok(self.origin()? == Origin::Backend)
    }

    /// Decides what follows the `outcome` of the current attempt, and where another one goes.
    pub(in crate::filter) fn after(
        &mut self,
        outcome: Outcome,
        replay: Replay,
        next: Next,
    ) -> Verdict {
        // No backend is chosen, and the current one knows of the attempt's end.
        if matches!(outcome, Outcome::Success | Outcome::ClientError) {
            return Verdict::Deliver;
        }
        self.after_failure(outcome, replay, next)
    }

    #[inline(never)]
    fn after_failure(&mut self, outcome: Outcome, replay: Replay, next: Next) -> Verdict {
        let (worker, demand) = (Rc::clone(&self.worker), self.request.demand());
        let replay = self.replay_after(outcome, replay);
        worker.can_authorize();
        let (backends, config) = (&worker.backends, &worker.config);
        let choose = |plan: &Plan| match next {
            Next::Best => backends.choose_next(config, plan, &demand, outcome),
            Next::Foreseen(foreseen) => {
                backends.choose_foreseen(config, plan, &demand, foreseen, outcome)
            }
        };
        let (verdict, lesson) = self.exchange.move_on(outcome, replay, &demand, choose);
        if let Some(lesson) = lesson {
            worker.learn(&lesson, Detail::default);
        }
        match &verdict {
            Verdict::TryNext => self.count_choice(),
            Verdict::GiveUp(reason) => self.give_up(*reason),
            _ => {}
        }
        verdict
    }

    /// Whether the request may be sent once more after this `outcome`: not if it may have been done, and must not be done twice.
    fn replay_after(&self, outcome: Outcome, replay: Replay) -> Replay {
        let once = outcome == Outcome::Unavailable
            && self.trace == Trace::Possible
            && !self.request.is_repeatable(&self.worker.config);
        match once {
            true => Replay::Impossible(NoRetry::NotRepeatable),
            false => replay,
        }
    }

    /// Ends the exchange after an attempt without an answer that the router did not follow with another one.
    pub(in crate::filter) fn end_unanswered(&mut self, replay: Replay) {
        let replay = self.replay_after(Outcome::Unavailable, replay);
        let declined = |_: &Plan| Err(NoRetry::RouterDeclined);
        if let Verdict::GiveUp(reason) = self.exchange.after(Outcome::Unavailable, replay, declined)
        {
            self.give_up(reason);
        }
    }
}

/// The status of an answer whose headers are there.
pub(in crate::filter) fn status() -> Result<u16, HostError> {
    let status = host::header(Map::ResponseHeaders, ":status")?;
    Ok(status.as_deref().and_then(number).unwrap_or(0))
}
