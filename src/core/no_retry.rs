//! Whether a request can be retried, and every reason against it.

/// Whether a request can be retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// The whole request is available.
    Ready,
    /// The client is still sending it.
    Incomplete,
    /// The request cannot be retried.
    Impossible(NoRetry),
}

/// The reason why an outcome that calls for a retry got none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRetry {
    /// The request has had `max_attempts` attempts.
    AttemptsExhausted,
    /// Every backend was tried.
    BackendsExhausted,
    /// The untried backends are throttled or misconfigured.
    BackendsInCooldown,
    /// The retry budget is spent.
    BudgetSpent,
    /// The request body is larger than the replay limit.
    BodyTooLarge,
    /// The worker's replay memory is full.
    ReplayMemoryFull,
    /// The request is a creation and may have been carried out. It must not be repeated.
    NotRepeatable,
    /// The operation is unknown, so it is unknown whether it can be repeated.
    UnknownOperation,
    /// A header of the request is not UTF-8, so the filter's own call cannot contain it.
    HeadersNotReplayable,
    /// The request asks for another protocol, such as a WebSocket.
    Upgrade,
    /// The answer ended before the request did, and Envoy then drops the rest of the request.
    RequestIncomplete,
    /// Envoy's router made no attempt when it should have: the body outgrew its buffer, a circuit breaker is open, or
    /// the cluster has no host.
    RouterDeclined,
}

impl NoRetry {
    /// Every reason, in the order of their statistics.
    pub const ALL: [Self; 12] = [
        Self::AttemptsExhausted,
        Self::BackendsExhausted,
        Self::BackendsInCooldown,
        Self::BudgetSpent,
        Self::BodyTooLarge,
        Self::ReplayMemoryFull,
        Self::NotRepeatable,
        Self::UnknownOperation,
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
            Self::BackendsInCooldown => "backends_cooling_down",
            Self::BudgetSpent => "budget_spent",
            Self::BodyTooLarge => "body_too_large",
            Self::ReplayMemoryFull => "replay_memory_full",
            Self::NotRepeatable => "not_repeatable",
            Self::UnknownOperation => "unknown_operation",
            Self::HeadersNotReplayable => "headers_not_replayable",
            Self::Upgrade => "upgrade",
            Self::RequestIncomplete => "request_incomplete",
            Self::RouterDeclined => "router_declined",
        }
    }
}
