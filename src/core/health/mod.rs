//! The health of one backend, shared by all workers: what its answers said about it, and since when it is left alone.
//!
//! A backend is free until an answer says otherwise; then it cools down; then it is due, and one request, the probe, decides.

mod record;

use std::time::Duration;

pub use record::Health;

use super::fleet::Demand;
use super::outcome::Outcome;
use super::time::Timestamp;

/// Why a backend cools down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its quota is used up.
    Throttled,
    /// It failed too often.
    Failing,
    /// It refuses the identity: someone has to mend that.
    Misconfigured,
}

impl Reason {
    /// Every reason, in the order of their statistics.
    pub const ALL: [Self; 3] = [Self::Throttled, Self::Failing, Self::Misconfigured];

    /// The name in statistics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::Failing => "failing",
            Self::Misconfigured => "misconfigured",
        }
    }
}

/// Whether a backend may be sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Any.
    Free,
    /// One, to see whether it is well again.
    Due,
    /// None before this, as far as one can tell.
    Out(Reason, Timestamp),
}

impl Standing {
    #[cfg(test)]
    pub(super) const TAKEN: Self = Self::Out(Reason::Throttled, Timestamp::from_millis(u64::MAX));

    /// Whether there is a request it may be sent.
    pub fn is_usable(self) -> bool {
        !matches!(self, Self::Out(..))
    }
}

/// A claimed probe: the attempt that decides whether its backend is well again. Told from others by the end of the claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim(Timestamp);

impl Claim {
    #[cfg(test)]
    pub(super) const ANY: Self = Self(Timestamp::from_secs(1));
}

/// What an attempt's outcome says about its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It works.
    Answered,
    /// It is throttled, for this long if it said so.
    Throttled(Option<Duration>),
    /// It failed. So many other attempts of the same worker on it did not, since the last that was told.
    Failed(u32),
    /// It refuses the identity.
    Denied,
    /// It does not have this deployment or API.
    Missing(u64),
    /// Nothing: the token was at fault, or the client left.
    Nothing,
}

impl Finding {
    /// What `outcome` says; with the wait that a throttled backend stated, and what the request was for.
    pub fn of(outcome: Outcome, stated_wait: Option<Duration>, demand: Demand) -> Self {
        match outcome {
            Outcome::Success | Outcome::ClientError => Self::Answered,
            Outcome::Throttled => Self::Throttled(stated_wait),
            Outcome::Unavailable => Self::Failed(0),
            Outcome::PermissionDenied => Self::Denied,
            Outcome::DeploymentNotFound => demand
                .deployment_in_api()
                .map_or(Self::Answered, Self::Missing),
            Outcome::ApiNotEnabled => demand
                .api
                .map_or(Self::Answered, |api| Self::Missing(api.id())),
            Outcome::BadToken => Self::Nothing,
        }
    }
}

/// A change of a backend's health that people want to know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It cools down for this long.
    CoolsDown(Reason, Duration),
    /// It is free again.
    Recovered,
    /// A deployment or API it does not have is not asked of it for this long.
    Lacks(Duration),
}
