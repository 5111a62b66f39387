//! One worker's view of all backends, and the choice among them.
//!
//! A request goes to the first backend available in this order: a free one, a recovering one, the one whose advised
//! wait ends first, and one with an open breaker. If every backend requires to wait, refuses the identity or was tried
//! already, the filter refuses the request. Even then one request a second is a trial, which tests whether the wait is
//! still justified.

use core::time::Duration;

use crate::affinity::Affinity;
use crate::config::{Config, Policy};
use crate::demand::{Client, Demand, QuotaKey};
use crate::health::{Health, Standing};
use crate::plan::{BackendSet, Plan};
use crate::schedule::{Schedule, Usable};
use crate::time::Timestamp;
use crate::why::Obstacle;

use super::capacity::Capacities;
use super::choice::{Choice, Declined, NoChoice, Wait};
use super::offer::Offer;
use crate::prelude::*;

/// A worker's view of its backends.
#[derive(Clone, Debug)]
pub struct View {
    schedule: Schedule,
    policy: Policy,
    affinity: Option<Affinity>,
    health: Vec<Health>,
    capacities: Capacities,
    offers: Vec<Offer>,
    /// Whether every backend has every deployment and API, by the configuration.
    offers_are_open: bool,
    all: BackendSet,
    /// The backends whose identities have no access token.
    tokenless: BackendSet,
    /// Whether every backend is free for every request.
    plain: bool,
    /// Whether some backend is known to lack a deployment or an API.
    lacking: bool,
    /// Whether some backend has refused quotas, or lacks a deployment or an API.
    distinguishes_deployments: bool,
    /// The backends that are free for every request.
    clear: BackendSet,
    /// The backends whose record a success does not change.
    untroubled: BackendSet,
}

/// The backends by their state for one request.
#[derive(Clone, Copy, Debug, Default)]
struct Sorted {
    free: BackendSet,
    recovering: BackendSet,
    /// The backend whose advised wait ends first.
    soft: Option<(Timestamp, usize)>,
    failing: BackendSet,
    closed: BackendSet,
}

impl View {
    /// A view of the backends of `config`, all of them free.
    pub fn new(config: &Config) -> Self {
        let backends = config.backends.len();
        let offers: Vec<_> = config.backends.iter().map(Offer::of).collect();
        Self {
            schedule: Schedule::new(&config.backends),
            policy: config.policy,
            affinity: config
                .affinity
                .as_ref()
                .map(|rules| Affinity::new(&config.backends, rules.most_percent)),
            health: vec![Health::default(); backends],
            capacities: Capacities::new(backends),
            offers_are_open: offers.iter().all(Offer::is_open),
            offers,
            all: (0..backends).collect(),
            tokenless: BackendSet::default(),
            plain: true,
            lacking: false,
            distinguishes_deployments: false,
            clear: (0..backends).collect(),
            untroubled: (0..backends).collect(),
        }
    }

    /// Whether every backend is free for every request. The choice is then independent of the time.
    pub fn is_plain(&self) -> bool {
        self.plain && self.policy == Policy::RoundRobin && self.affinity.is_none()
    }

    /// Whether the choice depends on the request's deployment: quotas differ, or a backend lacks a deployment.
    pub fn distinguishes_deployments(&self) -> bool {
        self.distinguishes_deployments || self.policy == Policy::LeastThrottled
    }

    /// Whether a backend's state for this client may differ from its state for most clients.
    pub fn distinguishes(&self, client: Client) -> bool {
        self.health
            .iter()
            .any(|health| health.distinguishes(client))
    }

    /// The health of a backend.
    pub fn health(&self, backend: usize) -> Option<&Health> {
        self.health.get(backend)
    }

    /// Stores the health of a backend.
    pub fn set_health(&mut self, backend: usize, health: Health) {
        self.set_every_health([(backend, health)]);
    }

    /// Stores the health of several backends.
    pub fn set_every_health(&mut self, found: impl IntoIterator<Item = (usize, Health)>) {
        for (backend, health) in found {
            if let Some(known) = self.health.get_mut(backend) {
                *known = health;
            }
        }
        self.clear = self.all_that(Health::is_plain);
        self.plain = self.clear == self.all;
        self.untroubled = self.all_that(Health::is_untroubled);
        self.lacking = self.health.iter().any(Health::lacks_any);
        let mut health = self.health.iter();
        self.distinguishes_deployments = health.any(Health::distinguishes_deployments);
    }

    #[inline(never)]
    fn all_that(&self, are: fn(&Health) -> bool) -> BackendSet {
        let health = self.health.iter().enumerate();
        let those = health.filter(|(_, health)| are(health));
        those.map(|(index, _)| index).collect()
    }

    /// Whether a success does not change the record of this backend.
    pub fn is_untroubled(&self, backend: usize) -> bool {
        self.untroubled.contains(backend)
    }

    /// Sets the backends whose identities have no access token.
    pub fn set_tokenless(&mut self, backends: BackendSet) {
        self.tokenless = backends;
    }

    /// Records a reported number of tokens left of a backend's quota. Some backends report 0 or -1 for "unknown".
    pub fn set_capacity(&mut self, backend: usize, quota: QuotaKey, tokens: i64, at: Timestamp) {
        self.capacities.set(backend, quota, tokens, at);
    }

    /// The next backend of a request with this `plan`, without time and demand. The result equals [`Self::choose`]'s,
    /// at a lower cost. `None` if the results may differ.
    pub fn choose_fast(&self, plan: &Plan) -> Option<usize> {
        if !(self.is_plain() && self.offers_are_open) {
            return None;
        }
        let usable = Usable {
            free: self.all.without(plan.tried).without(self.tokenless),
            due: BackendSet::default(),
        };
        self.schedule.pick(plan.turn, &usable)
    }

    /// The next backend of a request with this `plan`, except those that `declined`.
    ///
    /// # Errors
    /// No backend can be chosen.
    pub fn choose(
        &self,
        plan: &Plan,
        declined: &Declined,
        demand: &Demand,
        now: Timestamp,
    ) -> Result<Choice, NoChoice> {
        let offering = self.offering(demand);
        if offering.is_empty() {
            return Err(self.nothing_offered(demand));
        }
        let having = self.having(offering, demand, now);
        let candidates = having.without(plan.tried).without(self.tokenless);
        if let Some(home) = self.home(plan, candidates) {
            return Ok(Choice::Free(home));
        }
        let sorted = self.sort(candidates, demand, now);
        let pick = |usable: Usable| match self.policy {
            Policy::RoundRobin => self.schedule.pick(plan.turn, &usable),
            Policy::LeastThrottled => {
                let capacity = |index| self.capacities.get(index, demand.quota, now);
                self.schedule.pick_by_capacity(plan.turn, &usable, capacity)
            }
        };
        let all = |free: BackendSet| Usable {
            free,
            due: BackendSet::default(),
        };
        let recovering = sorted.recovering.without(declined.crowded);
        let usable = Usable {
            free: sorted.free,
            due: recovering,
        };
        let choice = match (&self.affinity, plan.key) {
            (Some(affinity), Some(key)) => {
                let own = self.schedule.best(having);
                let usable = self.schedule.best(sorted.free.with(recovering));
                affinity.pick(key, own, usable, now).map(Choice::from)
            }
            _ => pick(usable).map(Choice::Free),
        };
        if let Some(choice) = choice {
            let index = choice.backend();
            return Ok(match recovering.contains(index) {
                true => Choice::Recovering(index),
                false => choice,
            });
        }
        if let Some(index) = pick(all(sorted.recovering)) {
            return Ok(Choice::Crowded(index));
        }
        if let Some((_, index)) = sorted.soft {
            return Ok(Choice::Soft(index));
        }
        if let Some(index) = pick(all(sorted.failing)) {
            return Ok(Choice::Failing(index));
        }
        if self.waits_for_token(offering.without(plan.tried)) {
            return Err(NoChoice::NoToken);
        }
        if !plan.has_tested {
            let due = self.those(sorted.closed.without(declined.tested));
            let due = due.filter(|(_, health)| health.trial_is_due(demand, now));
            if let Some(index) = pick(all(due.map(|(index, _)| index).collect())) {
                return Ok(Choice::Trial(index));
            }
        }
        Err(self.wait(candidates, demand, now))
    }

    /// The backend of the plan's own turn, if it is free whatever the demand. The others are then not looked at.
    fn home(&self, plan: &Plan, candidates: BackendSet) -> Option<usize> {
        let turn_decides =
            self.policy == Policy::RoundRobin && (self.affinity.is_none() || plan.key.is_none());
        let home = self.schedule.home(plan.turn).filter(|_| turn_decides)?;
        candidates.and(self.clear).contains(home).then_some(home)
    }

    /// Counts an attempt on `backend`.
    pub fn count_attempt(&mut self, backend: usize, now: Timestamp) {
        if let Some(affinity) = &mut self.affinity {
            affinity.count(backend, now);
        }
    }

    /// Whether attempts must be [counted](Self::count_attempt).
    pub fn counts_attempts(&self) -> bool {
        self.affinity.is_some()
    }

    /// The backends that meet the demand, by their configuration.
    fn offering(&self, demand: &Demand) -> BackendSet {
        if self.offers_are_open {
            return self.all;
        }
        let offers = self.offers.iter().enumerate();
        let meeting = offers.filter(|(_, offer)| offer.meets(demand));
        meeting.map(|(index, _)| index).collect()
    }

    /// The backends of the `offering` that have not reported a lack of the demanded deployment or API. If all have, all
    /// remain, so that a backend answers the request.
    fn having(&self, offering: BackendSet, demand: &Demand, now: Timestamp) -> BackendSet {
        if !self.lacking {
            return offering;
        }
        let health = self.health.iter().enumerate();
        let lacking = health.filter(|(_, health)| health.lacks(demand, now));
        let having = offering.without(lacking.map(|(index, _)| index).collect());
        match having.is_empty() {
            true => offering,
            false => having,
        }
    }

    fn sort(&self, candidates: BackendSet, demand: &Demand, now: Timestamp) -> Sorted {
        let troubled = candidates.without(self.clear);
        let mut sorted = Sorted {
            free: candidates.without(troubled),
            ..Sorted::default()
        };
        if self.plain {
            return sorted;
        }
        for (index, health) in self.those(troubled) {
            match health.standing(demand, now) {
                Standing::Free => sorted.free.add(index),
                Standing::Recovering => sorted.recovering.add(index),
                Standing::Soft(until) => {
                    sorted.soft = sorted.soft.into_iter().chain([(until, index)]).min();
                }
                Standing::Failing(_) => sorted.failing.add(index),
                Standing::Throttled(_) | Standing::Misconfigured(_) => sorted.closed.add(index),
            }
        }
        sorted
    }

    fn those(&self, backends: BackendSet) -> impl Iterator<Item = (usize, &Health)> {
        let indices = backends.into_iter();
        indices.filter_map(|index| Some((index, self.health.get(index)?)))
    }

    fn nothing_offered(&self, demand: &Demand) -> NoChoice {
        let api = Demand {
            deployment: None,
            ..*demand
        };
        match self.offering(&api).is_empty() {
            true => NoChoice::NoApi,
            false => NoChoice::NoDeployment,
        }
    }

    /// The untried backends of a request with this `plan`, each with the obstacle.
    #[inline(never)]
    pub fn obstacles(
        &self,
        plan: &Plan,
        demand: &Demand,
        now: Timestamp,
    ) -> Vec<(usize, Obstacle)> {
        let offering = self.offering(demand);
        let having = self.having(offering, demand, now);
        let untried = self.those(self.all.without(plan.tried));
        let obstacles = untried.map(|(index, health)| {
            let obstacle = if !offering.contains(index) {
                Obstacle::NotOffered
            } else if !having.contains(index) {
                Obstacle::Missing
            } else if self.tokenless.contains(index) {
                Obstacle::NoToken
            } else {
                Obstacle::Standing(health.standing(demand, now))
            };
            (index, obstacle)
        });
        obstacles.collect()
    }

    /// The shortest time until a backend of the `plan` can serve this `demand`, if all of them require to wait.
    pub fn wait_of_all(&self, plan: &Plan, demand: &Demand, now: Timestamp) -> Option<Duration> {
        let candidates = self.having(self.offering(demand), demand, now);
        let candidates = candidates.without(plan.tried).without(self.tokenless);
        let waits = self.those(candidates);
        let mut waits = waits.map(|(_, health)| match health.standing(demand, now) {
            Standing::Soft(until) | Standing::Throttled(until) | Standing::Misconfigured(until) => {
                Some(until.since(now))
            }
            Standing::Free | Standing::Recovering | Standing::Failing(_) => None,
        });
        waits.try_fold(None, |least: Option<Duration>, wait| {
            let wait = wait?;
            Some(Some(least.map_or(wait, |least| least.min(wait))))
        })?
    }

    /// The reason why none of the `candidates` can be chosen.
    #[inline(never)]
    fn wait(&self, candidates: BackendSet, demand: &Demand, now: Timestamp) -> NoChoice {
        let waits = self.those(candidates);
        let waits = waits.filter_map(|(_, health)| match health.standing(demand, now) {
            Standing::Throttled(until) => Some((until.since(now), true)),
            Standing::Misconfigured(until) => Some((until.since(now), false)),
            _ => None,
        });
        let wait = waits.fold(None, |wait: Option<Wait>, (left, throttled)| {
            Some(wait.map_or(Wait { left, throttled }, |wait| Wait {
                left: wait.left.min(left),
                throttled: wait.throttled | throttled,
            }))
        });
        wait.map_or(NoChoice::AllTried, NoChoice::AllInCooldown)
    }

    /// Whether a backend is unusable only for lack of a token.
    fn waits_for_token(&self, untried: BackendSet) -> bool {
        untried.without(self.tokenless) != untried
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BackendCredential, Deployments, Plugin, Secret, Unlisted};
    use crate::demand::{DeploymentId, LackId};
    use crate::health::{Blame, Finding, Seen};

    const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);
    const GPT: Demand = named(DeploymentId::from_number(4));
    const NO_GPT: Finding = Finding::Missing(LackId::from_number(4));
    const ANY: Demand = Demand {
        deployment: None,
        api: None,
        quota: QuotaKey::of_deployment(DeploymentId::from_number(99)),
        size: None,
        client: Client::UNKNOWN,
    };

    const fn named(deployment: DeploymentId) -> Demand {
        Demand {
            deployment: Some(deployment),
            api: None,
            quota: QuotaKey::of_deployment(deployment),
            size: None,
            client: Client::UNKNOWN,
        }
    }

    fn config(policy: &str) -> Config {
        let json = format!(
            r#"{{"backends": [
                    {{"name": "a", "cluster": "a", "host": "a"}},
                    {{"name": "b", "cluster": "b", "host": "b"}},
                    {{"name": "c", "cluster": "c", "host": "c"}}
                ],
                "policy": "{policy}", "identity": {{"cluster": "imds"}}}}"#
        );
        match Plugin::from_bytes(json.as_bytes(), &|_| None) {
            Ok(Plugin::Balancer(config)) => *config,
            other => panic!("{other:?}"),
        }
    }

    fn view() -> View {
        View::new(&config("round_robin"))
    }

    impl View {
        /// Learns from an attempt for `demand`.
        fn learn_of(&mut self, backend: usize, finding: Finding, demand: Demand) {
            let mut health = self.health(backend).unwrap().clone();
            let rules = config("round_robin").cooldown;
            let seen = Seen {
                demand,
                ..Seen::default()
            };
            health.learn(finding, &seen, &rules, 0, NOW);
            self.set_health(backend, health);
        }

        /// Learns from an attempt for any deployment.
        fn learn(&mut self, backend: usize, finding: Finding) {
            self.learn_of(backend, finding, ANY);
        }

        /// The choice of a request that makes no trial.
        fn next(&self, plan: &Plan, demand: Demand, now: Timestamp) -> Result<Choice, NoChoice> {
            let plan = Plan {
                has_tested: true,
                ..*plan
            };
            self.choose(&plan, &Declined::default(), &demand, now)
        }

        fn first(&self, turn: u64, demand: Demand) -> Result<Choice, NoChoice> {
            self.next(&Plan::new(turn), demand, NOW)
        }
    }

    fn throttled(seconds: u64) -> Finding {
        Finding::Throttled(Some(Duration::from_secs(seconds)), Blame::First)
    }

    fn all_in_cooldown(seconds: u64, throttled: bool) -> Result<Choice, NoChoice> {
        Err(NoChoice::AllInCooldown(Wait {
            left: Duration::from_secs(seconds),
            throttled,
        }))
    }

    #[test]
    fn free_backends_take_turns() {
        let view = view();
        assert!(view.is_plain());
        for turn in 0..6 {
            assert_eq!(view.first(turn, GPT), Ok(Choice::Free(turn as usize % 3)));
        }
        assert!(!View::new(&config("least_throttled")).is_plain());
    }

    #[test]
    fn backends_in_cooldown_are_skipped_until_a_trial_is_due() {
        let mut view = view();
        view.learn(1, throttled(7));
        assert!(!view.is_plain());
        assert_eq!(view.first(1, ANY), Ok(Choice::Free(2)));
        assert_eq!(view.first(4, ANY), Ok(Choice::Free(0)));
        let then = NOW + Duration::from_secs(7);
        let chosen = |turn| view.next(&Plan::new(turn), ANY, then);
        assert_eq!(chosen(1), Ok(Choice::Recovering(1)));
        assert_eq!(chosen(2), Ok(Choice::Free(2)));
        view.set_health(1, Health::default());
        assert!(view.is_plain());
    }

    #[test]
    fn every_backend_is_tried_once() {
        let view = view();
        let mut plan = Plan::new(5);
        for backend in [2, 1, 0] {
            assert_eq!(view.next(&plan, ANY, NOW), Ok(Choice::Free(backend)));
            plan.tried.add(backend);
        }
        assert_eq!(view.next(&plan, ANY, NOW), Err(NoChoice::AllTried));
    }

    #[test]
    fn untried_backends_in_cooldown_differ_from_tried_ones() {
        let mut view = view();
        view.learn(0, throttled(9));
        let mut plan = Plan::new(0);
        plan.tried.add(1);
        plan.tried.add(2);
        assert_eq!(view.next(&plan, ANY, NOW), all_in_cooldown(9, true));
        plan.tried.add(0);
        assert_eq!(view.next(&plan, ANY, NOW), Err(NoChoice::AllTried));
    }

    #[test]
    fn the_shortest_wait_counts_and_names_throttling() {
        let mut view = view();
        view.learn(0, Finding::Denied);
        view.learn(1, Finding::Denied);
        view.learn(2, Finding::Denied);
        assert_eq!(view.first(0, ANY), all_in_cooldown(300, false));
        view.set_health(2, Health::default());
        view.learn(2, throttled(20));
        assert_eq!(view.first(0, ANY), all_in_cooldown(20, true));
        view.set_health(0, Health::default());
        view.learn(0, throttled(30));
        assert_eq!(view.first(0, ANY), all_in_cooldown(20, true));
    }

    #[test]
    fn backends_that_lack_a_deployment_are_skipped_for_it() {
        let mut view = view();
        view.learn(0, NO_GPT);
        assert_eq!(view.first(0, GPT), Ok(Choice::Free(1)));
        assert_eq!(
            view.first(0, named(DeploymentId::from_number(5))),
            Ok(Choice::Free(0))
        );
        assert_eq!(view.first(0, ANY), Ok(Choice::Free(0)));
        // The backends with the deployment are in cooldown. That is the answer, not the 404 of the backend without it.
        view.learn_of(1, throttled(20), GPT);
        view.learn_of(2, throttled(10), GPT);
        assert_eq!(view.first(0, GPT), all_in_cooldown(10, true));
        assert_eq!(view.first(1, ANY), Ok(Choice::Free(1)), "another quota");
    }

    #[test]
    fn any_backend_may_refuse_a_deployment_that_none_has() {
        let mut view = view();
        for backend in 0..3 {
            view.learn(backend, NO_GPT);
        }
        assert_eq!(view.first(1, GPT), Ok(Choice::Free(1)));
        view.learn_of(1, throttled(5), GPT);
        assert_eq!(view.first(1, GPT), Ok(Choice::Free(2)));
    }

    #[test]
    fn backends_get_only_their_configured_deployments() {
        let mut config = config("round_robin");
        let only = |name: &str| {
            let mut deployments = Deployments::default();
            deployments.add(name, "own");
            deployments.unlisted = Unlisted::Refuse;
            deployments
        };
        config.backends[0].deployments = only("x");
        config.backends[1].deployments = only("y");
        config.backends[2].deployments = only("x");
        let mut view = View::new(&config);
        let (x, y) = (named(DeploymentId::of("x")), named(DeploymentId::of("y")));
        assert_eq!(view.first(1, x), Ok(Choice::Free(2)));
        assert_eq!(view.first(4, x), Ok(Choice::Free(0)));
        assert_eq!(view.first(0, y), Ok(Choice::Free(1)));
        assert_eq!(
            view.first(1, ANY),
            Ok(Choice::Free(1)),
            "no deployment is anyone's"
        );
        assert_eq!(
            view.first(0, named(DeploymentId::from_number(7))),
            Err(NoChoice::NoDeployment)
        );
        // All configured backends report that they lack it, so one of them answers.
        view.learn(1, Finding::Missing(y.deployment_in_api().unwrap()));
        assert_eq!(view.first(0, y), Ok(Choice::Free(1)));
        // The only backend with the deployment is in cooldown.
        view.learn_of(1, throttled(9), y);
        assert_eq!(view.first(0, y), all_in_cooldown(9, true));
        let mut plan = Plan::new(0);
        plan.tried.add(1);
        assert_eq!(view.next(&plan, y, NOW), Err(NoChoice::AllTried));
    }

    #[test]
    fn without_a_token_backends_with_a_key_serve() {
        let mut config = config("round_robin");
        config.backends[1].credential = BackendCredential::Key(Secret::new("KEY".into()));
        let mut view = View::new(&config);
        assert_eq!(view.first(0, GPT), Ok(Choice::Free(0)));
        let mut tokenless = BackendSet::default();
        tokenless.add(0);
        tokenless.add(2);
        view.set_tokenless(tokenless);
        for turn in 0..6 {
            assert_eq!(view.first(turn, GPT), Ok(Choice::Free(1)));
        }
        view.learn_of(1, throttled(9), GPT);
        assert_eq!(view.first(0, GPT), Err(NoChoice::NoToken));
        let mut plan = Plan::new(0);
        plan.tried.add(0);
        plan.tried.add(2);
        assert_eq!(view.next(&plan, GPT, NOW), all_in_cooldown(9, true));
        view.set_tokenless(BackendSet::default());
        assert_eq!(view.first(0, GPT), Ok(Choice::Free(0)));
    }

    #[test]
    fn no_backend_is_left_after_all_candidates_were_tried() {
        let mut view = view();
        view.learn(0, NO_GPT);
        let mut plan = Plan::new(0);
        plan.tried.add(1);
        plan.tried.add(2);
        assert_eq!(view.next(&plan, GPT, NOW), Err(NoChoice::AllTried));
    }

    #[test]
    fn reported_quotas_count_for_a_minute() {
        let mut view = View::new(&config("least_throttled"));
        let shares = |view: &View, now| {
            let mut shares = [0; 3];
            for turn in 0..1000 {
                match view.next(&Plan::new(turn), ANY, now) {
                    Ok(Choice::Free(backend)) => shares[backend] += 1,
                    other => panic!("{other:?}"),
                }
            }
            shares.map(|share: u32| share.div_ceil(10))
        };
        assert_eq!(shares(&view, NOW), [34, 34, 34]);
        view.set_capacity(0, ANY.quota, 9000, NOW);
        view.set_capacity(1, ANY.quota, 1000, NOW);
        view.set_capacity(2, ANY.quota, 5000, NOW);
        let [a, b, c] = shares(&view, NOW + Duration::from_millis(59_999));
        assert!(
            a.abs_diff(60) <= 1 && b.abs_diff(7) <= 1 && c.abs_diff(33) <= 1,
            "{a} {b} {c}"
        );
        assert_eq!(shares(&view, NOW + Duration::from_secs(60)), [34, 34, 34]);
        for unknown in [0, -1, i64::MIN] {
            view.set_capacity(0, ANY.quota, 9000, NOW);
            view.set_capacity(0, ANY.quota, unknown, NOW);
            let [a, b, c] = shares(&view, NOW);
            assert!(
                a.abs_diff(33) <= 1 && b.abs_diff(11) <= 1 && c.abs_diff(56) <= 1,
                "{a} {b} {c}"
            );
        }
        view.set_capacity(0, ANY.quota, i64::MAX, NOW);
        assert!(shares(&view, NOW)[0] >= 99);
    }

    #[test]
    fn unknown_backends_are_ignored() {
        let mut view = view();
        view.set_capacity(7, ANY.quota, 1, NOW);
        view.set_health(7, Health::default());
        assert!(view.health(7).is_none());
        assert!(view.is_plain());
    }

    #[test]
    fn advice_and_failures_come_before_refusals() {
        let mut view = view();
        let advised = |seconds| {
            let wait = Some(Duration::from_secs(seconds));
            Finding::Throttled(wait, Blame::Repeated)
        };
        view.learn(0, advised(20));
        assert_eq!(view.first(0, ANY), Ok(Choice::Free(1)));
        view.learn(1, advised(10));
        view.learn(2, throttled(5));
        let mut plan = Plan::new(0);
        for expected in [1, 0] {
            assert_eq!(view.next(&plan, ANY, NOW), Ok(Choice::Soft(expected)));
            plan.tried.add(expected);
        }
        assert_eq!(view.next(&plan, ANY, NOW), all_in_cooldown(5, true));
        for _ in 0..5 {
            view.learn(1, Finding::Failed(0, Blame::First));
        }
        assert_eq!(view.first(0, ANY), Ok(Choice::Soft(0)));
        let mut plan = Plan::new(0);
        plan.tried.add(0);
        assert_eq!(view.next(&plan, ANY, NOW), Ok(Choice::Failing(1)));
    }

    #[test]
    fn one_trial_is_due_while_all_backends_are_closed() {
        let mut view = view();
        for backend in 0..3 {
            view.learn(backend, throttled(30));
        }
        let choose = |plan: &Plan, declined: &Declined| view.choose(plan, declined, &ANY, NOW);
        let mut declined = Declined::default();
        for backend in 0..3 {
            let plan = Plan::new(backend as u64);
            assert_eq!(
                choose(&plan, &Declined::default()),
                Ok(Choice::Trial(backend))
            );
            declined.tested.add(backend);
        }
        assert_eq!(choose(&Plan::new(0), &declined), all_in_cooldown(30, true));
        assert_eq!(
            view.first(0, ANY),
            all_in_cooldown(30, true),
            "it has made its trial"
        );
    }

    #[test]
    fn a_crowded_backend_is_used_if_no_other_is_free() {
        let mut view = view();
        view.learn(1, throttled(1));
        let then = NOW + Duration::from_secs(1);
        let crowded = Declined {
            crowded: BackendSet::all_but(0, 3),
            ..Declined::default()
        };
        let choose = |plan: &Plan| view.choose(plan, &crowded, &ANY, then);
        assert_eq!(choose(&Plan::new(1)), Ok(Choice::Free(2)));
        let mut plan = Plan::new(1);
        plan.tried.add(0);
        plan.tried.add(2);
        assert_eq!(choose(&plan), Ok(Choice::Crowded(1)));
    }

    #[test]
    fn refusals_of_unread_requests_advise_only_such_requests() {
        let mut view = view();
        assert!(!view.distinguishes_deployments());
        let unread = Demand {
            deployment: None,
            ..Demand::default()
        };
        view.learn_of(0, throttled(30), unread);
        assert!(view.distinguishes_deployments());
        for turn in 0..9 {
            assert_ne!(view.first(turn, unread), Ok(Choice::Free(0)));
        }
        let mut plan = Plan::new(0);
        plan.tried.add(1);
        plan.tried.add(2);
        assert_eq!(view.next(&plan, unread, NOW), Ok(Choice::Soft(0)));
        assert_eq!(view.next(&plan, GPT, NOW), Ok(Choice::Free(0)));
    }

    #[test]
    fn the_wait_of_all_backends_is_the_shortest() {
        let mut view = view();
        let wait = |view: &View| view.wait_of_all(&Plan::default(), &ANY, NOW);
        view.learn(0, throttled(30));
        view.learn(
            1,
            Finding::Throttled(Some(Duration::from_secs(9)), Blame::Repeated),
        );
        assert_eq!(wait(&view), None, "one is free");
        view.learn(2, throttled(20));
        assert_eq!(wait(&view), Some(Duration::from_secs(9)));
    }
    #[test]
    fn the_fast_choice_equals_the_full_choice() {
        let mut config = config("round_robin");
        config.backends[0].weight = 3;
        config.backends[2].priority = 1;
        let mut view = View::new(&config);
        for tokenless in [None, Some(0), Some(1)] {
            view.set_tokenless(tokenless.into_iter().collect());
            for turn in 0..12 {
                let mut plan = Plan::new(turn);
                let mut choices = 0;
                while let Some(backend) = view.choose_fast(&plan) {
                    let choice = view.choose(&plan, &Declined::default(), &GPT, NOW);
                    assert_eq!(choice, Ok(Choice::Free(backend)), "{plan:?} {tokenless:?}");
                    plan.tried.add(backend);
                    choices += 1;
                }
                assert_eq!(choices, 3 - usize::from(tokenless.is_some()));
            }
        }
    }

    #[test]
    fn no_choice_is_plain_if_demand_or_time_matters() {
        let plan = Plan::new(0);
        let mut view = view();
        assert!(view.choose_fast(&plan).is_some());
        view.learn(1, Finding::Denied);
        assert_eq!(view.choose_fast(&plan), None);
        view.set_health(1, Health::default());
        assert!(view.choose_fast(&plan).is_some());
        let least = View::new(&config("least_throttled"));
        assert_eq!(least.choose_fast(&plan), None);
        let mut listed = config("round_robin");
        listed.backends[0].deployments.unlisted = Unlisted::Refuse;
        assert_eq!(View::new(&listed).choose_fast(&plan), None);
    }

    #[test]
    fn successes_are_news_only_of_troubled_backends() {
        let mut view = view();
        assert!(view.is_untroubled(0) && !view.is_untroubled(3));
        view.learn(0, Finding::Failed(0, Blame::First));
        assert!(view.is_plain());
        view.learn(1, Finding::Denied);
        view.learn_of(2, throttled(1), GPT);
        assert!((0..3).all(|backend| !view.is_untroubled(backend)));
    }
    #[test]
    fn obstacles_of_backends_are_reported() {
        let mut config = config("round_robin");
        config.backends[0].deployments.unlisted = Unlisted::Refuse;
        let mut view = View::new(&config);
        view.learn_of(1, throttled(9), GPT);
        view.set_tokenless([2].into_iter().collect());
        let obstacles = |view: &View, plan: &Plan| view.obstacles(plan, &GPT, NOW);
        let until = NOW + Duration::from_secs(9);
        let throttled = Obstacle::Standing(Standing::Throttled(until));
        assert_eq!(
            obstacles(&view, &Plan::new(0)),
            [
                (0, Obstacle::NotOffered),
                (1, throttled),
                (2, Obstacle::NoToken)
            ]
        );
        assert_eq!(
            obstacles(&view, &Plan::only([1].into_iter().collect(), 3, 0)),
            [(1, throttled)]
        );
        view.learn(1, NO_GPT);
        view.set_tokenless(BackendSet::default());
        assert_eq!(
            obstacles(&view, &Plan::only([1].into_iter().collect(), 3, 0)),
            [(1, Obstacle::Missing)]
        );
    }
}
