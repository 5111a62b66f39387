//! Properties of a request's state machine that hold for every sequence of events, with both retry engines.
//!
//! A sequence is a list of numbers. If a property does not hold, `proptest` shrinks the list to the shortest one.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

mod random;
mod exchange {
    pub(crate) mod envoy;
    mod host;
    pub(crate) mod world;
}

use std::collections::BTreeSet;

use exchange::envoy::{Ended, Envoy};
use exchange::world::{World, BACKENDS, ENGINES};
use proptest::prelude::*;
use random::Random;

/// The events of several requests, as numbers.
fn events() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// The model of Envoy asserts the rest:
    /// - A request has at most `max_attempts` attempts, each with its backend's own credential.
    /// - A backend that was tried gets a second attempt only with a newer token. One exception: the router had begun an
    ///   attempt for which a newer token was to come, and none came.
    /// - Behind the router, no answer to an incomplete request is held.
    /// - Only an answer that passes is cut off, and every hold has something that ends it.
    #[test]
    fn every_request_gets_one_answer(
        engine in prop::sample::select(&ENGINES[..]),
        max_attempts in 1..=3_u8,
        wait in any::<bool>(),
        events in events(),
    ) {
        let world = World::new(engine, max_attempts, wait);
        for numbers in &events {
            let ended = Envoy::new(&world, numbers).run();
            prop_assert!(matches!(ended, Ended::Answered | Ended::ClientGone | Ended::CutOff));
            world.pass(u64::from(numbers.first().copied().unwrap_or_default()) * 20);
        }
    }

    /// Recovering backends admit few attempts at a time, so each attempt must report its end.
    #[test]
    fn no_admitted_attempt_is_forgotten(
        engine in prop::sample::select(&ENGINES[..]),
        events in events(),
    ) {
        let world = World::new(engine, 3, false);
        world.let_all_recover();
        for numbers in &events {
            Envoy::new(&world, numbers).run();
        }
        for (backend, name) in BACKENDS.iter().enumerate() {
            prop_assert!(world.admits(backend), "{name}");
        }
    }
}

/// Compares the picture in `docs/architecture.md` with the transitions that many requests make.
#[test]
fn the_picture_of_the_states_is_true() {
    let mut steps = BTreeSet::new();
    let mut random = Random(7);
    for round in 0..4_000 {
        let world = World::new(ENGINES[round % 2], 3, round % 3 == 0);
        for _ in 0..4 {
            let numbers: Vec<u8> = (0..40).map(|_| random.below(256) as u8).collect();
            Envoy::new(&world, &numbers).run();
        }
        steps.extend(world.steps());
    }
    let drawn: Vec<_> = steps
        .iter()
        .map(|(from, to)| format!("    {from} --> {to}"))
        .collect();
    let picture = format!(
        "```mermaid\nstateDiagram-v2\n    [*] --> New\n{}\n```\n",
        drawn.join("\n")
    );
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/architecture.md");
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains(&picture), "the picture would be:\n{picture}");
}
