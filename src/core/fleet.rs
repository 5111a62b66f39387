//! All backends as one worker sees them, and the choice among them.

use std::time::Duration;

use super::config::{Apis, Backend, Config, Policy, Unlisted};
use super::health::{Health, Reason, Standing};
use super::operation::Api;
use super::plan::{BackendSet, Plan};
use super::request::deployment_id;
use super::schedule::{Schedule, Usable};
use super::shared::scatter;
use super::time::Timestamp;

/// What an answer said about its backend's capacity is believed for this long.
const CAPACITY_LASTS: Duration = Duration::from_secs(60);

/// A worker's view of its backends.
#[derive(Clone, Debug)]
pub struct Fleet {
    schedule: Schedule,
    policy: Policy,
    health: Vec<Health>,
    capacity: Vec<Option<Capacity>>,
    offers: Vec<Offer>,
    /// By its configuration every backend has everything.
    offers_are_open: bool,
    all: BackendSet,
    /// The backends that cannot be asked now: their identities have no access token.
    tokenless: BackendSet,
    /// Every backend is free for all and everything, so that no one needs to look closer.
    plain: bool,
    /// Some backend is known to lack a deployment or an API.
    lacking: bool,
}

/// What a request needs its backend to have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// The deployment, by its [id](deployment_id).
    pub deployment: Option<u64>,
    /// The API.
    pub api: Option<Api>,
}

impl Demand {
    /// What stands for the deployment among the things that a backend may lack.
    ///
    /// It is the deployment as this API serves it: Foundry answers `unknown_model` to a chat with a model that it serves by another
    /// API, and then requests of that API must not pass the backend over.
    #[inline(never)]
    pub fn deployment_in_api(self) -> Option<u64> {
        let api = self.api.map_or(0, |api| scatter(api.id()));
        self.deployment.map(|deployment| deployment ^ api)
    }
}

/// What a backend has, by its configuration.
#[derive(Clone, Debug)]
struct Offer {
    /// Its deployments, where the configuration names all of them.
    deployments: Option<Vec<u64>>,
    apis: Apis,
}

#[derive(Clone, Copy, Debug)]
struct Capacity {
    remaining_tokens: u32,
    at: Timestamp,
}

/// A backend that was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// It may be used.
    Free(usize),
    /// It may be used by one request, if that claims the probe.
    Probe(usize),
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
    /// Those that are left cool down.
    AllOut(Wait),
}

/// How long until a backend may be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The smallest of all waits.
    pub left: Duration,
    /// One of them at least is for want of quota, which time alone brings back.
    pub throttled: bool,
}

impl Fleet {
    /// The backends of `config`, of which nothing is known.
    pub fn new(config: &Config) -> Self {
        let backends = config.backends.len();
        let offers: Vec<_> = config.backends.iter().map(Offer::of).collect();
        Self {
            schedule: Schedule::new(&config.backends),
            policy: config.policy,
            health: vec![Health::default(); backends],
            capacity: vec![None; backends],
            offers_are_open: offers.iter().all(Offer::is_open),
            offers,
            all: (0..backends).collect(),
            tokenless: BackendSet::default(),
            plain: true,
            lacking: false,
        }
    }

    /// Whether every backend is free for all and everything: then the time does not matter.
    pub fn is_plain(&self) -> bool {
        self.plain && self.policy == Policy::RoundRobin
    }

    /// Whether any backend is known to lack a deployment or an API.
    pub fn lacks_any(&self) -> bool {
        self.lacking
    }

    /// What is known of a backend's health.
    pub fn health(&self, backend: usize) -> Option<&Health> {
        self.health.get(backend)
    }

    /// Takes over what was found of a backend's health.
    pub fn set_health(&mut self, backend: usize, health: Health) {
        if let Some(known) = self.health.get_mut(backend) {
            *known = health;
        }
        self.plain = self.health.iter().all(Health::is_plain);
        self.lacking = self.health.iter().any(Health::lacks_any);
    }

    /// These backends cannot be asked now, for want of an access token.
    pub fn set_tokenless(&mut self, backends: BackendSet) {
        self.tokenless = backends;
    }

    /// An answer said how many tokens its backend has left. Some say 0 or -1 for "unknown".
    pub fn set_capacity(&mut self, backend: usize, remaining_tokens: i64, at: Timestamp) {
        if let Some(known) = self.capacity.get_mut(backend) {
            *known = (remaining_tokens > 0).then(|| Capacity {
                remaining_tokens: u32::try_from(remaining_tokens).unwrap_or(u32::MAX),
                at,
            });
        }
    }

    /// The backend that the request with this `plan` goes to next.
    ///
    /// # Errors
    /// There is none.
    pub fn choose(&self, plan: &Plan, demand: Demand, now: Timestamp) -> Result<Choice, NoChoice> {
        let offering = self.offering(demand);
        if offering.is_empty() {
            return Err(self.nothing_offered(demand));
        }
        let candidates = self.having(offering, demand, now).without(plan.tried);
        let usable = self.usable(candidates.without(self.tokenless), now);
        let chosen = match self.policy {
            Policy::RoundRobin => self.schedule.pick(plan.turn, &usable),
            Policy::LeastThrottled => {
                let capacity = |index| self.capacity(index, now);
                self.schedule.pick_by_capacity(plan.turn, &usable, capacity)
            }
        };
        match chosen {
            Some(index) if usable.due.contains(index) => Ok(Choice::Probe(index)),
            Some(index) => Ok(Choice::Free(index)),
            None if self.waits_for_token(offering.without(plan.tried)) => Err(NoChoice::NoToken),
            None => Err(self.wait(candidates.without(self.tokenless), now)),
        }
    }

    /// The backends that meet the demand, by their configuration.
    fn offering(&self, demand: Demand) -> BackendSet {
        if self.offers_are_open {
            return self.all;
        }
        let offers = self.offers.iter().enumerate();
        let meeting = offers.filter(|(_, offer)| offer.meets(demand));
        meeting.map(|(index, _)| index).collect()
    }

    /// Those of the `offering` that did not say they lack what is demanded. Where all of them say so, that is no reason to choose
    /// no one: the answer is for them to give.
    fn having(&self, offering: BackendSet, demand: Demand, now: Timestamp) -> BackendSet {
        if !self.lacking {
            return offering;
        }
        let health = self.health.iter().enumerate();
        let lacking = health.filter(|(_, health)| lacks(health, demand, now));
        let having = offering.without(lacking.map(|(index, _)| index).collect());
        match having.is_empty() {
            true => offering,
            false => having,
        }
    }

    fn usable(&self, candidates: BackendSet, now: Timestamp) -> Usable {
        let (free, due) = (candidates, BackendSet::default());
        let mut usable = Usable { free, due };
        if self.plain {
            return usable;
        }
        usable.free = BackendSet::default();
        for (index, health) in self.those(candidates) {
            match health.standing(now) {
                Standing::Free => usable.free.add(index),
                Standing::Due => usable.due.add(index),
                Standing::Out(..) => {}
            }
        }
        usable
    }

    fn those(&self, backends: BackendSet) -> impl Iterator<Item = (usize, &Health)> {
        let health = self.health.iter().enumerate();
        health.filter(move |(index, _)| backends.contains(*index))
    }

    fn nothing_offered(&self, demand: Demand) -> NoChoice {
        let api = Demand {
            deployment: None,
            ..demand
        };
        match self.offering(api).is_empty() {
            true => NoChoice::NoApi,
            false => NoChoice::NoDeployment,
        }
    }

    /// Why none of the `candidates` can be chosen.
    #[inline(never)]
    fn wait(&self, candidates: BackendSet, now: Timestamp) -> NoChoice {
        let mut wait: Option<Wait> = None;
        for (_, health) in self.those(candidates) {
            if let Standing::Out(reason, until) = health.standing(now) {
                let left = until.since(now);
                let throttled = reason == Reason::Throttled;
                wait = Some(wait.map_or(Wait { left, throttled }, |wait| Wait {
                    left: wait.left.min(left),
                    throttled: wait.throttled | throttled,
                }));
            }
        }
        wait.map_or(NoChoice::AllTried, NoChoice::AllOut)
    }

    /// Whether one of these would be asked if it had a token.
    fn waits_for_token(&self, untried: BackendSet) -> bool {
        untried.without(self.tokenless) != untried
    }

    fn capacity(&self, index: usize, now: Timestamp) -> Option<u32> {
        let capacity = (*self.capacity.get(index)?)?;
        let until = capacity.at + CAPACITY_LASTS;
        (!until.has_passed(now, CAPACITY_LASTS)).then_some(capacity.remaining_tokens)
    }
}

/// Whether a backend said that it does not have what is demanded.
fn lacks(health: &Health, demand: Demand, now: Timestamp) -> bool {
    let deployment = demand.deployment_in_api();
    let mut demanded = deployment.into_iter().chain(demand.api.map(Api::id));
    demanded.any(|id| health.lacks(id, now))
}

impl Offer {
    fn of(backend: &Backend) -> Self {
        let deployments = &backend.deployments;
        let names = deployments.names().map(deployment_id);
        Self {
            deployments: (deployments.unlisted == Unlisted::Refuse).then(|| names.collect()),
            apis: backend.apis.clone(),
        }
    }

    fn is_open(&self) -> bool {
        self.deployments.is_none() && self.apis == Apis::All
    }

    fn meets(&self, demand: Demand) -> bool {
        let deployment = match (&self.deployments, demand.deployment) {
            (Some(offered), Some(deployment)) => offered.contains(&deployment),
            _ => true,
        };
        deployment && demand.api.is_none_or(|api| self.apis.include(api))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::config::{BackendCredential, Deployments, Plugin, Secret};
    use crate::core::health::Finding;
    use crate::core::outcome::Outcome;

    const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);
    const GPT: Demand = named(4);
    const ANY: Demand = Demand {
        deployment: None,
        api: None,
    };

    const fn named(deployment: u64) -> Demand {
        Demand {
            deployment: Some(deployment),
            api: None,
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

    fn fleet() -> Fleet {
        Fleet::new(&config("round_robin"))
    }

    impl Fleet {
        fn learn(&mut self, backend: usize, finding: Finding, now: Timestamp) {
            let mut health = self.health(backend).unwrap().clone();
            let cooldown = config("round_robin").cooldown;
            health.learn(finding, None, &cooldown, now);
            self.set_health(backend, health);
        }

        fn first(&self, turn: u64, demand: Demand) -> Result<Choice, NoChoice> {
            self.choose(&Plan::new(turn), demand, NOW)
        }
    }

    fn throttled(seconds: u64) -> Finding {
        Finding::Throttled(Some(Duration::from_secs(seconds)))
    }

    fn all_out(seconds: u64, throttled: bool) -> Result<Choice, NoChoice> {
        Err(NoChoice::AllOut(Wait {
            left: Duration::from_secs(seconds),
            throttled,
        }))
    }

    #[test]
    fn all_free() {
        let fleet = fleet();
        assert!(fleet.is_plain());
        for turn in 0..6 {
            assert_eq!(fleet.first(turn, GPT), Ok(Choice::Free(turn as usize % 3)));
        }
        assert!(!Fleet::new(&config("least_throttled")).is_plain());
    }

    #[test]
    fn one_that_is_out_is_passed_over_until_it_is_due() {
        let mut fleet = fleet();
        fleet.learn(1, throttled(7), NOW);
        assert!(!fleet.is_plain());
        assert_eq!(fleet.first(1, ANY), Ok(Choice::Free(2)));
        assert_eq!(fleet.first(4, ANY), Ok(Choice::Free(0)));
        let then = NOW + Duration::from_secs(7);
        let chosen = |turn| fleet.choose(&Plan::new(turn), ANY, then);
        assert_eq!(chosen(1), Ok(Choice::Probe(1)));
        assert_eq!(chosen(2), Ok(Choice::Free(2)));
        fleet.set_health(1, Health::default());
        assert!(fleet.is_plain());
    }

    #[test]
    fn every_backend_is_tried_once() {
        let fleet = fleet();
        let mut plan = Plan::new(5);
        for backend in [2, 1, 0] {
            assert_eq!(fleet.choose(&plan, ANY, NOW), Ok(Choice::Free(backend)));
            plan.tried.add(backend);
        }
        assert_eq!(fleet.choose(&plan, ANY, NOW), Err(NoChoice::AllTried));
    }

    #[test]
    fn what_was_not_tried_and_is_out_is_told_from_what_was() {
        let mut fleet = fleet();
        fleet.learn(0, throttled(9), NOW);
        let mut plan = Plan::new(0);
        plan.tried.add(1);
        plan.tried.add(2);
        assert_eq!(fleet.choose(&plan, ANY, NOW), all_out(9, true));
        plan.tried.add(0);
        assert_eq!(fleet.choose(&plan, ANY, NOW), Err(NoChoice::AllTried));
    }

    #[test]
    fn the_smallest_wait_counts_and_a_quota_is_told_from_a_failure() {
        let mut fleet = fleet();
        fleet.learn(0, Finding::Denied, NOW);
        fleet.learn(1, Finding::Denied, NOW);
        fleet.learn(2, Finding::Denied, NOW);
        assert_eq!(fleet.first(0, ANY), all_out(300, false));
        fleet.set_health(2, Health::default());
        fleet.learn(2, throttled(20), NOW);
        assert_eq!(fleet.first(0, ANY), all_out(20, true));
        fleet.set_health(0, Health::default());
        fleet.learn(0, throttled(30), NOW);
        assert_eq!(fleet.first(0, ANY), all_out(20, true));
    }

    #[test]
    fn who_lacks_the_deployment_is_passed_over_for_that_deployment() {
        let mut fleet = fleet();
        fleet.learn(0, Finding::Missing(4), NOW);
        assert_eq!(fleet.first(0, GPT), Ok(Choice::Free(1)));
        assert_eq!(fleet.first(0, named(5)), Ok(Choice::Free(0)));
        assert_eq!(fleet.first(0, ANY), Ok(Choice::Free(0)));
        // Those that have it are out: that is the answer, not the 404 of the one that does not.
        fleet.learn(1, throttled(20), NOW);
        fleet.learn(2, throttled(10), NOW);
        assert_eq!(fleet.first(0, GPT), all_out(10, true));
        assert_eq!(fleet.first(1, ANY), Ok(Choice::Free(0)));
    }

    #[test]
    fn who_lacks_the_deployment_in_one_api_serves_it_in_another() {
        let mut fleet = fleet();
        let chat = Demand {
            api: Some(Api::Chat),
            ..GPT
        };
        let responses = Demand {
            api: Some(Api::Responses),
            ..GPT
        };
        fleet.learn(0, Finding::of(Outcome::DeploymentNotFound, None, chat), NOW);
        assert_eq!(fleet.first(0, chat), Ok(Choice::Free(1)));
        assert_eq!(fleet.first(0, responses), Ok(Choice::Free(0)));
    }

    #[test]
    fn a_deployment_that_no_one_has_is_anyones_to_refuse() {
        let mut fleet = fleet();
        for backend in 0..3 {
            fleet.learn(backend, Finding::Missing(4), NOW);
        }
        assert_eq!(fleet.first(1, GPT), Ok(Choice::Free(1)));
        fleet.learn(1, throttled(5), NOW);
        assert_eq!(fleet.first(1, GPT), Ok(Choice::Free(2)));
    }

    #[test]
    fn who_is_not_configured_for_a_deployment_is_not_asked_for_it() {
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
        let mut fleet = Fleet::new(&config);
        let (x, y) = (named(deployment_id("x")), named(deployment_id("y")));
        assert_eq!(fleet.first(1, x), Ok(Choice::Free(2)));
        assert_eq!(fleet.first(4, x), Ok(Choice::Free(0)));
        assert_eq!(fleet.first(0, y), Ok(Choice::Free(1)));
        assert_eq!(
            fleet.first(1, ANY),
            Ok(Choice::Free(1)),
            "no deployment is anyone's"
        );
        assert_eq!(fleet.first(0, named(7)), Err(NoChoice::NoDeployment));
        // All that should have it say they do not: theirs is the answer.
        fleet.learn(1, Finding::Missing(deployment_id("y")), NOW);
        assert_eq!(fleet.first(0, y), Ok(Choice::Free(1)));
        // The only one that has it is out.
        fleet.learn(1, throttled(9), NOW);
        assert_eq!(fleet.first(0, y), all_out(9, true));
        let mut plan = Plan::new(0);
        plan.tried.add(1);
        assert_eq!(fleet.choose(&plan, y, NOW), Err(NoChoice::AllTried));
    }

    #[test]
    fn without_a_token_those_with_a_key_serve() {
        let mut config = config("round_robin");
        config.backends[1].credential = BackendCredential::Key(Secret::new("KEY".into()));
        let mut fleet = Fleet::new(&config);
        assert_eq!(fleet.first(0, GPT), Ok(Choice::Free(0)));
        let mut tokenless = BackendSet::default();
        tokenless.add(0);
        tokenless.add(2);
        fleet.set_tokenless(tokenless);
        for turn in 0..6 {
            assert_eq!(fleet.first(turn, GPT), Ok(Choice::Free(1)));
        }
        fleet.learn(1, throttled(9), NOW);
        assert_eq!(fleet.first(0, GPT), Err(NoChoice::NoToken));
        let mut plan = Plan::new(0);
        plan.tried.add(0);
        plan.tried.add(2);
        assert_eq!(fleet.choose(&plan, GPT, NOW), all_out(9, true));
        fleet.set_tokenless(BackendSet::default());
        assert_eq!(fleet.first(0, GPT), Ok(Choice::Free(0)));
    }

    #[test]
    fn when_all_that_may_have_it_were_tried_that_is_all() {
        let mut fleet = fleet();
        fleet.learn(0, Finding::Missing(4), NOW);
        let mut plan = Plan::new(0);
        plan.tried.add(1);
        plan.tried.add(2);
        assert_eq!(fleet.choose(&plan, GPT, NOW), Err(NoChoice::AllTried));
    }

    #[test]
    fn known_quotas_decide_for_a_minute() {
        let mut fleet = Fleet::new(&config("least_throttled"));
        let shares = |fleet: &Fleet, now| {
            let mut shares = [0; 3];
            for turn in 0..1000 {
                match fleet.choose(&Plan::new(turn), ANY, now) {
                    Ok(Choice::Free(backend)) => shares[backend] += 1,
                    other => panic!("{other:?}"),
                }
            }
            shares.map(|share: u32| share.div_ceil(10))
        };
        assert_eq!(shares(&fleet, NOW), [34, 34, 34]);
        fleet.set_capacity(0, 9000, NOW);
        fleet.set_capacity(1, 1000, NOW);
        fleet.set_capacity(2, 5000, NOW);
        let [a, b, c] = shares(&fleet, NOW + Duration::from_millis(59_999));
        assert!(
            a.abs_diff(60) <= 1 && b.abs_diff(7) <= 1 && c.abs_diff(33) <= 1,
            "{a} {b} {c}"
        );
        assert_eq!(shares(&fleet, NOW + Duration::from_secs(60)), [34, 34, 34]);
        for unknown in [0, -1, i64::MIN] {
            fleet.set_capacity(0, 9000, NOW);
            fleet.set_capacity(0, unknown, NOW);
            let [a, b, c] = shares(&fleet, NOW);
            assert!(
                a.abs_diff(33) <= 1 && b.abs_diff(11) <= 1 && c.abs_diff(56) <= 1,
                "{a} {b} {c}"
            );
        }
        fleet.set_capacity(0, i64::MAX, NOW);
        assert!(shares(&fleet, NOW)[0] >= 99);
    }

    #[test]
    fn backends_that_do_not_exist_do_no_harm() {
        let mut fleet = fleet();
        fleet.set_capacity(7, 1, NOW);
        fleet.set_health(7, Health::default());
        assert!(fleet.health(7).is_none());
        assert!(fleet.is_plain());
    }
}
