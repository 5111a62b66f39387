//! The health of one backend, shared by all workers: what its answers said about it, and for how long that keeps requests away.
//!
//! What an answer says has a scope. A 429 is about one quota, that of a deployment (`quota.rs`). Failures open the breaker of the
//! backend (`breaker.rs`). A refusal of the identity closes the access to it (`access.rs`). A deployment that is missing is not
//! asked for again (`missing.rs`). Every state ends by itself, and then the backend recovers (`recovery.rs`): it is used gently as
//! long as others are free. While everything that a request could use is closed to it, trials find out whether that is still
//! true (`trials.rs`).

mod access;
mod asked;
mod breaker;
mod doubts;
mod learning;
mod missing;
mod quota;
mod record;
mod recovery;
mod told;
mod trials;

use core::time::Duration;

pub use record::{Health, QuotaWait};

use super::demand::{Demand, LackId};
use super::outcome::Outcome;
use super::time::Timestamp;

/// Workers may read the clock in another order than that in which they change the shared records.
const SLACK: Duration = Duration::from_secs(1);

/// Whether what was set at `since` lasts until `until`, and that is in the future. If `now` is long before `since`, the clock was
/// set back, and it is over.
fn lasts(since: Timestamp, until: Timestamp, now: Timestamp) -> bool {
    !until.has_passed(now, until.since(since).saturating_add(SLACK))
}

/// Why a backend is in cooldown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A quota is used up.
    Throttled,
    /// The backend failed too often.
    Failing,
    /// The backend refuses the identity: somebody has to correct that.
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

/// How a backend stands for one request, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may be used.
    Free,
    /// A cooldown is over: it may be used if it admits the attempt, or if no other backend is free.
    Recovering,
    /// It advised to wait until then: it is used if no other backend is free.
    Soft(Timestamp),
    /// Its breaker is open until then: it is used if nothing else is left.
    Failing(Timestamp),
    /// It asked to wait until then.
    Throttled(Timestamp),
    /// It refuses the identity; it is asked again then.
    Misconfigured(Timestamp),
}

impl Standing {
    /// Whether a request may be sent to the backend without doubting what it said.
    pub fn is_usable(self) -> bool {
        !matches!(self, Self::Throttled(_) | Self::Misconfigured(_))
    }

    /// The word for it in the header that explains an answer.
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

    /// When it ends, where it ends by itself.
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

/// Which piece of evidence an attempt's failure is: of one request only the first counts in full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Blame {
    /// The request has not failed in this way before.
    #[default]
    Due,
    /// The request failed in this way at another backend before, so this failure may be the request's.
    Spent,
}

/// How old an access token was that a backend refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenAge {
    /// It had just been renewed.
    New,
    /// It should have been renewed, but the token service gave no newer one.
    Old,
}

/// What an attempt's outcome says about its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The backend served the request.
    Served,
    /// The backend answered; the request was at fault.
    Answered,
    /// A quota is used up, for this long if the backend said so.
    Throttled(Option<Duration>, Blame),
    /// The backend failed. So many other attempts of the same worker did not, since its last report.
    Failed(u32, Blame),
    /// The backend refuses the identity or the key.
    Denied,
    /// The backend refused a token for which there is no newer one.
    TokenDenied(TokenAge),
    /// The backend does not have this deployment or API.
    Missing(LackId),
    /// Nothing: the token was old, or the client left.
    Nothing,
}

impl Finding {
    /// What `outcome` says; with the wait that a throttled backend stated, and what the request was for.
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

/// What is known of the attempt that a finding is from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// What the request was for.
    pub demand: Demand,
    /// When the attempt began; the default where nothing was known of any backend then.
    pub began: Timestamp,
    /// A recovering backend admitted the attempt and has to know of its end.
    pub admitted: bool,
    /// The generation of the access token that the attempt carried; it matters to [`Finding::TokenDenied`] alone.
    pub token: u32,
}

/// A change of a backend's health that people want to know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Requests are kept away for this long.
    CoolsDown(Reason, Duration),
    /// A 429 counts as advice for this long: the backend is asked last.
    Advised(Duration),
    /// A backend that had asked to wait served an attempt all the same.
    Contradicted,
    /// A cooldown for this reason is over, and the backend serves.
    Recovered(Reason),
    /// The backend is not asked for a deployment or API for this long.
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

    /// A part of the record, written and read again.
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
    fn an_outcome_says_something_about_its_scope() {
        let wait = Some(Duration::from_secs(3));
        let named = Demand {
            deployment: Some(DeploymentId::from_number(7)),
            ..Demand::default()
        };
        let of = |outcome, demand: &Demand| Finding::of(outcome, wait, Blame::Due, demand);
        for (outcome, finding) in [
            (Outcome::Success, Finding::Served),
            (Outcome::ClientError, Finding::Answered),
            (Outcome::Throttled, Finding::Throttled(wait, Blame::Due)),
            (Outcome::Unavailable, Finding::Failed(0, Blame::Due)),
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
