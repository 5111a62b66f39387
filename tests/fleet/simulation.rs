//! A simulation of requests, backends and workers under a virtual clock, beside an omniscient balancer.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::time::Duration;

use azure_openai_balancer::core::attempts::Because;
use azure_openai_balancer::core::config::{Config, Plugin};
use azure_openai_balancer::core::demand::Client;
use azure_openai_balancer::core::fleet::Fleet;
use azure_openai_balancer::core::health::{Change, Reason};
use azure_openai_balancer::core::json::scan::{Findings, Model};
use azure_openai_balancer::core::no_retry::NoRetry;
use azure_openai_balancer::core::outcome::{Diagnosis, Outcome};
use azure_openai_balancer::core::request::Request;
use azure_openai_balancer::core::retry_after::stated_wait;
use azure_openai_balancer::core::state::ids::Tags;
use serde_json::{json, Value};

use super::account::Account;
use super::driver::{Journey, Process, Step};
use super::map::Map;
use super::world::{Backend, Kind, Quota, Quotas, Spell, Stream, Weather, Word};
use crate::random::Random;

const START: u64 = 1_700_000_000_000;
const TICK: u64 = 1000;
/// The milliseconds that a 429 takes.
const REFUSES: Range<u64> = 5..100;
pub(crate) const DEPLOYMENTS: [&str; 3] = ["gpt-4o", "embed", "gpt-4o-mini"];

/// A scenario to simulate.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) backends: usize,
    pub(crate) workers: usize,
    /// The configuration, apart from the backends.
    pub(crate) config: Value,
    /// Weight and priority of each backend, where they differ.
    pub(crate) shares: Vec<(u64, u64)>,
    /// The windows and limits of each deployment's quotas, the same on each backend.
    pub(crate) quotas: [Vec<(u64, u64)>; 3],
    pub(crate) word: Word,
    pub(crate) streams: Vec<Stream>,
    pub(crate) spells: Vec<Spell>,
    pub(crate) length: u64,
    /// One client in this many disconnects before it is answered.
    pub(crate) leaving: Option<u64>,
    /// The times at which a worker is lost, with all its requests.
    pub(crate) crashes: Vec<u64>,
    /// The time at which the clock is set back, and by how much.
    pub(crate) set_back: Option<(u64, u64)>,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            backends: 3,
            workers: 2,
            config: json!({}),
            shares: Vec::new(),
            quotas: Default::default(),
            word: Word::Exact,
            streams: Vec::new(),
            spells: Vec::new(),
            length: 60_000,
            leaving: None,
            crashes: Vec::new(),
            set_back: None,
        }
    }
}

impl Scenario {
    fn config(&self) -> Config {
        let backends: Vec<_> = (0..self.backends)
            .map(|n| {
                let (weight, priority) = self.shares.get(n).copied().unwrap_or((1, 0));
                json!({
                    "name": format!("b{n}"), "cluster": format!("c{n}"), "host": "h",
                    "weight": weight, "priority": priority,
                })
            })
            .collect();
        let mut config = json!({"backends": backends, "identity": {"cluster": "imds"}});
        for (key, value) in self.config.as_object().unwrap() {
            config[key] = value.clone();
        }
        match Plugin::from_bytes(config.to_string().as_bytes(), &|_| None) {
            Ok(Plugin::Balancer(config)) => *config,
            other => panic!("{other:?}"),
        }
    }
}

/// The fate of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    pub(crate) at: u64,
    pub(crate) stream: usize,
    pub(crate) served: bool,
    /// The request was refused without an attempt.
    pub(crate) refused: bool,
    /// Whether the omniscient balancer served the request.
    pub(crate) could: bool,
    pub(crate) attempts: u8,
    /// The reason why a lost request was not retried.
    pub(crate) no_retry: Option<NoRetry>,
}

/// Counts of a whole run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) requests: u64,
    pub(crate) asked: u64,
    pub(crate) served: u64,
    pub(crate) could: u64,
    pub(crate) refused: u64,
    pub(crate) attempts: u64,
    /// The 429s of backends to requests that a quota can take.
    pub(crate) throttled: u64,
    /// The waits of quotas that began, binding or not.
    pub(crate) cooldowns: u64,
    pub(crate) trials: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.asked += other.asked;
        self.served += other.served;
        self.could += other.could;
        self.refused += other.refused;
        self.attempts += other.attempts;
        self.throttled += other.throttled;
        self.cooldowns += other.cooldowns;
        self.trials += other.trials;
    }

    /// The requests served, in percent of those that the omniscient balancer served.
    pub(crate) fn share(&self) -> f64 {
        self.served as f64 * 100.0 / self.could.max(1) as f64
    }

    pub(crate) fn throttled_per_cooldown(&self) -> f64 {
        self.throttled as f64 / self.cooldowns.max(1) as f64
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Request(usize),
    Tick(usize),
    End(usize, u64, Fate),
    Leave(usize, u64),
    Crash,
    SetBack(u64),
}

/// How an attempt ends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Fate {
    /// The status; 0 for no answer.
    status: u16,
    wait: Option<Said>,
    takes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Said {
    Millis(u64),
    Seconds(u64),
}

impl Fate {
    fn of(status: u16, takes: u64) -> Self {
        Self {
            status,
            wait: None,
            takes,
        }
    }

    fn throttled(wait: Option<Said>, takes: u64) -> Self {
        Self {
            status: 429,
            wait,
            takes,
        }
    }

    fn outcome(self, config: &Config) -> Outcome {
        if self.status == 0 {
            return Outcome::Unavailable;
        }
        let body = match self.status {
            403 => r#"{"error":{"code":"PermissionDenied"}}"#,
            404 => r#"{"error":{"code":"DeploymentNotFound"}}"#,
            _ => "",
        };
        Outcome::from_status(self.status, &config.retry)
            .unwrap_or_else(|| Diagnosis::of(self.status, body.as_bytes()).outcome)
    }

    fn stated(self, now: azure_openai_balancer::core::time::Timestamp) -> Option<Duration> {
        let (name, value) = match self.wait? {
            Said::Millis(wait) => ("retry-after-ms", wait.to_string()),
            Said::Seconds(wait) => ("retry-after", wait.to_string()),
        };
        stated_wait(|asked| (asked == name).then_some(value.as_str()), now)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Served,
    Lost(Option<NoRetry>),
    Refused,
}

/// A request in progress.
struct Open {
    id: u64,
    worker: usize,
    stream: usize,
    tokens: u64,
    at: u64,
    could: bool,
    /// The client will disconnect, so the request does not count.
    leaves: bool,
    journey: Journey,
}

/// The ways to name a deployment in requests.
struct Template {
    request: Request,
    model: Option<Findings>,
}

pub(crate) struct Simulation<'a> {
    pub(crate) seed: u64,
    scenario: &'a Scenario,
    process: &'a Process,
    random: Random,
    /// The milliseconds since the beginning. The workers' clock may have been set back since.
    now: u64,
    behind: u64,
    workers: Vec<Fleet<&'a Map>>,
    world: Vec<Backend>,
    ideal: Vec<Backend>,
    templates: Vec<Template>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    scheduled: u64,
    open: Vec<Option<Open>>,
    vacant: Vec<usize>,
    account: Account,
    pub(crate) counts: Counts,
    pub(crate) records: Vec<Record>,
    cooldowns: Vec<(u64, Duration)>,
}

/// The results of a scenario.
pub(crate) struct Report {
    pub(crate) counts: Counts,
    pub(crate) records: Vec<Record>,
    /// The beginnings and lengths of cooldowns after failures.
    pub(crate) cooldowns: Vec<(u64, Duration)>,
}

/// Runs a scenario.
pub(crate) fn run(seed: u64, scenario: &Scenario) -> Report {
    run_in(seed, seed, scenario)
}

/// Runs a scenario in the Envoy with this number. Every Envoy gets the same requests.
pub(crate) fn run_in(envoy: u64, seed: u64, scenario: &Scenario) -> Report {
    let process = Process::new(scenario.config(), envoy);
    let mut simulation = Simulation::new(seed, scenario, &process);
    simulation.run();
    Report {
        counts: simulation.counts,
        records: simulation.records,
        cooldowns: simulation.cooldowns,
    }
}

impl<'a> Simulation<'a> {
    fn new(seed: u64, scenario: &'a Scenario, process: &'a Process) -> Self {
        process.clock.set(START);
        let world: Vec<_> = (0..scenario.backends)
            .map(|index| {
                let quotas = scenario.quotas.iter().map(|limits| {
                    let limits = limits.iter();
                    Quotas(
                        limits
                            .map(|(span, limit)| Quota::new(*span, *limit))
                            .collect(),
                    )
                });
                Backend::new(quotas.collect(), index, &scenario.spells)
            })
            .collect();
        let mut simulation = Self {
            seed,
            scenario,
            process,
            random: Random(seed),
            now: 0,
            behind: 0,
            workers: (0..scenario.workers).map(|_| process.worker()).collect(),
            ideal: world.clone(),
            world,
            templates: scenario.streams.iter().map(Template::of).collect(),
            events: BinaryHeap::new(),
            scheduled: 0,
            open: Vec::new(),
            vacant: Vec::new(),
            account: Account::new(seed, scenario.backends),
            counts: Counts::default(),
            records: Vec::new(),
            cooldowns: Vec::new(),
        };
        for (index, stream) in scenario.streams.iter().enumerate() {
            simulation.at(stream.during.start, Event::Request(index));
        }
        for worker in 0..scenario.workers {
            let at = simulation.random.from(0..TICK);
            simulation.at(at, Event::Tick(worker));
        }
        for at in &scenario.crashes {
            simulation.at(*at, Event::Crash);
        }
        if let Some((at, by)) = scenario.set_back {
            simulation.at(at, Event::SetBack(by));
        }
        simulation
    }

    fn at(&mut self, at: u64, event: Event) {
        self.scheduled += 1;
        self.events.push(Reverse((at, self.scheduled, event)));
    }

    fn run(&mut self) {
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            self.now = at;
            self.set_clock();
            match event {
                Event::Request(stream) => self.request(stream),
                Event::Tick(worker) => self.tick(worker),
                Event::End(slot, id, fate) => self.end(slot, id, fate),
                Event::Leave(slot, id) => self.leave(slot, id),
                Event::Crash => self.crash(),
                Event::SetBack(by) => {
                    self.behind += by;
                    self.set_clock();
                    self.account.clock_was_set_back();
                }
            }
        }
    }

    fn set_clock(&self) {
        self.process.clock.set(START + self.now - self.behind);
    }

    fn tick(&mut self, worker: usize) {
        if self.now < self.scenario.length {
            self.at(self.now + TICK, Event::Tick(worker));
        }
        let now = self.process.clock.now();
        self.workers[worker].on_tick(now);
        let generation = |_| Some(self.process.generation());
        self.workers[worker].admit_tokens(&generation, now);
        for backend in 0..self.scenario.backends {
            let health = self.workers[worker].health(backend).unwrap();
            self.account
                .check_bounds(backend, &health, &self.process.config.cooldown, now);
        }
    }

    fn request(&mut self, index: usize) {
        let stream = &self.scenario.streams[index];
        let pause = match stream.regular {
            true => stream.every,
            false => {
                let even = (self.random.below(1 << 20) as f64 + 0.5) / f64::from(1 << 20);
                -even.ln() * stream.every
            }
        };
        let next = self.now + (pause.round() as u64).max(1);
        if next < stream.during.end.min(self.scenario.length) {
            self.at(next, Event::Request(index));
        }
        self.counts.requests += 1;
        let tokens = self.random.from(stream.tokens.clone());
        let worker = self.random.below(self.workers.len() as u64) as usize;
        let leaves = self
            .scenario
            .leaving
            .is_some_and(|one_in| self.random.one_in(one_in));
        let template = &self.templates[index];
        let mut request = template.request.clone();
        request.content_length = stream.announced.then_some(tokens);
        request.client = Client::from_number(match stream.clients.len() {
            0 | 1 => stream.clients.start,
            many => stream.clients.start + self.random.below(many as u64) as u32,
        });
        let fleet = &self.workers[worker];
        let journey = Journey::begin(self.process, fleet, request, &template.model);
        let id = self.counts.requests;
        let could = self.could_serve(index, tokens, id);
        let open = Open {
            id,
            worker,
            stream: index,
            tokens,
            at: self.now,
            could,
            leaves,
            journey,
        };
        let slot = self.vacant.pop().unwrap_or(self.open.len());
        if slot == self.open.len() {
            self.open.push(None);
        }
        self.open[slot] = Some(open);
        self.go(slot, |process, fleet, journey| {
            journey.first_attempt(process, fleet)
        });
        if leaves {
            let after = self.random.from(1..3000);
            self.at(self.now + after, Event::Leave(slot, id));
        }
    }

    /// Takes a request's next step.
    fn go(&mut self, slot: usize, step: impl FnOnce(&Process, &Fleet<&Map>, &mut Journey) -> Step) {
        let Some(mut open) = self.open[slot].take() else {
            return;
        };
        let step = step(self.process, &self.workers[open.worker], &mut open.journey);
        let now = self.process.clock.now();
        match step {
            Step::Sent(backend, because) => {
                let attempts = open.journey.attempts.made();
                self.account.check_sent(attempts, &self.process.config);
                if because == Some(Because::Trial) {
                    self.counts.trials += 1;
                    let deployment = self.scenario.streams[open.stream].deployment;
                    let health = self.workers[open.worker].health(backend).unwrap();
                    // A recovering backend is not refused by identity, so the trial is the quota's.
                    let trouble = health.trouble(now);
                    let of_identity = matches!(trouble, Some((Reason::Misconfigured, Some(_))));
                    self.account
                        .check_trial(backend, deployment, of_identity, now);
                }
                self.counts.attempts += 1;
                let fate = self.fate(backend, &open);
                if fate.status != 429 {
                    let deployment = self.scenario.streams[open.stream].deployment;
                    self.account.note_accepted(backend, deployment);
                }
                self.at(self.now + fate.takes, Event::End(slot, open.id, fate));
                self.open[slot] = Some(open);
            }
            Step::Delivered(no_retry) => self.close(slot, &open, Ending::Lost(no_retry)),
            Step::Refused(wait) => {
                self.account.check_wait(wait, &self.process.config.cooldown);
                self.account.check_refusal(
                    &open.journey,
                    self.scenario.streams[open.stream].deployment,
                    now,
                );
                self.close(slot, &open, Ending::Refused);
            }
        }
    }

    fn close(&mut self, slot: usize, open: &Open, ending: Ending) {
        let (served, refused) = (ending == Ending::Served, ending == Ending::Refused);
        self.vacant.push(slot);
        if open.leaves || self.scenario.streams[open.stream].kind != Kind::Good {
            return;
        }
        self.counts.asked += 1;
        self.counts.served += u64::from(served);
        self.counts.could += u64::from(open.could);
        self.counts.refused += u64::from(refused);
        self.records.push(Record {
            at: open.at,
            stream: open.stream,
            served,
            refused,
            could: open.could,
            attempts: open.journey.attempts.made(),
            no_retry: match ending {
                Ending::Lost(reason) => reason,
                _ => None,
            },
        });
    }

    fn end(&mut self, slot: usize, id: u64, fate: Fate) {
        let now = self.process.clock.now();
        let outcome = fate.outcome(&self.process.config);
        let stated = match outcome {
            Outcome::Throttled => fate.stated(now),
            _ => None,
        };
        let Some(open) = self.open[slot].as_mut().filter(|open| open.id == id) else {
            return;
        };
        let fleet = &self.workers[open.worker];
        let deployment = self.scenario.streams[open.stream].deployment;
        self.account.note(
            &open.journey,
            deployment,
            outcome,
            stated,
            &self.process.config.cooldown,
            now,
        );
        let change = open.journey.conclude(self.process, fleet, outcome, stated);
        let is_good = self.scenario.streams[open.stream].kind == Kind::Good;
        self.counts.throttled += u64::from(outcome == Outcome::Throttled && is_good);
        let begins = matches!(
            change,
            Some(Change::CoolsDown(Reason::Throttled, _) | Change::Advised(_))
        );
        self.counts.cooldowns += u64::from(begins);
        if let Some(Change::CoolsDown(Reason::Failing, wait)) = change {
            self.cooldowns.push((self.now, wait));
        }
        if outcome == Outcome::Success {
            if let Some(open) = self.open[slot].take() {
                self.close(slot, &open, Ending::Served);
            }
            return;
        }
        self.go(slot, |process, fleet, journey| {
            journey.after(process, fleet, outcome)
        });
    }

    fn leave(&mut self, slot: usize, id: u64) {
        let leaves = self.open[slot].as_ref().is_some_and(|open| open.id == id);
        if let Some(mut open) = self.open[slot].take_if(|_| leaves) {
            let fleet = &self.workers[open.worker];
            open.journey.abandon(self.process, fleet);
            self.vacant.push(slot);
        }
    }

    /// A worker is lost. It reports nothing of its attempts.
    fn crash(&mut self) {
        let worker = self.random.below(self.workers.len() as u64) as usize;
        self.workers[worker] = self.process.worker();
        for slot in 0..self.open.len() {
            let lost = self.open[slot].take_if(|open| open.worker == worker);
            if lost.is_some() {
                self.vacant.push(slot);
            }
        }
    }

    /// A number from 0 to 99 that is the same for the omniscient balancer.
    fn luck(&self, id: u64, backend: usize) -> u64 {
        let seed = self.seed ^ id.wrapping_mul(0x9e37_79b9) ^ (backend as u64) << 48;
        Random(seed).next() % 100
    }

    /// How an attempt that begins now will end.
    fn fate(&mut self, backend: usize, open: &Open) -> Fate {
        let stream = &self.scenario.streams[open.stream];
        let takes = self.random.from(stream.takes.clone());
        let refuses = self.random.from(REFUSES);
        let refusal = |wait| Fate::throttled(wait, refuses);
        match stream.kind {
            Kind::Poison(429) => return refusal(Some(Said::Seconds(30))),
            Kind::Poison(status) => return Fate::of(status, takes),
            Kind::Good => {}
        }
        let limit =
            self.process.config.backends[backend].attempt_timeout(&self.process.config.retry);
        let luck = self.luck(open.id, backend);
        match self.world[backend].weather(self.now) {
            Weather::Status(status, takes) => return Fate::of(status, takes),
            Weather::Throttled(wait) => return refusal(Some(Said::Seconds(wait))),
            Weather::Until(end) => return refusal(Some(Said::Millis(end - self.now))),
            Weather::ThrottledFor(deployment, wait) if deployment == stream.deployment => {
                return refusal(Some(Said::Seconds(wait)));
            }
            Weather::Moody(throttled, _) if luck < throttled => {
                return refusal(Some(Said::Seconds(1)));
            }
            Weather::Moody(throttled, failing) if luck < throttled + failing => {
                return Fate::of(500, 50);
            }
            Weather::Dead => return Fate::of(0, limit.as_millis() as u64),
            Weather::Locked => return Fate::of(401, 10),
            Weather::Closed => return Fate::of(403, 10),
            Weather::Lacks(deployment) if deployment == stream.deployment => {
                return Fate::of(404, 10);
            }
            _ => {}
        }
        let quotas = &mut self.world[backend].quotas[stream.deployment];
        match quotas.ask(self.now, open.tokens) {
            Ok(()) => Fate::of(200, takes),
            Err(wait) => refusal(self.say(wait)),
        }
    }

    fn say(&mut self, wait: u64) -> Option<Said> {
        const ANY: [Word; 6] = [
            Word::Exact,
            Word::Seconds,
            Word::Nothing,
            Word::Zero,
            Word::ADay,
            Word::TenTimes,
        ];
        let word = match self.scenario.word {
            Word::Any => ANY[self.random.below(ANY.len() as u64) as usize],
            word => word,
        };
        match word {
            Word::Exact => Some(Said::Millis(wait)),
            Word::Seconds => Some(Said::Seconds(wait.div_ceil(1000))),
            Word::Nothing | Word::Any => None,
            Word::Zero => Some(Said::Seconds(0)),
            Word::ADay => Some(Said::Seconds(86_400)),
            Word::TenTimes => Some(Said::Seconds(wait.div_ceil(100))),
        }
    }

    /// Whether the omniscient balancer serves the request. It chooses the backend with the most left.
    fn could_serve(&mut self, index: usize, tokens: u64, id: u64) -> bool {
        let stream = &self.scenario.streams[index];
        if stream.kind != Kind::Good {
            return false;
        }
        let now = self.now;
        let mut best: Vec<(u64, usize)> = Vec::new();
        for backend in 0..self.ideal.len() {
            let fits = match self.ideal[backend].weather(now) {
                Weather::Fair | Weather::Moody(..) => true,
                Weather::Lacks(deployment) | Weather::ThrottledFor(deployment, _) => {
                    deployment != stream.deployment
                }
                _ => false,
            };
            let quotas = &mut self.ideal[backend].quotas[stream.deployment];
            if fits && quotas.has_room(now, tokens) {
                best.push((quotas.share_left(now), backend));
            }
        }
        best.sort_by_key(|(left, backend)| (Reverse(*left), *backend));
        let attempts = usize::from(self.process.config.retry.max_attempts);
        for (_, backend) in best.into_iter().take(attempts) {
            let bad = match self.ideal[backend].weather(now) {
                Weather::Moody(throttled, failing) => throttled + failing,
                _ => 0,
            };
            if self.luck(id, backend) >= bad {
                let quotas = &mut self.ideal[backend].quotas[stream.deployment];
                return quotas.ask(now, tokens).is_ok();
            }
        }
        false
    }
}

impl Template {
    fn of(stream: &Stream) -> Self {
        let name = DEPLOYMENTS[stream.deployment];
        let operation = match stream.deployment {
            1 => "embeddings",
            _ => "chat/completions",
        };
        let path = match stream.v1 {
            true => format!("/openai/v1/{operation}"),
            false => format!("/openai/deployments/{name}/{operation}?api-version=2024-10-21"),
        };
        let headers = [(":method", "POST"), (":path", path.as_str())];
        let headers = headers.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let model = stream.v1.then(|| Findings {
            model: Some(Model {
                range: 0..0,
                name: Some(name.to_owned()),
            }),
            ..Findings::default()
        });
        Self {
            request: Request::of(headers.into_iter(), &Tags::default()),
            model,
        }
    }
}
