//! Affinity: requests with the same key go to the same backend, whose prompt cache has their common prefix.
//!
//! The backend follows from the key by weighted rendezvous hashing. Each backend gets a distance from the key, and the
//! nearest backend is the key's own. So keys are distributed by weight without a table, and every worker and Envoy
//! chooses alike. If a backend is added or removed, only its own keys move.
//!
//! A key must not overload its backend: a backend above its bound passes the request on to the key's second choice. A
//! worker bounds its own attempts, so the bound holds for all workers together.
//!
//! Sources: Thaler and Ravishankar, "Using name-based mappings to increase hit rates" (1998). Mirrokni, Thorup and
//! Zadimoghaddam, "Consistent Hashing with Bounded Loads" (2016).

use core::time::Duration;

use super::config::{Backend, MAX_BACKENDS};
use super::hash::{fingerprint, scatter, Fingerprint};
use super::time::Timestamp;
use crate::prelude::*;

/// Attempts count towards a bound for at least this long, and at most for twice as long.
const SPAN: Duration = Duration::from_secs(30);

/// The number of a worker's attempts in that time that is always allowed, whatever a backend's share.
const ALWAYS: u32 = 10;

/// A hash of an affinity key. Two different keys have equal hashes with a probability of 2^-64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(u64);

impl Key {
    /// The key with this text. `None` for an empty text, which is a mistake of the client.
    pub fn of(text: &[u8]) -> Option<Self> {
        let mut fingerprint = Fingerprint::default();
        fingerprint.push(text);
        Self::read(fingerprint)
    }

    /// The key whose bytes were read in pieces. `None` if it is empty.
    pub fn read(fingerprint: Fingerprint) -> Option<Self> {
        (fingerprint != Fingerprint::default()).then(|| Self(fingerprint.value()))
    }
}

/// The way in which a key's backend was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// The backend is the first choice of the key.
    Kept(usize),
    /// The backend is a later choice of the key, because an earlier one has its full share of attempts.
    Overflowed(usize),
    /// The backend is a later choice of the key, because the first one is not free.
    Moved(usize),
}

/// The affinity of keys to backends, on one worker.
#[derive(Clone, Debug)]
pub struct Affinity {
    names: Vec<u64>,
    most_percent: u64,
    recent: Recent,
}

/// The attempts of about the last minute for each backend.
#[derive(Clone, Debug)]
struct Recent {
    began: Timestamp,
    current: Vec<u32>,
    before: Vec<u32>,
}

impl Affinity {
    /// The affinity to these backends. Each gets at most `most_percent` of its fair share.
    pub fn new(backends: &[Backend], most_percent: u16) -> Self {
        let name = |backend: &Backend| fingerprint([backend.name.as_str()].into_iter());
        Self {
            names: backends.iter().map(name).collect(),
            most_percent: u64::from(most_percent),
            recent: Recent::new(backends.len()),
        }
    }

    /// The backend of a request with this key. `usable` are the backends of the best priority with a free one, each
    /// with its weight. `own` are the candidates for the key's own backend, free or not. `None` if no backend is
    /// usable.
    #[inline(never)]
    pub fn pick(
        &self,
        key: Key,
        own: impl Iterator<Item = (usize, u8)>,
        usable: impl Iterator<Item = (usize, u8)> + Clone,
        now: Timestamp,
    ) -> Option<Pick> {
        let nearest = |(backend, weight)| (self.distance(key, backend, weight), backend);
        let first = usable.clone().map(nearest).min()?.1;
        let is_own = || own.map(nearest).min().is_some_and(|(_, own)| own == first);
        let bound = self.bound(usable.clone(), now);
        let has_room = |(backend, weight): &(usize, u8)| bound.leaves_room(*backend, *weight);
        let roomy = usable.filter(has_room).map(nearest).min();
        Some(match roomy {
            Some((_, backend)) if backend != first => Pick::Overflowed(backend),
            // A backend above its bound is better than none.
            _ if is_own() => Pick::Kept(first),
            _ => Pick::Moved(first),
        })
    }

    /// Counts an attempt on `backend`.
    pub fn count(&mut self, backend: usize, now: Timestamp) {
        self.recent.move_to(now);
        if let Some(count) = self.recent.current.get_mut(backend) {
            *count = count.saturating_add(1);
        }
    }

    /// The distance of a backend from a key. The negative logarithm of a uniform random number is exponentially
    /// distributed. So a backend has the least quotient by its weight with a probability proportional to the weight.
    fn distance(&self, key: Key, backend: usize, weight: u8) -> u64 {
        let name = self.names.get(backend).copied().unwrap_or_default();
        let drawn = scatter(key.0 ^ scatter(name));
        // The shift keeps the difference between two backends through the division.
        (negative_log2(drawn) << 16) / u64::from(weight.max(1))
    }

    fn bound(&self, usable: impl Iterator<Item = (usize, u8)>, now: Timestamp) -> Bound<'_> {
        let mut bound = Bound {
            affinity: self,
            now,
            weights: 0,
            attempts: 1,
        };
        for (backend, weight) in usable {
            bound.weights += u64::from(weight);
            bound.attempts += u64::from(self.recent.of(backend, now));
        }
        bound
    }
}

/// The bounds of several backends that share their requests.
struct Bound<'a> {
    affinity: &'a Affinity,
    now: Timestamp,
    /// The sum of the backends' weights.
    weights: u64,
    /// The attempts on all of the backends, including the one to be placed.
    attempts: u64,
}

impl Bound<'_> {
    /// Whether another attempt on `backend` is within its bound.
    fn leaves_room(&self, backend: usize, weight: u8) -> bool {
        let has = self.affinity.recent.of(backend, self.now);
        // `has + 1 <= most * attempts * weight / weights`, rounded up so that every backend can get one attempt.
        let most = self.affinity.most_percent * self.attempts * u64::from(weight);
        has < ALWAYS || u64::from(has) * 100 * self.weights < most
    }
}

impl Recent {
    fn new(backends: usize) -> Self {
        let backends = backends.min(MAX_BACKENDS);
        Self {
            began: Timestamp::default(),
            current: vec![0; backends],
            before: vec![0; backends],
        }
    }

    /// The number of recent attempts on `backend`.
    fn of(&self, backend: usize, now: Timestamp) -> u32 {
        let count = |counts: &[u32]| counts.get(backend).copied().unwrap_or_default();
        match self.spans_since(now) {
            0 => count(&self.current).saturating_add(count(&self.before)),
            1 => count(&self.current),
            _ => 0,
        }
    }

    fn move_to(&mut self, now: Timestamp) {
        let passed = self.spans_since(now);
        if passed == 0 {
            return;
        }
        core::mem::swap(&mut self.current, &mut self.before);
        self.current.fill(0);
        if passed > 1 {
            self.before.fill(0);
        }
        self.began = now;
    }

    /// The number of spans since the start of the current one.
    fn spans_since(&self, now: Timestamp) -> u64 {
        let passed = now.since(self.began).as_secs();
        passed / SPAN.as_secs()
    }
}

/// `64 - log2(number)`, in multiples of 1/65536. A logarithm of floating-point numbers would add a library to the
/// module.
fn negative_log2(number: u64) -> u64 {
    const BITS: u32 = 16;
    let number = number.max(1);
    let zeros = number.leading_zeros();
    // The number is a power of two times a factor between one and two. `factor` has 31 fractional bits.
    let mut factor = (number << zeros) >> 32;
    let mut fraction: u64 = 0;
    for _ in 0..BITS {
        // Squaring doubles the logarithm. Its next binary digit is 1 if the square is at least two.
        factor = (factor * factor) >> 31;
        let digit = factor >> 32;
        factor >>= digit;
        fraction = (fraction << 1) | digit;
    }
    (u64::from(zeros + 1) << BITS) - fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

    fn affinity(backends: usize, most_percent: u16) -> Affinity {
        let backends = (0..backends).map(|index| Backend {
            name: format!("backend-{index}"),
            ..Backend::default()
        });
        Affinity::new(&backends.collect::<Vec<_>>(), most_percent)
    }

    fn key(number: usize) -> Key {
        Key::of(format!("conversation {number}").as_bytes()).unwrap()
    }

    fn equal(backends: &[usize]) -> impl Iterator<Item = (usize, u8)> + Clone + '_ {
        backends.iter().map(|backend| (*backend, 1))
    }

    impl Affinity {
        fn next(&self, number: usize, usable: &[usize], now: Timestamp) -> Pick {
            let all: Vec<_> = (0..self.names.len()).collect();
            self.pick(key(number), equal(&all), equal(usable), now)
                .unwrap()
        }
    }

    #[test]
    fn a_key_keeps_its_backend() {
        let affinity = affinity(4, 125);
        let mut counts = [0; 4];
        for number in 0..4000 {
            let Pick::Kept(backend) = affinity.next(number, &[0, 1, 2, 3], NOW) else {
                panic!("{number}");
            };
            counts[backend] += 1;
        }
        assert!(
            counts.iter().all(|count| (900..1100).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn keys_are_distributed_by_weight() {
        let affinity = affinity(3, 125);
        let weighted = [(0, 1), (1, 2), (2, 5)].into_iter();
        let mut counts = [0; 3];
        for number in 0..8000 {
            match affinity.pick(key(number), weighted.clone(), weighted.clone(), NOW) {
                Some(Pick::Kept(backend)) => counts[backend] += 1,
                other => panic!("{other:?}"),
            }
        }
        for (count, expected) in counts.into_iter().zip([1000, 2000, 5000]) {
            assert!(
                (expected - 150..expected + 150).contains(&count),
                "{counts:?}"
            );
        }
    }

    #[test]
    fn only_keys_of_an_unavailable_backend_move() {
        let affinity = affinity(4, 125);
        for number in 0..1000 {
            let Pick::Kept(own) = affinity.next(number, &[0, 1, 2, 3], NOW) else {
                panic!("{number}");
            };
            let without_two = affinity.next(number, &[0, 1, 3], NOW);
            match own {
                2 => {
                    assert!(matches!(without_two, Pick::Moved(_)), "{without_two:?}");
                    // The second choice of a key is always the same.
                    assert_eq!(affinity.next(number, &[0, 1, 3], NOW), without_two);
                }
                own => assert_eq!(without_two, Pick::Kept(own)),
            }
        }
    }

    #[test]
    fn one_key_does_not_overload_its_backend() {
        let mut affinity = affinity(4, 125);
        let mut counts = [0_u32; 4];
        for _ in 0..1000 {
            let (Pick::Kept(backend) | Pick::Overflowed(backend)) =
                affinity.next(7, &[0, 1, 2, 3], NOW)
            else {
                panic!("every backend is usable");
            };
            affinity.count(backend, NOW);
            counts[backend] += 1;
        }
        // 1.25 times a quarter.
        assert_eq!(counts.iter().max(), Some(&313), "{counts:?}");
        let mut sorted = counts;
        sorted.sort_unstable();
        assert!(
            sorted[1] >= 300,
            "the second choice is one backend too: {counts:?}"
        );
    }

    #[test]
    fn a_few_requests_stay_together_above_their_share() {
        let mut affinity = affinity(4, 100);
        for _ in 0..ALWAYS {
            let Pick::Kept(backend) = affinity.next(7, &[0, 1, 2, 3], NOW) else {
                panic!("one key, few requests");
            };
            affinity.count(backend, NOW);
        }
        assert!(matches!(
            affinity.next(7, &[0, 1, 2, 3], NOW),
            Pick::Overflowed(_)
        ));
    }

    #[test]
    fn old_attempts_do_not_count() {
        let mut affinity = affinity(2, 100);
        let after = |seconds| NOW + Duration::from_secs(seconds);
        for _ in 0..100 {
            affinity.count(0, NOW);
        }
        assert_eq!(affinity.recent.of(0, after(29)), 100);
        affinity.count(1, after(31));
        assert_eq!(affinity.recent.of(0, after(31)), 100);
        affinity.count(1, after(62));
        assert_eq!(
            [0, 1].map(|index| affinity.recent.of(index, after(62))),
            [0, 2]
        );
        assert_eq!(
            [0, 1].map(|index| affinity.recent.of(index, after(200))),
            [0, 0]
        );
    }

    #[test]
    fn a_full_backend_is_better_than_none() {
        let mut affinity = affinity(2, 100);
        for _ in 0..100 {
            affinity.count(0, NOW);
        }
        let alone = [(0, 1)].into_iter();
        assert_eq!(
            affinity.pick(key(1), alone.clone(), alone, NOW),
            Some(Pick::Kept(0))
        );
        assert_eq!(affinity.pick(key(1), equal(&[0, 1]), equal(&[]), NOW), None);
    }

    #[test]
    fn the_logarithm_is_exact_enough() {
        for number in [
            1,
            2,
            3,
            7,
            1 << 20,
            (1 << 40) + 12_345,
            u64::MAX / 3,
            u64::MAX,
        ] {
            let exact = 64.0 - (number as f64).log2();
            let is = negative_log2(number) as f64 / 65_536.0;
            assert!((is - exact).abs() < 0.0002, "{number}: {is} {exact}");
        }
    }

    #[test]
    fn an_empty_key_is_none() {
        assert_eq!(Key::of(b""), None);
        assert_eq!(Key::of(b"a"), Key::of(b"a"));
        assert_ne!(Key::of(b"a"), Key::of(b"b"));
    }
}
