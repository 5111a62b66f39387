//! A simulation of several workers that share one access token: the core alone, under a virtual clock.
//!
//! The world has a shared map with compare-and-swap, in which other workers are quicker at random. Its token service
//! answers late, wrongly, or not at all. The workers run the code that ships. Everything follows from a seed, which a
//! failed assertion prints. `AOAI_SEED` runs one seed alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

mod random;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use azure_openai_balancer::core::identity::{source, Answer, Before, Failure, Fetched, TokenStore};
use azure_openai_balancer::core::swap::SharedMap;
use azure_openai_balancer::core::time::Timestamp;

use self::random::{seeds, Random};

const START: Timestamp = Timestamp::from_secs(1_700_000_000);
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// The lifetime of a fetch's lease: the time limit of the fetch and a margin.
const LEASE: Duration = Duration::from_secs(7);
/// The longest wait of all settings in this test.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
const CALM: Duration = Duration::from_secs(1);
const BUSY: Duration = Duration::from_millis(20);

/// Envoy's shared data. Between a read of a value and its change, another worker may be quicker.
#[derive(Default)]
struct Map {
    values: RefCell<BTreeMap<String, (Vec<u8>, u32)>>,
    next: Cell<u32>,
    quicker: RefCell<Option<Box<dyn FnOnce()>>>,
    swaps_lost: Cell<usize>,
}

#[derive(Clone, Default)]
struct Shared(Rc<Map>);

impl SharedMap for Shared {
    type Error = Infallible;

    fn get(&self, key: &str) -> Result<(Option<Vec<u8>>, u32), Infallible> {
        let found = self.0.values.borrow().get(key).cloned();
        let quicker = self.0.quicker.borrow_mut().take();
        if let Some(quicker) = quicker {
            quicker();
        }
        Ok(found.map_or((None, 0), |(value, cas)| (Some(value), cas)))
    }

    fn set(&self, key: &str, value: &[u8], cas: u32) -> Result<bool, Infallible> {
        let mut values = self.0.values.borrow_mut();
        let current = values.get(key).map_or(0, |(_, cas)| *cas);
        if cas != 0 && cas != current {
            self.0.swaps_lost.set(self.0.swaps_lost.get() + 1);
            return Ok(false);
        }
        self.0.next.set(self.0.next.get() + 1);
        values.insert(key.to_owned(), (value.to_vec(), self.0.next.get()));
        Ok(true)
    }
}

/// A change that a worker makes to the record.
#[derive(Clone)]
enum Change {
    Look,
    Finish(Result<Fetched, Failure>),
    Refuse(u32),
}

/// A worker: its view of the token, and a timer.
struct Worker {
    store: Rc<TokenStore<Shared>>,
    waiting: Vec<Change>,
    next: Timestamp,
    fetching: Option<u64>,
    down_until: Timestamp,
    without_since: Option<Timestamp>,
}

impl Worker {
    fn new(map: &Shared, next: Timestamp) -> Self {
        let Ok(store) = TokenStore::new(map.clone(), "token".to_owned()) else {
            panic!("the map refuses nothing");
        };
        Self {
            store: Rc::new(store),
            waiting: Vec::new(),
            next,
            fetching: None,
            down_until: Timestamp::default(),
            without_since: None,
        }
    }
}

/// Makes this change. Returns whether the worker must fetch a token.
fn make(change: Change, store: &TokenStore<Shared>, now: Timestamp) -> bool {
    let made = match change {
        Change::Look => store.claim_fetch(now, FETCH_TIMEOUT),
        Change::Finish(answer) => store.finish(&answer, now).map(|_| false),
        Change::Refuse(generation) => {
            let renewal = store.renew(generation, Before::Refused, now);
            renewal.map(|_| false)
        }
    };
    made.unwrap_or_else(|error| panic!("{error}"))
}

/// A request to the token service.
struct Fetch {
    worker: usize,
    asked_at: Timestamp,
    answered_at: Timestamp,
    answer: Result<Fetched, Failure>,
}

/// The faults of the simulated world.
#[derive(Clone, Copy)]
struct World {
    workers: usize,
    /// One in this many fetches fails outside of outages; 0 for none.
    failures: u64,
    /// One in this many fetches ends its worker for a while; 0 for none.
    crashes: u64,
    /// In one of this many ticks a backend refuses the token; 0 for none.
    refusals: u64,
    /// Outages of the token service, in seconds from the start.
    outages: &'static [(u64, u64)],
}

struct Simulation {
    seed: u64,
    world: World,
    random: Random,
    now: Timestamp,
    map: Shared,
    workers: Vec<Worker>,
    fetches: BTreeMap<u64, Fetch>,
    /// The time of each fetch.
    history: Vec<Timestamp>,
    /// The issued tokens, with their expiry.
    issued: BTreeMap<String, Timestamp>,
    /// The times at which some worker had no token, one for each tick.
    without_token: Vec<Timestamp>,
    /// The longest time that a living worker had no token.
    longest_without: Duration,
}

impl Simulation {
    fn new(seed: u64, world: World) -> Self {
        let mut simulation = Self {
            seed,
            world,
            random: Random(seed),
            now: START,
            map: Shared::default(),
            workers: Vec::new(),
            fetches: BTreeMap::new(),
            history: Vec::new(),
            issued: BTreeMap::new(),
            without_token: Vec::new(),
            longest_without: Duration::ZERO,
        };
        for _ in 0..world.workers {
            let next = START + simulation.random.millis(3);
            let worker = Worker::new(&simulation.map, next);
            simulation.workers.push(worker);
        }
        simulation
    }

    fn check(&self, holds: bool, what: &str) {
        let at = self.now.since(START);
        assert!(holds, "AOAI_SEED={}: after {at:?}: {what}", self.seed);
    }

    /// Runs all events before `end`.
    fn run_until(&mut self, end: Timestamp) {
        loop {
            let worker = (0..self.workers.len()).min_by_key(|i| self.workers[*i].next);
            let worker = worker.expect("there are workers");
            let fetch = self
                .fetches
                .iter()
                .min_by_key(|(_, fetch)| fetch.answered_at);
            let fetch = fetch.map(|(id, fetch)| (*id, fetch.answered_at));
            let worker_at = self.workers[worker].next;
            match fetch {
                Some((id, at)) if at <= worker_at && at <= end => {
                    self.now = self.now.max(at);
                    self.answer(id);
                }
                _ if worker_at <= end => {
                    self.now = self.now.max(worker_at);
                    self.step(worker);
                }
                _ => break,
            }
        }
        self.now = end;
    }

    /// The token service answers. A worker that has restarted since no longer knows the call.
    fn answer(&mut self, id: u64) {
        let fetch = self.fetches.remove(&id).expect("it is out");
        let worker = &mut self.workers[fetch.worker];
        if worker.fetching == Some(id) {
            worker.fetching = None;
            worker.waiting.push(Change::Finish(fetch.answer));
            worker.next = self.now;
        }
    }

    /// One step of a worker: a tick, or a pending change. Another worker's step may come in between.
    fn step(&mut self, index: usize) {
        if self.workers[index].down_until > self.now {
            self.workers[index].next = self.workers[index].down_until;
            return;
        }
        let Some(change) = self.next_change(index) else {
            self.rest(index);
            return;
        };
        let other = self.random.below(self.workers.len() as u64) as usize;
        let is_quicker = other != index && self.random.one_in(2);
        let quicker = (is_quicker && self.workers[other].down_until <= self.now)
            .then(|| self.next_change(other))
            .flatten();
        let claimed_by_other = Rc::new(Cell::new(false));
        if let Some(change) = quicker.clone() {
            let store = Rc::clone(&self.workers[other].store);
            let (claimed, now) = (Rc::clone(&claimed_by_other), self.now);
            let act = move || claimed.set(make(change, &store, now));
            *self.map.0.quicker.borrow_mut() = Some(Box::new(act));
        }
        let claimed = make(change, &self.workers[index].store, self.now);
        self.finish_step(index, claimed);
        if quicker.is_some() {
            self.finish_step(other, claimed_by_other.get());
        }
    }

    /// The worker's next change of the record, if any.
    fn next_change(&mut self, index: usize) -> Option<Change> {
        if let Some(change) = self.workers[index].waiting.pop() {
            return Some(change);
        }
        self.use_token(index);
        let is_fresh = self.workers[index].store.is_fresh(self.now);
        (!is_fresh).then_some(Change::Look)
    }

    fn finish_step(&mut self, index: usize, claimed: bool) {
        self.rest(index);
        if claimed {
            self.ask(index);
            if self.world.crashes > 0 && self.random.one_in(self.world.crashes) {
                self.crash(index);
            }
        }
    }

    /// The token that the worker's requests would get now.
    fn use_token(&mut self, index: usize) {
        let token = self.workers[index].store.current(self.now);
        let Some(token) = token else {
            let since = *self.workers[index].without_since.get_or_insert(self.now);
            self.longest_without = self.longest_without.max(self.now.since(since));
            self.without_token.push(self.now);
            return;
        };
        self.workers[index].without_since = None;
        let secret = token.credential().value.strip_prefix("Bearer ");
        let expires = self.issued.get(secret.expect("a bearer token")).copied();
        self.check(
            expires.is_some_and(|at| self.now < at),
            "a token is used that the service calls expired",
        );
        if self.world.refusals > 0 && self.random.one_in(self.world.refusals) {
            let refusal = Change::Refuse(token.generation);
            self.workers[index].waiting.push(refusal);
        }
    }

    /// The worker ends and loses its state until it is started again.
    fn crash(&mut self, index: usize) {
        let back = self.now + self.random.millis(20_000);
        self.workers[index] = Worker {
            down_until: back,
            ..Worker::new(&self.map, back)
        };
    }

    fn rest(&mut self, index: usize) {
        let worker = &mut self.workers[index];
        let token_may_come =
            worker.store.current(self.now).is_none() && worker.store.expected_wait(self.now) < CALM;
        let rest = match (worker.waiting.is_empty(), token_may_come) {
            (false, _) => Duration::ZERO,
            (true, true) => BUSY,
            (true, false) => CALM,
        };
        worker.next = self.now + rest;
    }

    /// A worker sends a request to the token service.
    fn ask(&mut self, index: usize) {
        for fetch in self.fetches.values() {
            self.check(
                fetch.asked_at + LEASE <= self.now,
                "two fetches are out although no lease has ended",
            );
        }
        let id = self.history.len() as u64;
        self.history.push(self.now);
        let down = self.world.outages.iter().any(|(from, until)| {
            let at = self.now.since(START).as_secs();
            (*from..*until).contains(&at)
        });
        let fails = down || (self.world.failures > 0 && self.random.one_in(self.world.failures));
        let (delay, answer) = if fails {
            self.failure()
        } else {
            (self.random.millis(800), Ok(()))
        };
        let answered_at = self.now + delay;
        let answer = match answer {
            Ok(()) => {
                let lifetime = 300 + self.random.below(7000);
                let name = format!("token-{id}");
                let expires_on = answered_at + Duration::from_secs(lifetime);
                let expires_on = Timestamp::from_secs(expires_on.as_millis() / 1000);
                self.issued.insert(name.clone(), expires_on);
                let body = format!(
                    r#"{{"access_token":"{name}","expires_on":"{}"}}"#,
                    expires_on.as_millis() / 1000
                );
                let answer = Answer {
                    status: Some(200),
                    retry_after: None,
                    body: body.as_bytes(),
                };
                source::read_answer(answer, answered_at)
            }
            Err((status, retry_after, body)) => {
                let retry_after = retry_after.map(|seconds: u64| seconds.to_string());
                let answer = Answer {
                    status,
                    retry_after: retry_after.as_deref(),
                    body: body.as_bytes(),
                };
                source::read_answer(answer, answered_at)
            }
        };
        self.workers[index].fetching = Some(id);
        self.fetches.insert(
            id,
            Fetch {
                worker: index,
                asked_at: self.now,
                answered_at,
                answer,
            },
        );
    }

    /// A random failure of the token service, and its duration.
    #[allow(clippy::type_complexity)]
    fn failure(
        &mut self,
    ) -> (
        Duration,
        Result<(), (Option<u16>, Option<u64>, &'static str)>,
    ) {
        let soon = self.random.millis(500);
        let wait = self.random.below(LONGEST_WAIT.as_secs());
        let failure = match self.random.below(8) {
            0 => (Some(500), None, ""),
            1 => (Some(429), Some(wait), ""),
            2 => (Some(410), None, ""),
            3 => (Some(404), None, r#"{"error":"not found"}"#),
            4 => (Some(200), None, r#"{"access_token":"","expires_on":"1"}"#),
            5 => (Some(200), None, "<html>"),
            6 => (Some(400), None, r#"{"error":"invalid_request"}"#),
            // Envoy ends the call at its time limit.
            _ => return (FETCH_TIMEOUT, Err((Some(504), None, ""))),
        };
        (soon, Err(failure))
    }

    /// The most fetches within any `window`.
    fn most_fetches_within(&self, window: Duration) -> usize {
        let counts = self.history.iter().map(|from| {
            let until = *from + window;
            let inside = |at: &&Timestamp| (*from..until).contains(*at);
            self.history.iter().filter(inside).count()
        });
        counts.max().unwrap_or_default()
    }
}

/// Runs `test` in `world` with many seeds, or with the one that `AOAI_SEED` names.
fn with_seeds(world: World, hours: u64, test: impl Fn(&mut Simulation)) {
    for seed in seeds(0..10) {
        let mut simulation = Simulation::new(seed, world);
        simulation.run_until(START + Duration::from_secs(hours * 3600));
        test(&mut simulation);
    }
}

const FAIR: World = World {
    workers: 4,
    failures: 0,
    crashes: 0,
    refusals: 0,
    outages: &[],
};

const ROUGH: World = World {
    workers: 8,
    failures: 3,
    crashes: 5,
    refusals: 400,
    outages: &[(0, 120), (2000, 2600), (5000, 8000)],
};

#[test]
fn without_failures_there_is_one_fetch_for_each_token() {
    with_seeds(FAIR, 6, |simulation| {
        let fetches = simulation.history.len();
        simulation.check(
            fetches == simulation.issued.len(),
            "a fetch was asked in vain",
        );
        // A token lives 300 s at least and is renewed at half of that at the earliest.
        simulation.check(fetches <= 6 * 3600 / 150, "too many fetches");
        let first_second = START + CALM;
        let late = simulation.without_token.iter().any(|at| *at > first_second);
        simulation.check(!late, "a worker was without a token");
    });
}

#[test]
fn in_a_rough_world_the_number_of_fetches_is_bounded() {
    let swaps_lost = Cell::new(0);
    with_seeds(ROUGH, 3, |simulation| {
        // After a token: the one it replaces was refused (every 30 s at most). After a failure: waits of 1, 2, 4, 8, 16, 30 s.
        let most = simulation.most_fetches_within(Duration::from_secs(60));
        simulation.check(most <= 12, &format!("{most} fetches within a minute"));
        swaps_lost.set(swaps_lost.get() + simulation.map.0.swaps_lost.get());
    });
    assert!(swaps_lost.get() > 0, "no worker ever lost a race");
}

#[test]
fn after_every_outage_all_workers_get_a_token_again() {
    with_seeds(ROUGH, 0, |simulation| {
        for (_, until) in ROUGH.outages.iter().skip(1) {
            simulation.world.failures = 0;
            simulation.world.crashes = 0;
            // The longest wait after the last failure, a dead worker's lease, and a fetch.
            let grace = LONGEST_WAIT + LEASE + FETCH_TIMEOUT + CALM;
            simulation.run_until(START + Duration::from_secs(*until) + grace);
            let from = simulation.now;
            simulation.run_until(from + CALM);
            let missing = simulation.without_token.iter().any(|at| *at > from);
            simulation.check(!missing, "a worker is still without a token");
            simulation.world.failures = ROUGH.failures;
            simulation.world.crashes = ROUGH.crashes;
        }
    });
}

#[test]
fn the_old_token_bridges_an_outage_shorter_than_its_life() {
    let world = World {
        outages: &[(150, 290)],
        ..FAIR
    };
    with_seeds(world, 1, |simulation| {
        let gap = (START + Duration::from_secs(1))..(START + Duration::from_secs(300));
        let missing = simulation.without_token.iter().any(|at| gap.contains(at));
        simulation.check(
            !missing,
            "a worker was without a token that had not expired",
        );
    });
}

#[test]
fn an_outage_at_the_start_ends_for_everyone() {
    let world = World {
        outages: &[(0, 600)],
        ..FAIR
    };
    with_seeds(world, 1, |simulation| {
        let back = START + Duration::from_secs(600) + LONGEST_WAIT + FETCH_TIMEOUT + CALM;
        let missing = simulation.without_token.iter().any(|at| *at > back);
        simulation.check(!missing, "a worker is still without a token");
        simulation.check(!simulation.issued.is_empty(), "there is no token at all");
    });
}

#[test]
fn workers_that_die_in_a_fetch_block_others_for_a_lease_only() {
    let world = World { crashes: 3, ..FAIR };
    with_seeds(world, 2, |simulation| {
        let most = simulation.most_fetches_within(LEASE);
        simulation.check(most <= 1, &format!("{most} fetches within a lease"));
        // Some workers die one after the other, but not ten in a row.
        let longest = simulation.longest_without;
        simulation.check(
            longest < 10 * LEASE,
            &format!("a worker was without a token for {longest:?}"),
        );
    });
}

#[test]
fn backends_that_refuse_every_token_force_few_fetches() {
    let world = World {
        refusals: 2,
        ..FAIR
    };
    with_seeds(world, 1, |simulation| {
        let most = simulation.most_fetches_within(Duration::from_secs(29));
        simulation.check(most <= 2, &format!("{most} fetches within half a minute"));
        let all = simulation.history.len();
        simulation.check(all <= 3600 / 30 + 30, &format!("{all} fetches in an hour"));
    });
}
