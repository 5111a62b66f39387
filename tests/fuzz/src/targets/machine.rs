//! A request's state machine, driven by the model of Envoy from `tests/exchange.rs`. The input decides the events.

#[path = "../../../exchange/envoy.rs"]
#[allow(dead_code)]
mod envoy;
#[path = "../../../exchange/host.rs"]
pub(crate) mod host;
#[path = "../../../exchange/world.rs"]
#[allow(dead_code)]
pub(crate) mod world;

use envoy::{Ended, Envoy};
use world::{World, ENGINES};

/// The number of bytes that decide the events of one request.
const EACH: usize = 40;

pub(crate) fn check(input: &[u8]) {
    let [kind, requests @ ..] = input else {
        return;
    };
    let engine = ENGINES[usize::from(kind % 2)];
    let world = World::new(engine, 1 + kind / 2 % 3, kind / 8 % 2 == 1);
    if kind / 16 % 2 == 1 {
        world.let_all_recover();
    }
    for numbers in requests.chunks(EACH).take(8) {
        let ended = Envoy::new(&world, numbers).run();
        assert!(matches!(
            ended,
            Ended::Answered | Ended::ClientGone | Ended::CutOff
        ));
        world.pass(u64::from(numbers[0]) * 20);
    }
}
