//! `stream_options.include_usage`: which backends are asked for the tokens of a stream whose client did not ask, and what follows if
//! one refuses.

use super::{Exchange, Next, NoRetry, Outcome, Replay};
use crate::balancer::Balancer;
use crate::host::Host;
use crate::metrics::Event;
use crate::outcome::names_stream_options;

impl Exchange {
    /// Whether some backend may be asked for the tokens of a stream whose client did not ask.
    pub(super) fn may_ask_usage<H: Host>(&self, balancer: &Balancer<H>) -> bool {
        // A refusal takes another attempt to mend.
        self.request.plain_stream.is_some()
            && balancer.config.usage.asks()
            && balancer.config.retry.max_attempts > 1
    }

    /// Whether the backend with this index is asked for the tokens of a stream whose client did not ask.
    #[inline(never)]
    pub(super) fn asks_usage<H: Host>(&self, backend: usize, balancer: &Balancer<H>) -> bool {
        let config = &balancer.config;
        self.may_ask_usage(balancer)
            && !self.unasked.contains(backend)
            && config
                .backends
                .get(backend)
                .is_some_and(|backend| self.request.asks_usage(self.client_path(), backend, config))
    }

    /// Settles which backends are not asked because they refused before. From then on only this request's own attempts change that:
    /// what an attempt's headers say of the body's length stays true while the body follows.
    #[inline(never)]
    pub(super) fn recall_refusals<H: Host>(&mut self, balancer: &Balancer<H>) {
        if self.may_ask_usage(balancer) {
            let now = || balancer.host().now();
            self.unasked = (balancer.usage_refusals).of(self.request.deployment, now);
        }
    }

    /// Whether an error of this `status` may say that the backend does not know the option which the filter added.
    pub(super) fn may_refuse_option<H: Host>(&self, status: u16, balancer: &Balancer<H>) -> bool {
        matches!(status, 400 | 422) && self.asks_usage(self.attempts.backend(), balancer)
    }

    /// Sends the request to the same backend once more, without the option, if the error with this `body` is about the option. The
    /// client did not send it, so it must not meet the error.
    #[inline(never)]
    pub(super) fn retry_without_option<H: Host>(
        &mut self,
        status: u16,
        body: &[u8],
        balancer: &Balancer<H>,
    ) -> Option<Next> {
        if !self.may_refuse_option(status, balancer) || !names_stream_options(body) {
            return None;
        }
        let backend = self.attempts.backend();
        balancer.count(Event::UsageRefused);
        // The others have the same model, most likely, and attempts are few.
        self.unasked = (0..balancer.config.backends.len()).collect();
        let reason = match self.replay(Outcome::ClientError, balancer) {
            Replay::Ready if self.attempts.are_exhausted() => NoRetry::AttemptsExhausted,
            Replay::Ready => {
                let token = balancer.credentials.of(backend)?;
                self.refused_option = Some(backend);
                return Some(self.renewed(token, balancer));
            }
            Replay::Incomplete => NoRetry::RequestIncomplete,
            Replay::Impossible(reason) => reason,
        };
        self.give_up(reason, balancer);
        None
    }

    /// The current attempt ended with this `outcome`: remembers that its backend refused the option, if it served the request without.
    ///
    /// The words of an error alone would let one client have the streams of all others left out of the count: it can send a parameter
    /// of nearly the same name.
    #[inline(never)]
    pub(super) fn confirm_refusal<H: Host>(&mut self, outcome: Outcome, balancer: &Balancer<H>) {
        let Some(backend) = self.refused_option.take() else {
            return;
        };
        if outcome == Outcome::Success && backend == self.attempts.backend() {
            let deployment = self.request.deployment;
            (balancer.usage_refusals).note(backend, deployment, balancer.host().now());
        }
    }
}
