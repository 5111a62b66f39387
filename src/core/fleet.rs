//! All backends as one worker sees them, and the choice among them.

use std::time::Duration;

use super::config::{Config, Policy};
use super::health::{Health, Reason, Standing};
use super::plan::Plan;
use super::schedule::Schedule;
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
    /// Every backend is free for all and everything, so that no one needs to look closer.
    plain: bool,
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
        Self {
            schedule: Schedule::new(&config.backends),
            policy: config.policy,
            health: vec![Health::default(); backends],
            capacity: vec![None; backends],
            plain: true,
        }
    }

    /// Whether every backend is free for all and everything: then the time does not matter.
    pub fn is_plain(&self) -> bool {
        self.plain && self.policy == Policy::RoundRobin
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
    pub fn choose(
        &self,
        plan: &Plan,
        deployment: Option<u64>,
        now: Timestamp,
    ) -> Result<Choice, NoChoice> {
        // A deployment that no one has is no reason to choose no one: the answer is for a backend to give.
        let lacking = deployment.filter(|deployment| {
            let mut health = self.health.iter();
            !self.plain && !health.all(|health| health.lacks(*deployment, now))
        });
        let standing = |index: usize| self.standing(index, lacking, now).unwrap_or(NOT_THERE);
        let chosen = match self.policy {
            Policy::RoundRobin => self.schedule.pick(plan.turn, plan.tried, standing),
            Policy::LeastThrottled => {
                let capacity = |index| self.capacity(index, now);
                self.schedule
                    .pick_by_capacity(plan.turn, plan.tried, standing, capacity)
            }
        };
        match chosen {
            Some(index) if standing(index) == Standing::Due => Ok(Choice::Probe(index)),
            Some(index) => Ok(Choice::Free(index)),
            None => Err(self.wait(plan, lacking, now)),
        }
    }

    /// Whether a request with this `plan` would be chosen a backend; how long until one may be, otherwise.
    fn wait(&self, plan: &Plan, lacking: Option<u64>, now: Timestamp) -> NoChoice {
        let mut wait: Option<Wait> = None;
        for index in 0..self.health.len() {
            if plan.tried.contains(index) {
                continue;
            }
            if let Some(Standing::Out(reason, until)) = self.standing(index, lacking, now) {
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

    /// The standing of a backend for a request to the deployment `lacking`; `None` if it has nothing to offer to it.
    fn standing(&self, index: usize, lacking: Option<u64>, now: Timestamp) -> Option<Standing> {
        let health = self.health.get(index)?;
        let lacks = lacking.is_some_and(|deployment| health.lacks(deployment, now));
        (!lacks).then(|| health.standing(now))
    }

    fn capacity(&self, index: usize, now: Timestamp) -> Option<u32> {
        let capacity = (*self.capacity.get(index)?)?;
        (now <= capacity.at + CAPACITY_LASTS).then_some(capacity.remaining_tokens)
    }
}

/// Stands for a backend that has nothing to offer.
const NOT_THERE: Standing = Standing::Out(Reason::Misconfigured, Timestamp::from_millis(u64::MAX));
