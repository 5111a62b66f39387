//! Whether a request can be sent once more, and every reason against it.

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
    /// The backends that were not tried are throttled or misconfigured.
    BackendsOut,
    /// The retry budget is used up.
    BudgetSpent,
    /// The request body is larger than the replay limit.
    BodyTooLarge,
    /// All that may be kept of request bodies is kept of others.
    ReplayMemoryFull,
    /// The request makes something that lasts, and may have made it: that must not happen twice.
    NotRepeatable,
    /// The request is none that is known here, so whether it may be repeated is not known either.
    UnknownOperation,
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
    pub const ALL: [Self; 12] = [
        Self::AttemptsExhausted,
        Self::BackendsExhausted,
        Self::BackendsOut,
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
            Self::BackendsOut => "backends_cooling_down",
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
