//! Properties of the limits per client, over random sequences of requests on several workers, under a virtual clock.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "exchange/host.rs"]
mod host;
mod random;

use std::collections::HashMap;

use azure_openai_balancer::core::config::{LimitRules, Limits};
use azure_openai_balancer::core::limits::{Ask, Charge, Limiter};
use azure_openai_balancer::core::usage::Usage;

use self::host::MapAndClock;
use self::random::Random;

const MINUTE: u64 = 60_000;
const DAY: u64 = 24 * 60 * MINUTE;
/// A midnight.
const START: u64 = 1_700_006_400_000;

/// An Envoy with a few workers.
struct Envoy {
    map: MapAndClock,
    workers: Vec<Limiter<MapAndClock>>,
}

impl Envoy {
    fn new(limits: Limits) -> Self {
        let map = MapAndClock::default();
        map.pass(START);
        let rules = LimitRules {
            default: limits,
            clients: Vec::new(),
        };
        let worker = |_| Limiter::new(map.clone(), rules.clone()).unwrap();
        Self {
            workers: (0..3).map(worker).collect(),
            map,
        }
    }

    fn now(&self) -> u64 {
        self.map.millis()
    }

    fn pass(&self, millis: u64) {
        self.map.pass(millis);
    }
}

fn chat(bytes: u64) -> Ask {
    Ask {
        takes_tokens: true,
        bytes: Some(bytes),
    }
}

fn usage(prompt: u64, completion: u64) -> Usage {
    Usage {
        prompt: Some(u32::try_from(prompt).unwrap()),
        completion: Some(u32::try_from(completion).unwrap()),
        ..Usage::default()
    }
}

const NONE: Limits = Limits {
    tokens_per_minute: None,
    tokens_per_day: None,
    requests_per_minute: None,
};

/// A request in progress.
struct Flight {
    client: &'static str,
    charge: Charge,
    lands: u64,
}

/// The tokens that each client's answers took, each with the time of the report.
type Used = HashMap<&'static str, Vec<(u64, u64)>>;

/// Sends random requests for a while. Returns the tokens of each client, and the most tokens that one client had in
/// progress.
fn run(envoy: &Envoy, seed: u64, steps: u64, longest: u64) -> (Used, u64) {
    const CLIENTS: [&str; 4] = ["a", "b", "c", "d"];
    let mut random = Random(seed);
    let mut used = Used::new();
    let mut flights: Vec<Flight> = Vec::new();
    let mut most_under_way = 0;
    for _ in 0..steps {
        envoy.pass(random.below(2000));
        let now = envoy.now();
        let (landed, rest) = flights.into_iter().partition(|flight| flight.lands <= now);
        flights = rest;
        for Flight { client, charge, .. } in landed {
            let worker = &envoy.workers[usize::try_from(random.below(3)).unwrap()];
            // A prompt is never smaller than its estimate here, so nothing is refunded.
            let (prompt, completion) = (charge.tokens + random.below(50), random.below(500));
            worker.settle(Some(client), charge, Some(&usage(prompt, completion)));
            used.entry(client)
                .or_default()
                .push((now, prompt + completion));
        }
        let client = CLIENTS[usize::try_from(random.below(4)).unwrap()];
        let worker = &envoy.workers[usize::try_from(random.below(3)).unwrap()];
        if let Ok(Some(charge)) = worker.take(Some(client), chat(random.below(250))) {
            let lands = now + random.below(longest);
            flights.push(Flight {
                client,
                charge,
                lands,
            });
        }
        for client in CLIENTS {
            let own = flights.iter().filter(|flight| flight.client == client);
            most_under_way = most_under_way.max(own.count() as u64);
        }
    }
    (used, most_under_way)
}

/// The most tokens within a window of this length.
fn most_within(used: &[(u64, u64)], window: u64) -> u64 {
    let sums = used.iter().map(|(from, _)| {
        let within = used
            .iter()
            .filter(|(at, _)| (*from..=from + window).contains(at));
        within.map(|(_, tokens)| tokens).sum()
    });
    sums.max().unwrap_or_default()
}

/// The most tokens that an answer of [`run`] can take.
const LARGEST: u64 = 250 + 50 + 500;

#[test]
fn no_window_passes_more_than_the_limit_and_what_is_in_progress() {
    let limits = Limits {
        tokens_per_minute: Some(3000),
        ..NONE
    };
    for seed in 0..20 {
        let envoy = Envoy::new(limits);
        let (used, under_way) = run(&envoy, seed, 3000, 20_000);
        for (client, used) in used {
            for window in [0, 1000, MINUTE, 10 * MINUTE] {
                let most = 3000 + 3000 * window / MINUTE + under_way * LARGEST;
                let within = most_within(&used, window);
                assert!(
                    within <= most,
                    "{seed} {client}: {within} in {window} ms, not {most}"
                );
            }
            // The limit is used up too: the clients ask for more than 3000 tokens a minute.
            let all: u64 = used.iter().map(|(_, tokens)| tokens).sum();
            let minutes = (envoy.now() - START) / MINUTE;
            assert!(
                all >= 3000 * minutes * 9 / 10,
                "{seed} {client}: {all} in {minutes} minutes"
            );
        }
    }
}

#[test]
fn an_excess_is_paid_back_in_the_long_run() {
    let limits = Limits {
        tokens_per_minute: Some(1000),
        tokens_per_day: Some(100_000),
        ..NONE
    };
    let envoy = Envoy::new(limits);
    let (used, under_way) = run(&envoy, 7, 30_000, 30_000);
    let minutes = (envoy.now() - START).div_ceil(MINUTE);
    for (client, used) in used {
        let all: u64 = used.iter().map(|(_, tokens)| tokens).sum();
        let most = 1000 + 1000 * minutes + under_way * LARGEST;
        assert!(all <= most, "{client}: {all} of {most}");
    }
}

#[test]
fn no_day_passes_more_than_its_limit_and_what_was_in_progress() {
    let limits = Limits {
        tokens_per_day: Some(50_000),
        ..NONE
    };
    let envoy = Envoy::new(limits);
    // The run lasts a week, and an answer takes up to an hour.
    let mut by_day: HashMap<(&str, u64), u64> = HashMap::new();
    let mut random = Random(3);
    loop {
        envoy.pass(random.below(10 * MINUTE));
        if envoy.now() >= START + 7 * DAY {
            break;
        }
        let client = ["a", "b"][usize::try_from(random.below(2)).unwrap()];
        let worker = &envoy.workers[usize::try_from(random.below(3)).unwrap()];
        if let Ok(Some(charge)) = worker.take(Some(client), chat(400)) {
            let completion = random.below(3000);
            worker.settle(Some(client), charge, Some(&usage(100, completion)));
            *by_day.entry((client, envoy.now() / DAY)).or_default() += 100 + completion;
        }
    }
    assert_eq!(by_day.len(), 14);
    for (day, tokens) in by_day {
        assert!(tokens <= 50_000 + 3100, "{day:?}: {tokens}");
        assert!(tokens >= 50_000 - 3100, "{day:?}: {tokens}");
    }
}

#[test]
fn requests_of_all_workers_count_exactly() {
    let limits = Limits {
        requests_per_minute: Some(100),
        ..NONE
    };
    let envoy = Envoy::new(limits);
    let ask = Ask::default();
    for client in [Some("a"), Some("b"), None] {
        let takes = (0..300).map(|n| envoy.workers[n % 3].take(client, ask).is_ok());
        assert_eq!(takes.filter(|passed| *passed).count(), 100, "{client:?}");
    }
    // One request comes back every 600 ms.
    envoy.pass(6000);
    let takes = (0..300).map(|n| envoy.workers[n % 3].take(Some("a"), ask).is_ok());
    assert_eq!(takes.filter(|passed| *passed).count(), 10);
}

#[test]
fn a_client_that_waits_for_retry_after_passes() {
    let limits = Limits {
        tokens_per_minute: Some(700),
        tokens_per_day: Some(90_000),
        requests_per_minute: Some(7),
    };
    let envoy = Envoy::new(limits);
    let mut random = Random(11);
    let (mut waits, mut passed) = (0, 0);
    while passed < 2000 {
        match envoy.workers[0].take(Some("a"), chat(random.below(900))) {
            Ok(charge) => {
                let usage = usage(random.below(300), random.below(900));
                envoy.workers[1].settle(Some("a"), charge.unwrap(), Some(&usage));
                passed += 1;
                envoy.pass(random.below(3000));
            }
            Err(excess) => {
                let wait = u64::try_from(excess.exceeded.wait.as_millis()).unwrap();
                envoy.pass(wait - 1);
                assert!(
                    envoy.workers[2].take(Some("a"), chat(0)).is_err(),
                    "{excess:?}"
                );
                envoy.pass(1);
                let charge = envoy.workers[2].take(Some("a"), chat(0));
                assert!(charge.is_ok(), "{excess:?} {charge:?}");
                waits += 1;
            }
        }
    }
    assert!(waits > 100, "{waits}");
}

#[test]
fn a_clock_set_back_locks_nobody_out_beyond_the_window() {
    for (limits, window) in [
        (
            Limits {
                tokens_per_minute: Some(1000),
                ..NONE
            },
            MINUTE,
        ),
        (
            Limits {
                requests_per_minute: Some(1),
                ..NONE
            },
            MINUTE,
        ),
        (
            Limits {
                tokens_per_day: Some(1000),
                ..NONE
            },
            DAY,
        ),
    ] {
        let envoy = Envoy::new(limits);
        envoy.pass(400 * DAY);
        let passes = |_: &_| envoy.workers[0].take(Some("a"), chat(4000)).is_ok();
        assert!((0..100).take_while(passes).count() < 100);
        envoy.map.set_millis(START);
        let excess = envoy.workers[1].take(Some("a"), chat(4000)).unwrap_err();
        assert!(
            excess.exceeded.wait.as_millis() <= u128::from(window),
            "{excess:?}"
        );
        envoy.pass(window);
        assert!(
            envoy.workers[2].take(Some("a"), chat(4000)).is_ok(),
            "{limits:?}"
        );
    }
}

#[test]
fn a_request_without_limits_reads_no_shared_value() {
    let tokens = Limits {
        tokens_per_minute: Some(1000),
        ..NONE
    };
    let map = MapAndClock::default();
    let rules = LimitRules {
        default: tokens,
        clients: vec![("free".to_owned(), NONE)],
    };
    let limiter = Limiter::new(map.clone(), rules).unwrap();
    let calls = |client, ask| {
        map.take_calls();
        limiter.take(Some(client), ask).unwrap();
        map.take_calls()
    };
    assert_eq!(calls("free", chat(100)), 0);
    assert_eq!(calls("team", Ask::default()), 0, "no tokens are taken");
    assert_eq!(calls("team", chat(100)), 2);
}
