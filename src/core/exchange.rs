//! One request's walk through its plan.

use super::outcome::Outcome;
use super::plan::Plan;

/// Whether the request can be sent once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// All of it is at hand.
    Ready,
    /// The client is still sending it.
    Incomplete,
    /// It cannot be sent again.
    Impossible(NoRetry),
}

/// Why an answer that would have called for another attempt was delivered all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRetry {
    /// `max_attempts` were made.
    AttemptsExhausted,
    /// Every backend was tried.
    BackendsExhausted,
    /// The request body is larger than the replay limit.
    BodyTooLarge,
    /// A header of the request cannot be put into a call of the filter's own: it is not UTF-8.
    HeadersNotReplayable,
    /// The request asks for another protocol, such as a WebSocket.
    Upgrade,
    /// The answer was over before the request was, and Envoy hands over nothing of a request after that.
    RequestIncomplete,
    /// Envoy's router did not make the attempt it was told to: the body outgrew its buffer, a circuit breaker is open, or the
    /// cluster has no host at all.
    RouterDeclined,
}

impl NoRetry {
    /// Every reason, in the order of their statistics.
    pub const ALL: [Self; 7] = [
        Self::AttemptsExhausted,
        Self::BackendsExhausted,
        Self::BodyTooLarge,
        Self::HeadersNotReplayable,
        Self::Upgrade,
        Self::RequestIncomplete,
        Self::RouterDeclined,
    ];

    /// The name in statistics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AttemptsExhausted => "attempts_exhausted",
            Self::BackendsExhausted => "backends_exhausted",
            Self::BodyTooLarge => "body_too_large",
            Self::HeadersNotReplayable => "headers_not_replayable",
            Self::Upgrade => "upgrade",
            Self::RequestIncomplete => "request_incomplete",
            Self::RouterDeclined => "router_declined",
        }
    }
}

/// What happens after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The answer is the client's, as it is.
    Deliver,
    /// The answer is the client's although another attempt was called for.
    GiveUp(NoRetry),
    /// The next attempt goes to the exchange's current backend.
    TryNext,
    /// The same backend is tried once more with a newer token. If none is to be had, the outcome is put to
    /// [`Exchange::after`] again, which then goes on to the next backend.
    RenewToken,
    /// Another attempt is due once the client has sent all of its request.
    AwaitRequest,
}

/// One request's walk through its [`Plan`]: counts the attempts and decides after each.
#[derive(Clone, Debug)]
pub struct Exchange {
    plan: Plan,
    position: u8,
    backend: usize,
    attempts: u8,
    max_attempts: u8,
    token_renewed: bool,
}

impl Exchange {
    /// The walk through `plan`, at its first backend.
    pub fn new(plan: Plan, max_attempts: u8) -> Self {
        Self {
            plan,
            position: 0,
            backend: plan.get(0).unwrap_or_default(),
            attempts: 0,
            max_attempts,
            token_renewed: false,
        }
    }

    /// The backend of the current attempt.
    pub fn backend(&self) -> usize {
        self.backend
    }

    /// The backend that follows the current one, if the plan goes on.
    pub fn successor(&self) -> Option<usize> {
        self.plan.get(self.position.saturating_add(1))
    }

    /// The attempts made so far.
    pub fn attempts(&self) -> u8 {
        self.attempts
    }

    /// Counts an attempt on the current backend.
    pub fn attempt_made(&mut self) {
        self.attempts = self.attempts.saturating_add(1);
    }

    /// Decides what follows the `outcome` of the current attempt.
    pub fn after(&mut self, outcome: Outcome, replay: Replay) -> Verdict {
        match outcome {
            Outcome::Success | Outcome::ClientError => Verdict::Deliver,
            Outcome::BadToken if !self.token_renewed => self.when_allowed(replay, |this| {
                this.token_renewed = true;
                Verdict::RenewToken
            }),
            // A backend that refuses a renewed token too has a quarrel of its own; the others may not.
            Outcome::BadToken
            | Outcome::Throttled
            | Outcome::Unavailable
            | Outcome::PermissionDenied
            | Outcome::DeploymentNotFound => self.when_allowed(replay, Self::advance),
        }
    }

    fn when_allowed(&mut self, replay: Replay, go: impl FnOnce(&mut Self) -> Verdict) -> Verdict {
        if self.attempts >= self.max_attempts {
            return Verdict::GiveUp(NoRetry::AttemptsExhausted);
        }
        match replay {
            Replay::Impossible(reason) => Verdict::GiveUp(reason),
            Replay::Incomplete => Verdict::AwaitRequest,
            Replay::Ready => go(self),
        }
    }

    fn advance(&mut self) -> Verdict {
        let position = self.position.saturating_add(1);
        match self.plan.get(position) {
            Some(backend) => {
                self.position = position;
                self.backend = backend;
                Verdict::TryNext
            }
            None => Verdict::GiveUp(NoRetry::BackendsExhausted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(backends: usize, max_attempts: u8) -> Exchange {
        let mut exchange =
            Exchange::new(Plan::round_robin(0, backends, max_attempts), max_attempts);
        exchange.attempt_made();
        exchange
    }

    #[test]
    fn three_failing_backends_are_tried_once_each() {
        let mut exchange = exchange(3, 3);
        assert_eq!(
            exchange.after(Outcome::Unavailable, Replay::Ready),
            Verdict::TryNext
        );
        assert_eq!(exchange.backend(), 1);
        exchange.attempt_made();
        assert_eq!(
            exchange.after(Outcome::Throttled, Replay::Ready),
            Verdict::TryNext
        );
        assert_eq!(exchange.backend(), 2);
        exchange.attempt_made();
        assert_eq!(
            exchange.after(Outcome::Unavailable, Replay::Ready),
            Verdict::GiveUp(NoRetry::AttemptsExhausted)
        );
        assert_eq!(exchange.attempts(), 3);
    }

    #[test]
    fn two_backends_allow_two_attempts_whatever_the_maximum() {
        let mut exchange = exchange(2, 3);
        assert_eq!(
            exchange.after(Outcome::Unavailable, Replay::Ready),
            Verdict::TryNext
        );
        exchange.attempt_made();
        assert_eq!(
            exchange.after(Outcome::Unavailable, Replay::Ready),
            Verdict::GiveUp(NoRetry::BackendsExhausted)
        );
    }

    #[test]
    fn a_bad_token_is_renewed_once_on_the_same_backend_then_the_next_one_is_tried() {
        let mut exchange = exchange(3, 3);
        assert_eq!(
            exchange.after(Outcome::BadToken, Replay::Ready),
            Verdict::RenewToken
        );
        assert_eq!(exchange.backend(), 0);
        exchange.attempt_made();
        assert_eq!(
            exchange.after(Outcome::BadToken, Replay::Ready),
            Verdict::TryNext
        );
        assert_eq!(exchange.backend(), 1);
    }

    #[test]
    fn renewing_counts_as_an_attempt() {
        let mut exchange = exchange(3, 2);
        assert_eq!(
            exchange.after(Outcome::BadToken, Replay::Ready),
            Verdict::RenewToken
        );
        exchange.attempt_made();
        assert_eq!(
            exchange.after(Outcome::Throttled, Replay::Ready),
            Verdict::GiveUp(NoRetry::AttemptsExhausted)
        );
    }

    #[test]
    fn a_missing_role_or_deployment_leads_to_the_next_backend() {
        for outcome in [Outcome::PermissionDenied, Outcome::DeploymentNotFound] {
            assert_eq!(
                exchange(2, 3).after(outcome, Replay::Ready),
                Verdict::TryNext
            );
        }
    }

    #[test]
    fn the_clients_own_errors_and_successes_are_delivered_at_once() {
        for outcome in [Outcome::Success, Outcome::ClientError] {
            assert_eq!(
                exchange(3, 3).after(outcome, Replay::Ready),
                Verdict::Deliver
            );
        }
    }

    #[test]
    fn what_cannot_be_replayed_is_given_up_with_the_reason() {
        let replay = Replay::Impossible(NoRetry::BodyTooLarge);
        let verdict = Verdict::GiveUp(NoRetry::BodyTooLarge);
        assert_eq!(exchange(3, 3).after(Outcome::Throttled, replay), verdict);
        assert_eq!(exchange(3, 3).after(Outcome::BadToken, replay), verdict);
    }

    #[test]
    fn an_early_answer_waits_for_the_rest_of_the_request() {
        let mut exchange = exchange(3, 3);
        for _ in 0..3 {
            assert_eq!(
                exchange.after(Outcome::Throttled, Replay::Incomplete),
                Verdict::AwaitRequest
            );
        }
        assert_eq!(
            exchange.after(Outcome::Throttled, Replay::Ready),
            Verdict::TryNext
        );
        assert_eq!(exchange.backend(), 1);
    }
}
