//! The health of one backend, which all workers share. It follows from the backend's answers and decides when requests
//! avoid the backend.
//!
//! Each answer has a scope:
//!
//! - A 429 concerns one quota, that of a deployment (`quota.rs`).
//! - Failures open the backend's breaker (`breaker.rs`).
//! - A refusal of the identity closes access (`access.rs`).
//! - A missing deployment is not requested again for a while (`missing.rs`).
//!
//! Every state ends by itself. The backend then recovers (`recovery.rs`): it gets few requests at first while other
//! backends are free. While all backends of a request are closed, trials find out whether that is still justified
//! (`trials.rs`).

mod access;
mod breaker;
mod doubts;
mod learning;
mod missing;
mod notified;
mod quota;
mod record;
mod recovery;
mod trials;
mod undecided;

use core::time::Duration;

pub use record::{Health, QuotaWait};

use super::demand::{Demand, LackId};
use super::outcome::Outcome;
use super::time::{millis, Timestamp};

/// Allowance for workers that read the clock in another order than they change the shared records.
const SLACK: Duration = Duration::from_secs(1);

/// Whether a state from `since` to `until` still lasts at `now`. If `now` is long before `since`, the clock was set
/// back, and the state is over.
fn lasts(since: Timestamp, until: Timestamp, now: Timestamp) -> bool {
    let longest = until.millis_since(since).saturating_add(millis(SLACK));
    !until.has_passed_millis(now, longest)
}

/// The reason for a cooldown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A quota is used up.
    Throttled,
    /// The backend failed too often.
    Failing,
    /// The backend refuses the identity: a person has to fix something.
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

/// The state of a backend for one request, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The backend is free.
    Free,
    /// A cooldown is over. The backend is used if it admits the attempt, or if no other backend is free.
    Recovering,
    /// The backend advised to wait until then. It is used if no other backend is free.
    Soft(Timestamp),
    /// The breaker is open until then. The backend is used if no other is left.
    Failing(Timestamp),
    /// The backend requires to wait until then.
    Throttled(Timestamp),
    /// The backend refuses the identity. It is tried again at this time.
    Misconfigured(Timestamp),
}

impl Standing {
    /// Whether a request may be sent without a trial.
    pub fn is_usable(self) -> bool {
        !matches!(self, Self::Throttled(_) | Self::Misconfigured(_))
    }

    /// The state's name in the header that explains an answer.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Recovering => "recovering",
            Self::Soft(_) => "soft",
            Self::Failing(_) => "failing",
            Self::Throttled(_) => "throttled",
            Self::Misconfigured(_) => "misconfigured",
        }
    }

    /// The end of the state, if it is known.
    pub const fn until(self) -> Option<Timestamp> {
        match self {
            Self::Free | Self::Recovering => None,
            Self::Soft(until)
            | Self::Failing(until)
            | Self::Throttled(until)
            | Self::Misconfigured(until) => Some(until),
        }
    }
}

/// The evidence of a failure. Only the first failure of a request counts in full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Blame {
    /// The request has not failed in this way before.
    #[default]
    First,
    /// The request failed in this way on another backend before, so the request itself may be the cause.
    Repeated,
}

/// The age of a refused access token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenAge {
    /// The token had just been renewed.
    New,
    /// The token should have been renewed, but the token service returned no newer one.
    Old,
}

/// The meaning of an attempt's outcome for its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The backend served the request.
    Served,
    /// The backend answered, and the request was at fault.
    Answered,
    /// A quota is used up, for this long if the backend stated it.
    Throttled(Option<Duration>, Blame),
    /// The backend failed. The number counts the successful attempts of the same worker since its last report.
    Failed(u32, Blame),
    /// The backend refuses the identity or the key.
    Denied,
    /// The backend refused a token, and no newer one is available.
    TokenDenied(TokenAge),
    /// The backend does not have this deployment or API.
    Missing(LackId),
    /// No lesson: the token was old, or the client left.
    Nothing,
}

impl Finding {
    /// The finding of an `outcome`. `stated_wait` is the wait that a throttled backend stated.
    pub fn of(
        outcome: Outcome,
        stated_wait: Option<Duration>,
        blame: Blame,
        demand: &Demand,
    ) -> Self {
        match outcome {
            Outcome::Success => Self::Served,
            Outcome::ClientError => Self::Answered,
            Outcome::Throttled => Self::Throttled(stated_wait, blame),
            Outcome::Unavailable => Self::Failed(0, blame),
            Outcome::PermissionDenied => Self::Denied,
            Outcome::DeploymentNotFound => demand
                .deployment_in_api()
                .map_or(Self::Answered, Self::Missing),
            Outcome::ApiNotEnabled => demand.whole_api().map_or(Self::Answered, Self::Missing),
            Outcome::BadToken => Self::Nothing,
        }
    }
}

/// The facts about the attempt of a finding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The request's demand.
    pub demand: Demand,
    /// The start of the attempt. The default if all backends were healthy then, so that the time was not read.
    pub began: Timestamp,
    /// Whether a recovering backend admitted the attempt, and must learn of its end.
    pub admitted: bool,
    /// The generation of the attempt's access token. Only [`Finding::TokenDenied`] uses it.
    pub token: u32,
}

/// A change of a backend's health that is logged or counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Requests avoid the backend for this long.
    CoolsDown(Reason, Duration),
    /// A 429 counts as advice for this long: the backend is chosen last.
    Advised(Duration),
    /// The backend served an attempt during a wait that it required.
    Contradicted,
    /// A cooldown for this reason is over, and the backend serves again.
    Recovered(Reason),
    /// The backend gets no requests for a deployment or API for this long.
    Lacks(Duration),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Fields, Writer};
    use crate::config::Cooldown;
    use crate::demand::DeploymentId;

    pub(super) const START: Timestamp = Timestamp::from_secs(1_700_000_000);
    pub(super) const RULES: Cooldown = Cooldown {
        throttled: Duration::from_secs(10),
        shortest: Duration::from_secs(1),
        longest: Duration::from_secs(300),
        failing: Duration::from_secs(5),
        consecutive_failures: 5,
        failure_percent: 50,
        misconfigured: Duration::from_secs(600),
        wait_timeout: Duration::ZERO,
    };

    pub(super) fn at(millis: u64) -> Timestamp {
        START + Duration::from_millis(millis)
    }

    /// A part of the record after encoding and decoding.
    pub(super) fn roundtrip<T>(
        part: &T,
        encode: impl FnOnce(&T, &mut Writer),
        decode: impl Fn(&mut Fields<'_>) -> Option<T>,
    ) -> T {
        let mut writer = Writer::new(9);
        encode(part, &mut writer);
        let bytes = writer.finish();
        for cut in 0..bytes.len() - 1 {
            let fields = Fields::new(&bytes[..cut], 9);
            assert!(
                fields.and_then(|mut fields| decode(&mut fields)).is_none(),
                "{cut}"
            );
        }
        decode(&mut Fields::new(&bytes, 9).unwrap()).unwrap()
    }

    #[test]
    fn outcomes_map_to_findings() {
        let wait = Some(Duration::from_secs(3));
        let named = Demand {
            deployment: Some(DeploymentId::from_number(7)),
            ..Demand::default()
        };
        let of = |outcome, demand: &Demand| Finding::of(outcome, wait, Blame::First, demand);
        for (outcome, finding) in [
            (Outcome::Success, Finding::Served),
            (Outcome::ClientError, Finding::Answered),
            (Outcome::Throttled, Finding::Throttled(wait, Blame::First)),
            (Outcome::Unavailable, Finding::Failed(0, Blame::First)),
            (Outcome::PermissionDenied, Finding::Denied),
            (Outcome::BadToken, Finding::Nothing),
            (
                Outcome::DeploymentNotFound,
                Finding::Missing(LackId::from_number(7)),
            ),
            (Outcome::ApiNotEnabled, Finding::Answered),
        ] {
            assert_eq!(of(outcome, &named), finding, "{outcome:?}");
        }
        let unread = of(Outcome::DeploymentNotFound, &Demand::default());
        assert_eq!(unread, Finding::Answered);
    }
}
