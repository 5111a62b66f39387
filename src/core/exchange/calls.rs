//! Attempts that the filter makes by its own calls.

use super::{Answer, AnswerBody, Exchange, Next, State};
use crate::balancer::{Balancer, Complaint};
use crate::header_map::HeaderMap;
use crate::host::Host;
use crate::outcome::{Outcome, Trace};
use crate::prelude::*;
use crate::text::number;

impl Exchange {
    #[inline(never)]
    pub(super) fn on_refused_call<H: Host>(
        &mut self,
        unknown_cluster: bool,
        balancer: &Balancer<H>,
    ) -> Next {
        // Any other refusal means that the cluster has no healthy host or an open circuit breaker.
        if unknown_cluster {
            balancer.complain(Complaint::Cluster(self.attempts.backend()));
        }
        self.trace = Trace::None;
        self.headers = None;
        self.conclude(Outcome::Unavailable, balancer);
        self.timed_out = false;
        self.proceed(Outcome::Unavailable, balancer)
    }

    #[inline(never)]
    pub(super) fn on_call_answer<H: Host>(
        &mut self,
        headers: HeaderMap,
        body: Vec<u8>,
        balancer: &Balancer<H>,
    ) -> Next {
        if !matches!(self.state, State::Calling) {
            return Next::Hold;
        }
        let status = headers.get(":status").map(str::as_bytes);
        let status = status.and_then(number).unwrap_or(0);
        let failure = self.failure_in(status, &headers, &body, balancer);
        let outcome = match status {
            // Envoy got no answer.
            0 => Outcome::Unavailable,
            status => Outcome::from_status(status, &balancer.config.retry)
                .unwrap_or_else(|| self.error_outcome(status, &body, balancer)),
        };
        let is_real = is_from_backend(status, &headers);
        self.trace = match is_real {
            true => Trace::of_status(status),
            false => Trace::of_no_answer(&body),
        };
        let (headers, outcome) = match failure {
            Some(status) => (Some(headers), self.conclude_failed_stream(status, balancer)),
            None => {
                self.headers = Some(headers);
                self.conclude(outcome, balancer);
                (self.headers.take(), outcome)
            }
        };
        if let Some(next) = self.retry_without_option(status, &body, balancer) {
            return next;
        }
        if let (true, Some(headers)) = (is_real, headers) {
            self.begin_usage_of(status, &body, balancer);
            self.kept = Some(Box::new(Answer {
                status,
                headers,
                body: AnswerBody::Whole(body),
                backend: self.attempts.backend(),
            }));
        } else {
            self.timed_out = status == 504;
        }
        self.proceed(outcome, balancer)
    }
}

/// Whether a backend answered the call, and not Envoy itself.
fn is_from_backend(status: u16, headers: &HeaderMap) -> bool {
    status != 0 && (status < 500 || headers.get("x-envoy-upstream-service-time").is_some())
}
