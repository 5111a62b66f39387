//! The lessons of ended attempts.

use alloc::borrow::Cow;
use core::time::Duration;

use super::Exchange;
use crate::attempts::{Lesson, TokenId};
use crate::balancer::{Balancer, Detail};
use crate::config::Policy;
use crate::health::{Finding, TokenAge};
use crate::host::Host;
use crate::metrics::Event;
use crate::outcome::Outcome;
use crate::prelude::*;
use crate::retry_after::stated_wait;

/// Why a backend that refuses tokens gets no requests during an outage of the token service.
const OLD_TOKEN_REFUSED: &str = "refuses the access token (401), and no newer token is available yet: see the identity's errors in this log";

impl Exchange {
    /// Counts the `outcome` of the current attempt, and learns from it and from the answer's headers.
    pub(super) fn conclude<H: Host>(&mut self, outcome: Outcome, balancer: &Balancer<H>) {
        let backend = self.attempts.backend();
        balancer.count(Event::Outcome(backend, outcome));
        if self.why.is_some() {
            self.explain_attempt(outcome, balancer);
        }
        if self.refused_option.is_some() {
            self.confirm_refusal(outcome, balancer);
        }
        let is_answered = matches!(outcome, Outcome::Success | Outcome::ClientError);
        if is_answered {
            balancer.credentials.accepted(backend);
        }
        let is_plain = is_answered && self.headers.is_none() && !self.attempts.is_admitted();
        let now = || balancer.host().now();
        if !(is_plain && balancer.fleet.take_fast(backend, &now)) {
            self.learn(outcome, balancer);
        }
    }

    #[inline(never)]
    fn explain_attempt<H: Host>(&mut self, outcome: Outcome, balancer: &Balancer<H>) {
        let chosen = self.attempts.chosen();
        let backend = balancer.config.backends.get(chosen.backend);
        if let (Some(why), Some(backend)) = (&mut self.why, backend) {
            why.attempt(&backend.name, chosen.because, outcome);
        }
    }

    #[inline(never)]
    fn learn<H: Host>(&mut self, outcome: Outcome, balancer: &Balancer<H>) {
        let (backend, demand) = (self.attempts.backend(), self.request.demand());
        let headers = self.headers.as_ref();
        let stated = |name: &str| headers.and_then(|headers| headers.get(name));
        let wait = match outcome {
            Outcome::Throttled => match self.failed_stream() {
                // The backend wrote these headers before its error.
                Some(failure) => failure.wait,
                None => stated_wait(stated, balancer.host().now()),
            },
            _ => None,
        };
        if balancer.config.policy == Policy::LeastThrottled {
            let remaining = stated("x-ratelimit-remaining-tokens");
            if let Some(remaining) = remaining.and_then(|text| text.trim().parse().ok()) {
                let (fleet, now) = (&balancer.fleet, balancer.host().now());
                fleet.note_capacity(backend, demand.quota, remaining, now);
            }
        }
        if outcome == Outcome::DeploymentNotFound && self.request.names_unread_deployment() {
            balancer.fleet.note_unread_deployment(balancer.host().now());
        }
        let token = TokenId {
            identity: balancer.credentials.identity_of(backend),
            generation: self.token_generation(),
        };
        let lesson = self.attempts.conclude(outcome, wait, &demand, token);
        self.teach(lesson, outcome, balancer);
    }

    /// Learns from an answer that began as a success and ended with an error of this `outcome`, or broke off.
    #[inline(never)]
    pub(super) fn learn_late<H: Host>(
        &self,
        outcome: Outcome,
        wait: Option<Duration>,
        balancer: &Balancer<H>,
    ) {
        let lesson = self
            .attempts
            .conclude_late(outcome, wait, &self.request.demand());
        self.teach(lesson, outcome, balancer);
    }

    /// Learns that the current backend refused a new token: the fault is the backend's.
    #[inline(never)]
    pub(super) fn conclude_new_token<H: Host>(&mut self, balancer: &Balancer<H>) {
        let lesson = self.attempts.conclude_new_token(&self.request.demand());
        self.teach(lesson, Outcome::BadToken, balancer);
    }

    fn teach<H: Host>(&self, lesson: Lesson, outcome: Outcome, balancer: &Balancer<H>) {
        balancer.learn(&lesson, || self.detail(lesson.finding, outcome, balancer));
    }

    /// A description of the current attempt for log lines.
    #[inline(never)]
    fn detail<H: Host>(
        &self,
        finding: Finding,
        outcome: Outcome,
        balancer: &Balancer<H>,
    ) -> Detail {
        let client_path = self.client_path();
        let deployment = self.request.deployment_name(client_path);
        Detail {
            text: match finding {
                Finding::Denied => self.denial.advice().to_owned(),
                Finding::TokenDenied(TokenAge::New) => {
                    balancer.config.new_token_refused(self.attempts.backend())
                }
                Finding::TokenDenied(TokenAge::Old) => OLD_TOKEN_REFUSED.to_owned(),
                _ => self.request.wanted(client_path, outcome),
            },
            deployment: deployment.map(Cow::into_owned),
        }
    }

    /// The generation of the token that the current attempt carries.
    pub(super) fn token_generation(&self) -> u32 {
        let carries = self.authorization.as_ref();
        carries.map_or(0, |carried| carried.generation)
    }
}
