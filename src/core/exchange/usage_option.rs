//! `stream_options.include_usage`: the filter requests the tokens of streams whose clients did not, and handles
//! refusals.

use super::{Exchange, Next, NoRetry, Outcome, Replay};
use crate::balancer::Balancer;
use crate::host::Host;
use crate::metrics::Event;
use crate::outcome::names_stream_options;

impl Exchange {
    /// Whether the filter may request this stream's tokens from some backend.
    pub(super) fn may_request_usage<H: Host>(&self, balancer: &Balancer<H>) -> bool {
        // A refusal costs a further attempt.
        self.request.plain_stream.is_some()
            && balancer.config.usage.asks()
            && balancer.config.retry.max_attempts > 1
    }

    /// Whether the filter requests this stream's tokens from the backend with this index.
    #[inline(never)]
    pub(super) fn requests_usage<H: Host>(&self, backend: usize, balancer: &Balancer<H>) -> bool {
        let config = &balancer.config;
        self.may_request_usage(balancer)
            && !self.without_usage.contains(backend)
            && config.backends.get(backend).is_some_and(|backend| {
                self.request
                    .requests_usage(self.client_path(), backend, config)
            })
    }

    /// Fixes the backends from which no tokens are requested because they refused before. Later only this request's own
    /// attempts change the set, so that an attempt's headers and body agree on the length.
    #[inline(never)]
    pub(super) fn recall_refusals<H: Host>(&mut self, balancer: &Balancer<H>) {
        if self.may_request_usage(balancer) {
            let now = || balancer.host().now();
            self.without_usage = (balancer.usage_refusals).of(self.request.deployment, now);
        }
    }

    /// Whether an error of this `status` may mean that the backend refuses the option that the filter added.
    pub(super) fn may_refuse_option<H: Host>(&self, status: u16, balancer: &Balancer<H>) -> bool {
        matches!(status, 400 | 422) && self.requests_usage(self.attempts.backend(), balancer)
    }

    /// Retries the request on the same backend without the option, if the error with this `body` is about the option.
    /// The client did not send the option, so it must not see the error.
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
        // Other backends most likely have the same model, and attempts are few.
        self.without_usage = (0..balancer.config.backends.len()).collect();
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

    /// Learns that a backend refuses the option, if the retry without it has succeeded.
    ///
    /// The error text alone is no proof. A client could send a parameter of a similar name, and so exclude all clients'
    /// streams from the count.
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
