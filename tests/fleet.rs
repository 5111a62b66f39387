//! A fleet in bad weather: the choice of backends alone in a small world of its own, under a virtual clock, over a million
//! requests.
//!
//! Backends throttle, fail, hang and recover at random; several workers, each with its own view of the shared health, send
//! requests that overlap; some clients leave, and some attempts are lost with their worker. A second account of who may be used
//! is kept here, and every choice is compared with it. Everything follows from a seed, which is printed; `AOAI_SEED` runs one
//! alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

mod random;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use azure_openai_balancer::core::config::{Config, Plugin};
use azure_openai_balancer::core::exchange::Chosen;
use azure_openai_balancer::core::fleet::{Choice, Demand, Fleet, NoChoice};
use azure_openai_balancer::core::health::{Change, Claim, Finding, Health, Reason, Standing};
use azure_openai_balancer::core::plan::Plan;
use azure_openai_balancer::core::shared::Turns;
use azure_openai_balancer::core::time::Timestamp;
use serde_json::json;

use self::random::{seeds, Random};

const START: Timestamp = Timestamp::from_secs(1_700_000_000);
const SEEDS: u64 = 10;
const REQUESTS: u64 = 105_000;
const TICK: u64 = 1000;
const LONGEST: u64 = 20_000;
const TIME_LIMIT: u64 = 3000;
/// A claim lives two seconds longer than the attempt may take, and one second for a throttled backend.
const CLAIM: u64 = TIME_LIMIT + 2000;
const CONSENT: u64 = 1000;

/// What a backend does with requests for a while.
#[derive(Clone, Copy, Debug)]
enum Weather {
    Fair,
    /// 429 at once, with this wait in milliseconds if it says one.
    Throttled(Option<u64>),
    /// 500 after a while.
    Failing,
    /// Half of them.
    Flaky,
    /// No answer within the time limit.
    Dead,
    /// The deployment with this number is not there.
    Lacking(u64),
}

struct Backend {
    weather: Weather,
    until: u64,
    /// No new attempt before this: the account kept here.
    out_until: u64,
    /// The attempt that is the probe, and when its claim ends.
    probe: Option<(u64, u64)>,
    in_flight: u64,
    /// Attempts that were under way when the cooldown began or that began within it all the same, less those that are back.
    may_be_refused: u64,
    got: f64,
    ideal: f64,
}

struct Worker {
    fleet: Fleet,
    edition: Option<u32>,
    succeeded: Vec<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Attempt {
    id: u64,
    worker: usize,
    backend: usize,
    claim: Option<Claim>,
    plan: PlanKey,
    attempts: u8,
    deployment: u64,
    end: End,
}

/// A plan that can be ordered, which the queue of events asks for.
type PlanKey = (u64, [bool; 8]);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Success,
    Throttled(Option<u64>),
    Failure,
    Missing,
    ClientLeaves,
    /// The worker is gone, and says nothing.
    Lost,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Request,
    Tick(usize),
    End(Attempt),
}

struct World {
    seed: u64,
    random: Random,
    config: Config,
    now: u64,
    turns: Turns,
    health: Vec<Vec<u8>>,
    workers: Vec<Worker>,
    backends: Vec<Backend>,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    requests: u64,
    attempts: u64,
    probes: u64,
    /// Retries that a worker sent where another one had just found that it should not.
    unaware: u64,
    weather_is_fair: bool,
}

fn config(random: &mut Random) -> Config {
    let backends: Vec<_> = (0..random.from(2..9))
        .map(|n| {
            json!({
                "name": format!("b{n}"), "cluster": format!("c{n}"), "host": "h",
                "weight": random.from(1..6), "priority": random.from(0..3),
            })
        })
        .collect();
    let config = json!({
        "backends": backends,
        "identity": {"cluster": "imds"},
        "retry": {"per_try_timeout": format!("{TIME_LIMIT}ms")},
        "cooldown": {"longest": format!("{LONGEST}ms"), "failing": "1s", "misconfigured": "15s"},
    });
    match Plugin::from_bytes(config.to_string().as_bytes(), &|_| None) {
        Ok(Plugin::Balancer(config)) => *config,
        other => panic!("{other:?}"),
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let config = config(&mut random);
        let count = config.backends.len();
        let workers = [1, 2, 4][random.from(0..3) as usize];
        let mut world = Self {
            seed,
            now: 0,
            turns: Turns::default(),
            health: vec![Health::default().encode(); count],
            workers: (0..workers)
                .map(|_| Worker {
                    fleet: Fleet::new(&config),
                    edition: None,
                    succeeded: vec![0; count],
                })
                .collect(),
            backends: (0..count)
                .map(|_| Backend {
                    weather: Weather::Fair,
                    until: 0,
                    out_until: 0,
                    probe: None,
                    in_flight: 0,
                    may_be_refused: 0,
                    got: 0.0,
                    ideal: 0.0,
                })
                .collect(),
            events: BinaryHeap::new(),
            requests: 0,
            attempts: 0,
            probes: 0,
            unaware: 0,
            weather_is_fair: false,
            config,
            random,
        };
        world.events.push(Reverse((0, Event::Request)));
        for worker in 0..workers {
            let at = world.random.from(0..TICK);
            world.events.push(Reverse((at, Event::Tick(worker))));
        }
        world
    }

    fn check(&self, holds: bool, what: &str) {
        assert!(
            holds,
            "AOAI_SEED={}: after {} ms: {what}",
            self.seed, self.now
        );
    }

    fn time(&self) -> Timestamp {
        START + Duration::from_millis(self.now)
    }

    fn run(&mut self, requests: u64) {
        let end = self.requests + requests;
        while self.requests < end {
            let Reverse((at, event)) = self.events.pop().expect("requests follow one another");
            self.now = at;
            match event {
                Event::Request => self.request(),
                Event::Tick(worker) => self.tick(worker),
                Event::End(attempt) => self.end(attempt),
            }
        }
    }

    fn after(&mut self, millis: u64, event: Event) {
        self.events.push(Reverse((self.now + millis, event)));
    }

    // What a worker does, as the adapter does it.

    fn sync(&mut self, worker: usize) {
        if self.workers[worker].edition != Some(self.turns.edition) {
            for (backend, bytes) in self.health.iter().enumerate() {
                let health = Health::decode(Some(bytes));
                self.workers[worker].fleet.set_health(backend, health);
            }
            self.workers[worker].edition = Some(self.turns.edition);
        }
    }

    fn change<T>(
        &mut self,
        worker: usize,
        backend: usize,
        change: impl FnOnce(&mut Health) -> T,
    ) -> T {
        let before = Health::decode(Some(&self.health[backend]));
        let mut after = before.clone();
        let result = change(&mut after);
        self.health[backend] = after.encode();
        if !after.looks_like(&before) {
            let known = self.workers[worker].edition == Some(self.turns.edition);
            self.turns = self.turns.after_change();
            if known {
                self.workers[worker].edition = Some(self.turns.edition);
            }
        }
        self.workers[worker].fleet.set_health(backend, after);
        result
    }

    fn choose(&mut self, worker: usize, plan: &Plan, deployment: u64) -> Result<Chosen, NoChoice> {
        let now = self.time();
        let demand = Demand {
            deployment: Some(deployment),
            api: None,
        };
        loop {
            let choice = self.workers[worker].fleet.choose(plan, demand, now)?;
            let (backend, probe) = match choice {
                Choice::Free(backend) => (backend, None),
                Choice::Probe(backend) => {
                    let limit = Duration::from_millis(TIME_LIMIT);
                    let claim =
                        self.change(worker, backend, |health| health.claim_probe(now, limit));
                    if claim.is_none() {
                        continue;
                    }
                    (backend, claim)
                }
            };
            return Ok(Chosen { backend, probe });
        }
    }

    fn learn(&mut self, attempt: Attempt, finding: Finding) {
        let Attempt {
            worker,
            backend,
            claim,
            ..
        } = attempt;
        let health = self.workers[worker].fleet.health(backend).unwrap();
        if !health.is_news(finding, claim) {
            self.workers[worker].succeeded[backend] += u32::from(finding == Finding::Answered);
            return;
        }
        let finding = match finding {
            Finding::Failed(_) => {
                Finding::Failed(std::mem::take(&mut self.workers[worker].succeeded[backend]))
            }
            finding => finding,
        };
        let (now, rules) = (self.time(), self.config.cooldown.clone());
        let change = self.change(worker, backend, |health| {
            health.learn(finding, claim, &rules, now)
        });
        self.note(backend, finding, change);
    }

    fn tick(&mut self, worker: usize) {
        self.after(TICK, Event::Tick(worker));
        let now = self.time();
        self.workers[worker].edition = None;
        self.sync(worker);
        for backend in 0..self.backends.len() {
            let succeeded = std::mem::take(&mut self.workers[worker].succeeded[backend]);
            let health = self.workers[worker].fleet.health(backend).unwrap().clone();
            let mut tidied = health.clone();
            tidied.tidy(now);
            let tells = succeeded > 0 && health.counts_successes(now);
            if tells || tidied != health {
                self.change(worker, backend, |health| {
                    if tells {
                        health.succeed(succeeded);
                    }
                    health.tidy(now);
                });
            }
        }
    }

    // What the world does.

    fn request(&mut self) {
        self.requests += 1;
        let pause = self.random.from(1..12);
        self.after(pause, Event::Request);
        self.change_weather();
        let worker = self.random.from(0..self.workers.len() as u64) as usize;
        let deployment = self.random.from(0..3);
        let plan = Plan::new(self.turns.next);
        self.turns = self.turns.after_draw();
        self.sync(worker);
        let before = self.usable(deployment);
        match self.choose(worker, &plan, deployment) {
            Ok(chosen) => {
                self.check_first(chosen, &before);
                self.send(worker, chosen, plan, 1, deployment);
            }
            Err(none) => {
                let usable = before.iter().any(|standing| standing.is_usable());
                self.check(!usable, &format!("refused, though one was there: {none:?}"));
                let NoChoice::AllOut(wait) = none else {
                    panic!("{none:?}");
                };
                let honest = wait.left <= Duration::from_millis(LONGEST.max(15_000) + CLAIM);
                self.check(honest, &format!("a wait of {wait:?}"));
                self.check(!wait.left.is_zero(), "a wait of nothing");
            }
        }
    }

    /// Who may be sent a request for this deployment, by the shared records; of those that lack it, no one, unless all do.
    fn usable(&self, deployment: u64) -> Vec<Standing> {
        let now = self.time();
        let health = self.health.iter().map(|bytes| Health::decode(Some(bytes)));
        let health: Vec<_> = health.collect();
        let all_lack = health.iter().all(|health| health.lacks(deployment, now));
        let health = health.iter().map(|health| {
            let lacks = !all_lack && health.lacks(deployment, now);
            match lacks {
                true => Standing::Out(Reason::Misconfigured, now),
                false => health.standing(now),
            }
        });
        health.collect()
    }

    fn check_first(&mut self, chosen: Chosen, before: &[Standing]) {
        let Chosen {
            backend,
            probe: claim,
        } = chosen;
        let expected = match claim {
            None => Standing::Free,
            Some(_) => Standing::Due,
        };
        self.check(
            before[backend] == expected,
            "what was chosen is not what it was taken for",
        );
        self.check(
            self.now >= self.backends[backend].out_until,
            "sent to a backend that cools down",
        );
        let priority = |index: usize| self.config.backends[index].priority;
        let usable = (0..before.len()).filter(|index| before[*index].is_usable());
        let best = usable.map(priority).min().unwrap();
        self.check(priority(backend) == best, "a higher priority had someone");

        self.backends[backend].got += 1.0;
        if claim.is_some() {
            // Whose turn it is to probe is not a matter of shares.
            self.backends[backend].ideal += 1.0;
            return;
        }
        let free: Vec<usize> = (0..before.len())
            .filter(|index| before[*index] == Standing::Free && priority(*index) == best)
            .collect();
        let weight = |index: &usize| f64::from(self.config.backends[*index].weight);
        let total: f64 = free.iter().map(weight).sum();
        for index in &free {
            self.backends[*index].ideal += weight(index) / total;
        }
    }

    fn send(
        &mut self,
        worker: usize,
        chosen: Chosen,
        mut plan: Plan,
        attempts: u8,
        deployment: u64,
    ) {
        let Chosen {
            backend,
            probe: claim,
        } = chosen;
        self.check(!plan.tried.contains(backend), "tried twice");
        plan.tried.add(backend);
        self.attempts += 1;
        let id = self.attempts;
        if claim.is_some() {
            self.probes += 1;
            let reason = Health::decode(Some(&self.health[backend])).trouble();
            let lasts = match reason {
                Some(Reason::Throttled) => CONSENT,
                _ => CLAIM,
            };
            let running = self.backends[backend].probe;
            let running = running.is_some_and(|(_, until)| self.now < until);
            self.check(!running, "two probes at once");
            self.backends[backend].probe = Some((id, self.now + lasts));
        }
        if self.now < self.backends[backend].out_until {
            self.unaware += 1;
            self.backends[backend].may_be_refused += 1;
        }
        self.backends[backend].in_flight += 1;
        let (mut end, mut takes) = self.fate(backend, deployment);
        if self.random.one_in(200) {
            (end, takes) = (End::ClientLeaves, self.random.from(0..takes + 1));
        } else if self.random.one_in(2000) {
            end = End::Lost;
        }
        let tried = [0, 1, 2, 3, 4, 5, 6, 7].map(|index| plan.tried.contains(index));
        let attempt = Attempt {
            id,
            worker,
            backend,
            claim,
            plan: (plan.turn, tried),
            attempts,
            deployment,
            end,
        };
        self.after(takes, Event::End(attempt));
    }

    fn fate(&mut self, backend: usize, deployment: u64) -> (End, u64) {
        let slow = self.random.from(20..400);
        match self.backends[backend].weather {
            Weather::Throttled(wait) => (End::Throttled(wait), self.random.from(2..30)),
            Weather::Failing => (End::Failure, slow),
            Weather::Flaky if self.random.one_in(2) => (End::Failure, slow),
            Weather::Dead => (End::Failure, TIME_LIMIT),
            Weather::Lacking(missing) if missing == deployment => (End::Missing, 10),
            _ => (End::Success, slow),
        }
    }

    fn end(&mut self, attempt: Attempt) {
        let backend = attempt.backend;
        self.backends[backend].in_flight -= 1;
        if self.backends[backend]
            .probe
            .is_some_and(|(id, _)| id == attempt.id)
            && attempt.end != End::Lost
        {
            self.backends[backend].probe = None;
        }
        let finding = match attempt.end {
            End::Success => Finding::Answered,
            End::Throttled(wait) => Finding::Throttled(wait.map(Duration::from_millis)),
            End::Failure => Finding::Failed(0),
            End::Missing => Finding::Missing(attempt.deployment),
            End::ClientLeaves if attempt.claim.is_some() => Finding::Nothing,
            End::ClientLeaves | End::Lost => return,
        };
        if let End::Throttled(_) = attempt.end {
            if self.now < self.backends[backend].out_until {
                let expected = self.backends[backend].may_be_refused > 0;
                self.check(expected, "refused more often than was under way");
                self.backends[backend].may_be_refused -= 1;
            }
        }
        self.learn(attempt, finding);
        if matches!(attempt.end, End::Success | End::ClientLeaves) || attempt.attempts == 3 {
            return;
        }
        let mut plan = Plan::new(attempt.plan.0);
        let tried = (0..8).filter(|index| attempt.plan.1[*index]);
        tried.for_each(|index| plan.tried.add(index));
        if let Ok(chosen) = self.choose(attempt.worker, &plan, attempt.deployment) {
            self.send(
                attempt.worker,
                chosen,
                plan,
                attempt.attempts + 1,
                attempt.deployment,
            );
        }
    }

    /// Keeps account of a change.
    fn note(&mut self, backend: usize, finding: Finding, change: Option<Change>) {
        let Some(Change::CoolsDown(reason, wait)) = change else {
            return;
        };
        if let Finding::Throttled(stated) = finding {
            let stated = stated.map_or(10_000, |wait| wait.as_millis() as u64);
            let expected = Duration::from_millis(stated.clamp(1000, LONGEST));
            self.check(
                wait == expected,
                &format!("{wait:?} instead of {expected:?}"),
            );
        }
        self.check(
            (reason == Reason::Throttled) == matches!(finding, Finding::Throttled(_)),
            "the reason is another one",
        );
        self.check(
            self.now >= self.backends[backend].out_until,
            "a cooldown within a cooldown",
        );
        let backend = &mut self.backends[backend];
        backend.out_until = self.now + wait.as_millis() as u64;
        backend.may_be_refused = backend.in_flight;
    }

    fn change_weather(&mut self) {
        for index in 0..self.backends.len() {
            if self.now < self.backends[index].until {
                continue;
            }
            let weather = match self.random.from(0..12) {
                _ if self.weather_is_fair => Weather::Fair,
                0 => Weather::Throttled(None),
                1 | 2 => Weather::Throttled(Some(self.random.from(0..30_000))),
                3 => Weather::Failing,
                4 => Weather::Flaky,
                5 => Weather::Dead,
                6 => Weather::Lacking(self.random.from(0..3)),
                _ => Weather::Fair,
            };
            self.backends[index].weather = weather;
            self.backends[index].until = self.now + self.random.from(200..8_000);
        }
    }

    fn check_shares(&self) {
        let total: f64 = self.backends.iter().map(|backend| backend.got).sum();
        for (index, backend) in self.backends.iter().enumerate() {
            let off = (backend.got - backend.ideal).abs() / total;
            let what = format!(
                "backend {index} got {} of {total}, ideal {:.1}",
                backend.got, backend.ideal
            );
            self.check(off <= 0.01, &what);
        }
    }

    /// When all is well again, so is every backend that is asked at all.
    fn check_nothing_is_stuck(&mut self) {
        self.weather_is_fair = true;
        for backend in &mut self.backends {
            backend.until = 0;
        }
        // Twice the longest cooldown and claim, at some 6 ms a request.
        self.run(2 * (LONGEST + CLAIM) * 5 / 4 / 6 + 1000);
        let best = self
            .config
            .backends
            .iter()
            .map(|backend| backend.priority)
            .min();
        let before: Vec<f64> = self.backends.iter().map(|backend| backend.got).collect();
        self.run(1000);
        for (index, before) in before.into_iter().enumerate() {
            let health = Health::decode(Some(&self.health[index]));
            self.check(
                health.standing(self.time()).is_usable(),
                &format!("{index} is stuck: {health:?}"),
            );
            if Some(self.config.backends[index].priority) == best {
                self.check(
                    health.is_plain(),
                    &format!("{index} is not well: {health:?}"),
                );
                self.check(
                    self.backends[index].got > before,
                    &format!("{index} serves no one"),
                );
            }
        }
    }
}

#[test]
fn a_million_requests_in_bad_weather() {
    let mut requests = 0;
    for seed in seeds(0..SEEDS) {
        let mut world = World::new(seed);
        world.run(REQUESTS);
        world.check_shares();
        let unaware = world.unaware as f64 / world.attempts as f64;
        world.check(
            unaware < 0.001,
            &format!("{} unaware attempts", world.unaware),
        );
        world.check(world.probes > 50, "bad weather needs probes");
        world.check_nothing_is_stuck();
        requests += world.requests;
        println!(
            "seed {seed}: {} backends, {} workers, {} requests, {} attempts, {} probes, {} unaware",
            world.backends.len(),
            world.workers.len(),
            world.requests,
            world.attempts,
            world.probes,
            world.unaware,
        );
    }
    println!("{requests} requests in all");
}
