//! The choice of a backend: how it was found, or why there is none.

use core::time::Duration;

use crate::affinity::Pick;
use crate::no_retry::NoRetry;
use crate::plan::BackendSet;

/// A backend that was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// It is free.
    Free(usize),
    /// It is free, and the request's key is its own.
    Kept(usize),
    /// It is free, and the backend that the request's key would go to has more than its bound.
    Overflowed(usize),
    /// It recovers: it may be used by an attempt that it admits.
    Recovering(usize),
    /// It recovers and admits no more, and no other backend is free.
    Crowded(usize),
    /// It advised to wait, and nothing better is left.
    Soft(usize),
    /// Its breaker is open, and nothing better is left.
    Failing(usize),
    /// It asked to wait or refuses the identity, as all others do: an attempt finds out whether that is still true.
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

/// The backends that did not let an attempt begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Declined {
    /// They recover and admit no more.
    pub crowded: BackendSet,
    /// Another request makes their trial.
    pub tested: BackendSet,
}

/// Why there was none to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoChoice {
    /// No backend has the API, by the configuration.
    NoApi,
    /// No backend has the deployment, by the configuration.
    NoDeployment,
    /// There may be one for a request that has a token, and there is no token.
    NoToken,
    /// The request has been to every one.
    AllTried,
    /// Those that are left are in cooldown.
    AllOut(Wait),
}

impl From<NoChoice> for NoRetry {
    fn from(none: NoChoice) -> Self {
        match none {
            NoChoice::NoApi | NoChoice::NoDeployment | NoChoice::AllTried => {
                Self::BackendsExhausted
            }
            NoChoice::NoToken | NoChoice::AllOut(_) => Self::BackendsOut,
        }
    }
}

/// How long until a backend may be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The smallest of all waits.
    pub left: Duration,
    /// One of them at least is for a used-up quota, which time alone brings back.
    pub throttled: bool,
}
