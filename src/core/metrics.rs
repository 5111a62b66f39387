//! The statistics: their names, and a tally that is reported to Envoy once a tick instead of once per event.

use super::attempts::Because;
use super::config::Backend;
use super::health::{Health, QuotaWait, Reason};
use super::ledger::Kind;
use super::no_retry::NoRetry;
use super::outcome::Outcome;
use super::prices::take_micros;
use super::time::{millis, Timestamp};
use super::usage::Tokens;
use crate::prelude::*;

/// An event that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A client's request arrived.
    Request,
    /// An outcome called for a retry, and none was made.
    NoRetry(NoRetry),
    /// A request left before its body was read, although the body would have decided its backend.
    BodyUnread,
    /// The upstream broke off an answer that the client had begun to receive.
    StreamBroken,
    /// A stream began with an error of its backend instead of content.
    StreamFailed,
    /// The client left before its answer was complete.
    ClientGone,
    /// An answer that may report tokens reported none.
    UsageUnknown,
    /// An answer that may report tokens ended early, and had reported none.
    UsageCut,
    /// A deployment refused `stream_options` that the filter had added.
    UsageRefused,
    /// An answer reported tokens of a deployment without a price, while others have one.
    UsageUnpriced,
    /// A request had an affinity key.
    Keyed,
    /// An attempt went to the first choice of the request's affinity key.
    KeyKept,
    /// An attempt went to a later choice of the request's affinity key, because an earlier one had its full share.
    KeyOverflowed,
    /// A request was answered 503 because no token was available.
    IdentityUnavailable,
    /// A request was answered 429 because every backend is throttled or misconfigured, and at least one is throttled.
    AllThrottled,
    /// A request was answered 503 because every backend refuses the identity or the key.
    AllUnavailable,
    /// A request was answered 404 because no configured backend has the deployment.
    NotOffered,
    /// A request was refused because of its content. Either no backend has the API, or the path is not Azure OpenAI's.
    /// Or its objects are on several backends, or an encoded body had to be read.
    NotServed,
    /// A request was answered 429 because one of its client's limits is used up.
    Limited,
    /// The filter requested a token from the token service.
    TokenFetch,
    /// A token request failed.
    TokenFailure,
    /// An attempt on the backend with this index.
    Attempt(usize),
    /// An attempt on the backend with this index, other than a request's first.
    Retry(usize),
    /// The outcome of an attempt on the backend with this index.
    Outcome(usize, Outcome),
    /// The backend with this index entered a cooldown.
    Cooldown(usize, Reason),
    /// An attempt on the backend with this index while it recovered from a cooldown.
    Probe(usize),
    /// A trial on the backend with this index, while every backend was in cooldown.
    Trial(usize),
    /// An attempt on the backend with this index, which had advised to wait.
    Soft(usize),
    /// An attempt on the backend with this index while its breaker was open.
    Panic(usize),
    /// The backend with this index reported that it lacks a deployment.
    MissingDeployment(usize),
    /// An event stream of the backend with this index reported an error after its content.
    StreamError(usize),
    /// An event stream of the backend with this index was reset after too long a silence.
    StreamIdle(usize),
    /// Tokens of this kind that the backend with this index reported.
    Token(usize, Tokens),
    /// The cost of the tokens that the backend with this index reported, in [`Cost`](super::prices::Cost).
    Cost(usize),
}

const SIMPLE: [(&str, Event); 20] = [
    ("requests", Event::Request),
    ("bodies_unread", Event::BodyUnread),
    ("stream_broken", Event::StreamBroken),
    ("stream_failed", Event::StreamFailed),
    ("client_gone", Event::ClientGone),
    ("usage.unknown", Event::UsageUnknown),
    ("usage.cut", Event::UsageCut),
    ("usage.refused", Event::UsageRefused),
    ("usage.unpriced", Event::UsageUnpriced),
    ("refused.throttled", Event::AllThrottled),
    ("refused.unavailable", Event::AllUnavailable),
    ("refused.no_deployment", Event::NotOffered),
    ("refused.not_served", Event::NotServed),
    ("refused.limited", Event::Limited),
    ("affinity.requests", Event::Keyed),
    ("affinity.kept", Event::KeyKept),
    ("affinity.overflowed", Event::KeyOverflowed),
    ("identity.unavailable", Event::IdentityUnavailable),
    ("identity.fetches", Event::TokenFetch),
    ("identity.failures", Event::TokenFailure),
];
const GLOBAL: usize = SIMPLE.len() + NoRetry::ALL.len();
const OWN: [&str; 9] = [
    "attempts",
    "retries",
    "missing_deployments",
    "probes",
    "trials",
    "soft",
    "panic",
    "stream_failed",
    "stream_idle",
];
const COST: usize = OWN.len() + Outcome::ALL.len() + Reason::ALL.len() + Tokens::ALL.len();
const PER_BACKEND: usize = COST + 1;

/// The most deployments per backend with their own statistics. Envoy keeps each statistic for good.
pub const MOST_DEPLOYMENTS: usize = 64;

/// The gauge with the seconds until the current token expires. 0 without a token.
pub const TOKEN_SECONDS_LEFT: &str = "aoai.identity.seconds_to_expiry";

/// The name of the gauge with the seconds until an identity's token expires. It contains the identity's name, if it has
/// one. 0 without a token.
pub fn token_gauge_name(identity: Option<&str>) -> String {
    format!(
        "aoai.identity.{}.seconds_left",
        identity.unwrap_or("_default")
    )
}

/// The names of the counters, in the order of a [`Tally`].
pub fn counter_names(backends: &[Backend]) -> Vec<String> {
    let mut names: Vec<String> = SIMPLE
        .iter()
        .map(|(name, _)| format!("aoai.{name}"))
        .collect();
    names.extend(NoRetry::ALL.map(|reason| format!("aoai.no_retry.{}", reason.name())));
    for backend in backends {
        let own = OWN.map(|event| ("", event)).into_iter();
        let outcomes = Outcome::ALL.map(|outcome| ("outcome.", outcome.name()));
        let cooldowns = Reason::ALL.map(|reason| ("cooldowns.", reason.name()));
        let tokens = Tokens::ALL.map(|tokens| ("tokens.", tokens.name()));
        let cost = [("", "cost_micros")];
        let all = own
            .chain(outcomes)
            .chain(cooldowns)
            .chain(tokens)
            .chain(cost);
        for (kind, name) in all {
            names.push(format!("aoai.backend.{}.{kind}{name}", backend.name));
        }
    }
    names
}

/// The names of a backend's gauges. The first is its state: 0 free, 1 a quota is throttled, 2 failing, 3 misconfigured,
/// 4 recovering. The second is the seconds until its cooldown ends.
pub fn gauge_names(backend: &Backend) -> [String; 2] {
    ["state", "cooldown_seconds"].map(|gauge| format!("aoai.backend.{}.{gauge}", backend.name))
}

/// The values of [`gauge_names`].
pub fn gauges(health: &Health, now: Timestamp) -> [u64; 2] {
    match health.trouble(now) {
        None => [0, 0],
        Some((_, None)) => [4, 0],
        Some((reason, Some(until))) => [1 + reason as u64, seconds_left(until, now)],
    }
}

/// The names of the gauges of a backend's quota. The first is its state: 0 open, 1 throttled, 2 advised to wait. The
/// second is the seconds until its wait ends.
pub fn quota_gauge_names(backend: &Backend, quota: &str) -> [String; 2] {
    let backend = &backend.name;
    ["state", "seconds"].map(|gauge| format!("aoai.backend.{backend}.deployment.{quota}.{gauge}"))
}

/// The values of [`quota_gauge_names`].
pub fn quota_gauges(wait: Option<&QuotaWait>, now: Timestamp) -> [u64; 2] {
    match wait {
        None => [0, 0],
        Some(wait) => {
            let state = if wait.is_binding { 1 } else { 2 };
            [state, seconds_left(wait.until, now)]
        }
    }
}

/// The name of a counter of one of a backend's deployments.
pub fn deployment_counter_name(backend: &Backend, deployment: &str, kind: Kind) -> String {
    let backend = &backend.name;
    format!(
        "aoai.backend.{backend}.deployment.{deployment}.{}",
        kind.name()
    )
}

/// The more severe of two values of [`quota_gauges`].
pub fn more_severe(one: [u64; 2], other: [u64; 2]) -> [u64; 2] {
    // "Throttled" is more severe than "advised to wait", which is more severe than "open".
    let rank = |[state, seconds]: [u64; 2]| (state > 0, core::cmp::Reverse(state), seconds);
    if rank(other) > rank(one) {
        other
    } else {
        one
    }
}

/// The whole seconds until `until`, rounded up.
pub fn seconds_left(until: Timestamp, now: Timestamp) -> u64 {
    millis(until.since(now)).div_ceil(1000)
}

/// The event of an attempt on `backend` that was chosen for this reason.
pub fn event_of_choice(backend: usize, because: Because) -> Option<Event> {
    match because {
        Because::Free | Because::Foreseen => None,
        Because::Kept => Some(Event::KeyKept),
        Because::Overflowed => Some(Event::KeyOverflowed),
        Because::Recovering | Because::Crowded => Some(Event::Probe(backend)),
        Because::Soft => Some(Event::Soft(backend)),
        Because::Panic => Some(Event::Panic(backend)),
        Because::Trial => Some(Event::Trial(backend)),
    }
}

/// Counts since the last report. Adding is a memory write, while a host call for each event would cost about a
/// microsecond.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    counts: Vec<u64>,
}

impl Tally {
    /// A tally for this many backends, with all counts zero.
    pub fn new(backends: usize) -> Self {
        let len = PER_BACKEND.saturating_mul(backends).saturating_add(GLOBAL);
        Self {
            counts: vec![0; len],
        }
    }

    /// Counts `event`.
    pub fn add(&mut self, event: Event) {
        self.add_many(event, 1);
    }

    /// Counts `event` `times` times.
    pub fn add_many(&mut self, event: Event, times: u64) {
        if let Some(count) = index(event).and_then(|index| self.counts.get_mut(index)) {
            *count = count.saturating_add(times);
        }
    }

    /// Passes every non-zero count to `report`, with its index in [`counter_names`], and resets it.
    pub fn drain(&mut self, mut report: impl FnMut(usize, u64)) {
        for (index, count) in self.counts.iter_mut().enumerate() {
            if *count == 0 {
                continue;
            }
            let count = match is_cost(index) {
                true => take_micros(count),
                false => core::mem::take(count),
            };
            if count > 0 {
                report(index, count);
            }
        }
    }
}

/// Whether a count is a cost.
fn is_cost(index: usize) -> bool {
    let of_backend = index.checked_sub(GLOBAL);
    of_backend.is_some_and(|index| index % PER_BACKEND == COST)
}

fn index(event: Event) -> Option<usize> {
    let of_backend = |backend: usize, offset: usize| {
        PER_BACKEND
            .checked_mul(backend)?
            .checked_add(GLOBAL.checked_add(offset)?)
    };
    match event {
        Event::Attempt(backend) => of_backend(backend, 0),
        Event::Retry(backend) => of_backend(backend, 1),
        Event::MissingDeployment(backend) => of_backend(backend, 2),
        Event::Probe(backend) => of_backend(backend, 3),
        Event::Trial(backend) => of_backend(backend, 4),
        Event::Soft(backend) => of_backend(backend, 5),
        Event::Panic(backend) => of_backend(backend, 6),
        Event::StreamError(backend) => of_backend(backend, 7),
        Event::StreamIdle(backend) => of_backend(backend, 8),
        Event::Outcome(backend, outcome) => of_backend(backend, OWN.len() + outcome as usize),
        Event::Cooldown(backend, reason) => {
            of_backend(backend, OWN.len() + Outcome::ALL.len() + reason as usize)
        }
        Event::Token(backend, tokens) => of_backend(
            backend,
            OWN.len() + Outcome::ALL.len() + Reason::ALL.len() + tokens as usize,
        ),
        Event::Cost(backend) => of_backend(backend, COST),
        Event::NoRetry(reason) => Some(SIMPLE.len() + reason as usize),
        simple => SIMPLE.iter().position(|(_, event)| *event == simple),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backends() -> Vec<Backend> {
        ["east", "west"]
            .map(|name| Backend {
                name: name.into(),
                ..Backend::default()
            })
            .to_vec()
    }

    #[test]
    fn events_have_distinct_counters() {
        let names = counter_names(&backends());
        let mut tally = Tally::new(2);
        let mut events: Vec<Event> = SIMPLE.iter().map(|(_, event)| *event).collect();
        events.extend(NoRetry::ALL.map(Event::NoRetry));
        for backend in 0..2 {
            events.push(Event::Attempt(backend));
            events.push(Event::Retry(backend));
            events.push(Event::MissingDeployment(backend));
            events.push(Event::Probe(backend));
            events.push(Event::Trial(backend));
            events.push(Event::Soft(backend));
            events.push(Event::Panic(backend));
            events.push(Event::StreamError(backend));
            events.push(Event::StreamIdle(backend));
            events.extend(Outcome::ALL.map(|outcome| Event::Outcome(backend, outcome)));
            events.extend(Reason::ALL.map(|reason| Event::Cooldown(backend, reason)));
            events.extend(Tokens::ALL.map(|tokens| Event::Token(backend, tokens)));
            events.push(Event::Cost(backend));
        }
        assert_eq!(events.len(), names.len());
        for (event, name) in events.into_iter().zip(&names) {
            let times = if matches!(event, Event::Cost(_)) {
                2_900_000
            } else {
                2
            };
            tally.add_many(event, times);
            let mut seen = Vec::new();
            tally.drain(|index, count| seen.push((names[index].clone(), count)));
            assert_eq!(seen, [(name.clone(), 2)], "{event:?}");
        }
    }

    #[test]
    fn gauges_report_the_state_and_the_wait() {
        use std::time::Duration;

        use crate::config::Plugin;
        use crate::health::{Blame, Finding, Seen};

        let json = r#"{"backends": [{"name": "a", "cluster": "a", "host": "a"}], "identity": {"cluster": "i"}}"#;
        let Ok(Plugin::Balancer(config)) = Plugin::from_bytes(json.as_bytes(), &|_| None) else {
            panic!("{json}");
        };
        let now = Timestamp::from_secs(1_700_000_000);
        let wait = Some(Duration::from_millis(6_500));
        let throttled = Finding::Throttled(wait, Blame::First);
        let failed = [Finding::Failed(0, Blame::First); 5];
        for (findings, state, seconds, after) in [
            (&[][..], 0, 0..=0, 0),
            (&[throttled], 1, 7..=7, 0),
            (&failed, 2, 5..=7, 4),
            (&[Finding::Denied], 3, 300..=300, 4),
        ] {
            let mut health = Health::default();
            let seen = Seen {
                demand: crate::demand::Demand {
                    quota: crate::demand::QuotaKey::of_deployment(
                        crate::demand::DeploymentId::from_number(7),
                    ),
                    ..Default::default()
                },
                ..Seen::default()
            };
            for finding in findings {
                health.learn(*finding, &seen, &config.cooldown, 0, now);
            }
            let [is, left] = gauges(&health, now);
            assert!(
                is == state && seconds.contains(&left),
                "{findings:?}: {is} {left}"
            );
            let over = now + Duration::from_secs(*seconds.end());
            assert_eq!(gauges(&health, over), [after, 0], "{findings:?}");
        }
        assert_eq!(
            gauge_names(&backends()[0]),
            [
                "aoai.backend.east.state",
                "aoai.backend.east.cooldown_seconds"
            ]
        );
    }

    #[test]
    fn gauges_of_quotas_distinguish_waits_and_advice() {
        let now = Timestamp::from_secs(1_700_000_000);
        let wait = |is_binding| QuotaWait {
            key: crate::demand::QuotaKey::UNREAD,
            until: now + std::time::Duration::from_millis(1_001),
            is_binding,
        };
        assert_eq!(quota_gauges(None, now), [0, 0]);
        assert_eq!(quota_gauges(Some(&wait(true)), now), [1, 2]);
        assert_eq!(quota_gauges(Some(&wait(false)), now), [2, 2]);
        for (graver_one, other) in [([1, 1], [2, 9]), ([1, 2], [1, 1]), ([2, 1], [0, 0])] {
            assert_eq!(more_severe(graver_one, other), graver_one);
            assert_eq!(more_severe(other, graver_one), graver_one);
        }
        assert_eq!(
            quota_gauge_names(&backends()[0], "gpt-4o"),
            [
                "aoai.backend.east.deployment.gpt-4o.state",
                "aoai.backend.east.deployment.gpt-4o.seconds"
            ]
        );
    }

    #[test]
    fn names_are_stable() {
        let names = counter_names(&backends());
        for name in [
            "aoai.requests",
            "aoai.identity.fetches",
            "aoai.no_retry.body_too_large",
            "aoai.backend.east.retries",
            "aoai.backend.west.outcome.throttled",
        ] {
            assert!(names.iter().any(|n| n == name), "{name}");
        }
    }

    #[test]
    fn events_of_unknown_backends_are_not_counted() {
        let mut tally = Tally::new(1);
        tally.add(Event::Retry(7));
        tally.add(Event::Retry(usize::MAX));
        tally.drain(|index, count| panic!("{index}: {count}"));
    }
}
