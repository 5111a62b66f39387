//! A property of the shared values that workers change with every request: no change is lost, whatever other workers
//! change meanwhile.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::rc::Rc;

use azure_openai_balancer::core::swap::{create, OftenSwapped, SharedMap};
use proptest::prelude::*;

/// Envoy's map. All values share one number, which every change increments.
#[derive(Default)]
struct Envoy {
    values: BTreeMap<String, (Vec<u8>, u32)>,
    last_number: u32,
}

/// One worker's view of the map.
struct View {
    envoy: Rc<RefCell<Envoy>>,
    changes: Cell<u32>,
    reads: Cell<u32>,
}

impl View {
    fn of(envoy: &Rc<RefCell<Envoy>>) -> Self {
        Self {
            envoy: Rc::clone(envoy),
            changes: Cell::default(),
            reads: Cell::default(),
        }
    }
}

impl SharedMap for View {
    type Error = Infallible;

    fn get(&self, key: &str) -> Result<(Option<Vec<u8>>, u32), Infallible> {
        self.reads.set(self.reads.get() + 1);
        let envoy = self.envoy.borrow();
        let value = envoy.values.get(key);
        Ok(value.map_or((None, 0), |(bytes, cas)| (Some(bytes.clone()), *cas)))
    }

    fn set(&self, key: &str, value: &[u8], cas: u32) -> Result<bool, Infallible> {
        let mut envoy = self.envoy.borrow_mut();
        let is_other = |(_, current): &(Vec<u8>, u32)| cas != 0 && cas != *current;
        if envoy.values.get(key).is_some_and(is_other) {
            return Ok(false);
        }
        envoy.last_number += 1;
        let number = envoy.last_number;
        envoy
            .values
            .insert(key.to_owned(), (value.to_vec(), number));
        self.changes.set(self.changes.get() + 1);
        Ok(true)
    }

    fn changes(&self) -> u32 {
        self.changes.get()
    }
}

const KEYS: [&str; 3] = ["a", "b", "c"];

struct Worker {
    view: View,
    values: [OftenSwapped<[u8; 16]>; 3],
}

impl Worker {
    fn of(envoy: &Rc<RefCell<Envoy>>) -> Self {
        let view = View::of(envoy);
        for key in KEYS {
            create(&view, key, &[0; 16]).unwrap();
        }
        Self {
            view,
            values: KEYS.map(|key| OftenSwapped::new(key.to_owned())),
        }
    }

    /// Adds to a sum that later changes may return. Calls `meanwhile` between the read of the value and its change.
    fn add(&self, key: usize, amount: i64, mut meanwhile: impl FnMut()) {
        let added = self.values[key].swap(&self.view, |bytes| {
            let (number, sum) = bytes.map_or((0, 0), read);
            meanwhile();
            let mut stored = [0; 16];
            stored[..8].copy_from_slice(&u64::to_le_bytes(number + 1));
            stored[8..].copy_from_slice(&i64::to_le_bytes(sum + amount));
            ((), Some(stored))
        });
        added.unwrap();
    }
}

fn read(bytes: &[u8]) -> (u64, i64) {
    let (number, sum) = bytes.split_at(8);
    (
        u64::from_le_bytes(number.try_into().unwrap()),
        i64::from_le_bytes(sum.try_into().unwrap()),
    )
}

/// A worker, a value, an amount, and perhaps another worker's change in the middle of that.
type Step = (usize, usize, i64, Option<(usize, usize, i64)>);

fn step() -> impl Strategy<Value = Step> {
    // Most steps are the same worker's, so that it begins to guess the number.
    let worker = || prop_oneof![6 => Just(0_usize), 1 => Just(1), 1 => Just(2)];
    let change = || (worker(), 0..KEYS.len(), -2..3_i64);
    let other = prop_oneof![5 => Just(None), 1 => change().prop_map(Some)];
    (change(), other).prop_map(|((worker, key, amount), other)| (worker, key, amount, other))
}

proptest! {
    #[test]
    fn no_change_of_any_worker_is_lost(steps in prop::collection::vec(step(), 1..200)) {
        let envoy = Rc::new(RefCell::new(Envoy::default()));
        let workers = [(); 3].map(|()| Worker::of(&envoy));
        let mut sums = [0; 3];
        for (worker, key, amount, other) in steps {
            let mut other = other.filter(|(other, ..)| *other != worker);
            let amounts = other.iter().map(|(_, key, amount)| (*key, *amount));
            for (key, amount) in amounts.chain([(key, amount)]) {
                sums[key] += amount;
            }
            workers[worker].add(key, amount, || {
                if let Some((worker, key, amount)) = other.take() {
                    workers[worker].add(key, amount, || {});
                }
            });
        }
        for (key, sum) in KEYS.iter().zip(sums) {
            let envoy = envoy.borrow();
            let stored = envoy.values.get(*key).map_or(0, |(bytes, _)| read(bytes).1);
            prop_assert_eq!(stored, sum);
        }
    }
}

#[test]
fn a_worker_alone_reads_nothing_once_it_is_sure() {
    let envoy = Rc::default();
    let worker = Worker::of(&envoy);
    let add = |key| worker.add(key, 1, || {});
    (0..30).for_each(|turn| add(turn % 3));
    let reads = worker.view.reads.get();
    (0..30).for_each(|turn| add(turn % 3));
    assert_eq!(worker.view.reads.get(), reads);
}
