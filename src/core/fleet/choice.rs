//! The result of choosing a backend.

use core::time::Duration;

use crate::affinity::Pick;
use crate::no_retry::NoRetry;
use crate::plan::BackendSet;

/// A chosen backend, with the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The backend is free.
    Free(usize),
    /// The backend is free, and the request's key belongs to it.
    Kept(usize),
    /// The backend is free. The backend of the request's key already has its full share of attempts.
    Overflowed(usize),
    /// The backend recovers. The attempt begins if the backend admits it.
    Recovering(usize),
    /// The backend recovers and admits no further attempt, but no other backend is free.
    Crowded(usize),
    /// The backend advised to wait, and no better one is left.
    Soft(usize),
    /// The backend's breaker is open, and no better one is left.
    Failing(usize),
    /// All backends require to wait or refuse the identity. The attempt tests whether that still holds.
    Trial(usize),
}

impl Choice {
    /// The backend.
    pub fn backend(self) -> usize {
        match self {
            Self::Free(backend)
            | Self::Kept(backend)
            | Self::Overflowed(backend)
            | Self::Recovering(backend)
            | Self::Crowded(backend)
            | Self::Soft(backend)
            | Self::Failing(backend)
            | Self::Trial(backend) => backend,
        }
    }
}

impl From<Pick> for Choice {
    fn from(pick: Pick) -> Self {
        match pick {
            Pick::Kept(backend) => Self::Kept(backend),
            Pick::Overflowed(backend) => Self::Overflowed(backend),
            Pick::Moved(backend) => Self::Free(backend),
        }
    }
}

/// The backends that declined an attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Declined {
    /// Recovering backends that admit no further attempt.
    pub crowded: BackendSet,
    /// Backends on which another request makes a trial.
    pub tested: BackendSet,
}

/// The reason why no backend can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoChoice {
    /// No backend has the API, by the configuration.
    NoApi,
    /// No backend has the deployment, by the configuration.
    NoDeployment,
    /// The untried backends lack a token.
    NoToken,
    /// The request has tried every backend.
    AllTried,
    /// The untried backends are in cooldown.
    AllInCooldown(Wait),
}

impl From<NoChoice> for NoRetry {
    fn from(none: NoChoice) -> Self {
        match none {
            NoChoice::NoApi | NoChoice::NoDeployment | NoChoice::AllTried => {
                Self::BackendsExhausted
            }
            NoChoice::NoToken | NoChoice::AllInCooldown(_) => Self::BackendsInCooldown,
        }
    }
}

/// The wait until a backend may be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The shortest wait of all backends.
    pub left: Duration,
    /// Whether at least one of the waits is for a used-up quota.
    pub throttled: bool,
}
