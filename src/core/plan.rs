//! The plan of a request: its turn, and the backends that it has tried.

use core::cmp::Ordering;

use super::affinity::Key;
use super::config::MAX_BACKENDS;

// One bit for each backend.
const _: () = assert!(MAX_BACKENDS <= WORDS * WORD);

/// The plan of a request. Its turn stands for an order of all backends, by the [`Schedule`](super::schedule::Schedule),
/// and the plan stores the tried ones. So the next backend is chosen when it is needed, with the latest knowledge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The request's number in the order of all requests.
    pub turn: u64,
    /// The backends that the request has tried.
    pub tried: BackendSet,
    /// Whether the request has made a trial. No request makes two.
    pub has_tested: bool,
    /// The request's affinity key, if any.
    pub key: Option<Key>,
}

impl Plan {
    /// The plan of a request that only these of `of` backends can serve. A request with one possible backend draws no
    /// turn.
    pub fn only(backends: BackendSet, of: usize, turn: u64) -> Self {
        Self {
            turn,
            tried: (0..of).collect::<BackendSet>().without(backends),
            ..Self::default()
        }
    }

    /// The plan of the request that drew number `turn` and has this affinity `key`.
    pub fn keyed(turn: u64, key: Option<Key>) -> Self {
        Self {
            turn,
            key,
            ..Self::default()
        }
    }

    /// The plan of the request that drew number `turn`.
    pub fn new(turn: u64) -> Self {
        Self {
            turn,
            ..Self::default()
        }
    }
}

/// The bits of a word. WebAssembly has no larger integers, so shifting a wider set would need a library routine.
const WORD: usize = u64::BITS as usize;
const WORDS: usize = 2;

/// A set of backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendSet([u64; WORDS]);

impl BackendSet {
    /// Adds a backend.
    pub fn add(&mut self, backend: usize) {
        if let Some(word) = self.0.get_mut(backend / WORD) {
            *word |= 1 << (backend % WORD);
        }
    }

    /// All of `backends` backends except one.
    pub fn all_but(backend: usize, backends: usize) -> Self {
        (0..backends).filter(|other| *other != backend).collect()
    }

    /// Whether the set contains the backend.
    pub fn contains(self, backend: usize) -> bool {
        let word = self.0.get(backend / WORD);
        word.is_some_and(|word| (word >> (backend % WORD)) & 1 != 0)
    }

    /// The backend with `before` others before it in the set.
    pub fn nth(self, before: usize) -> Option<usize> {
        self.into_iter().nth(before)
    }

    /// The backends of the set with a larger index.
    #[must_use]
    pub fn behind(self, backend: usize) -> Self {
        let mut behind = Self([u64::MAX; WORDS]);
        let (place, bit) = (backend / WORD, backend % WORD);
        for (index, word) in behind.0.iter_mut().enumerate() {
            *word = match index.cmp(&place) {
                Ordering::Less => 0,
                Ordering::Equal => u64::MAX.wrapping_shl(bit as u32) & !(1 << bit),
                Ordering::Greater => u64::MAX,
            };
        }
        self.and(behind)
    }

    /// The intersection with `others`.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        for (word, others) in self.0.iter_mut().zip(others.0) {
            *word &= others;
        }
        self
    }

    /// The number of backends in the set.
    pub fn len(self) -> usize {
        let ones = self.0.iter().map(|word| word.count_ones());
        usize::try_from(ones.sum::<u32>()).unwrap_or(usize::MAX)
    }

    /// Whether the set is empty.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// The union with `others`.
    #[must_use]
    pub fn with(mut self, others: Self) -> Self {
        for (word, others) in self.0.iter_mut().zip(others.0) {
            *word |= others;
        }
        self
    }

    /// The difference from `others`.
    #[must_use]
    pub fn without(mut self, others: Self) -> Self {
        for (word, others) in self.0.iter_mut().zip(others.0) {
            *word &= !others;
        }
        self
    }
}

/// Iterates over the backends of a set in order, in as many steps as the set has backends.
#[derive(Clone, Debug)]
pub struct Members(BackendSet);

impl Iterator for Members {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let mut words = self.0 .0.iter_mut().enumerate();
        let (place, word) = words.find(|(_, word)| **word != 0)?;
        let bit = word.trailing_zeros() as usize;
        *word &= word.wrapping_sub(1);
        Some(place * WORD + bit)
    }
}

impl IntoIterator for BackendSet {
    type Item = usize;
    type IntoIter = Members;

    fn into_iter(self) -> Members {
        Members(self)
    }
}

impl FromIterator<usize> for BackendSet {
    fn from_iter<T: IntoIterator<Item = usize>>(backends: T) -> Self {
        let mut set = Self::default();
        backends.into_iter().for_each(|backend| set.add(backend));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_backend_has_its_own_bit() {
        for added in 0..MAX_BACKENDS {
            let mut tried = BackendSet::default();
            tried.add(added);
            for other in 0..MAX_BACKENDS {
                assert_eq!(tried.contains(other), other == added);
            }
        }
    }

    #[test]
    fn backends_beyond_the_limit_are_not_in_the_set() {
        let mut tried = BackendSet::default();
        tried.add(WORDS * WORD);
        tried.add(usize::MAX);
        assert!(tried.is_empty());
        assert!(!tried.contains(WORDS * WORD) && !tried.contains(usize::MAX));
    }

    #[test]
    fn the_backends_of_a_set_are_in_order() {
        for some in [&[][..], &[0], &[0, 7, 63, 64, 99], &[127]] {
            let set: BackendSet = some.iter().copied().collect();
            assert!(set.into_iter().eq(some.iter().copied()), "{some:?}");
        }
    }

    #[test]
    fn later_backends_are_found() {
        let some: BackendSet = [0, 7, 63, 64, 99].into_iter().collect();
        for backend in 0..MAX_BACKENDS {
            let behind = some.into_iter().filter(|other| *other > backend);
            assert!(some.behind(backend).into_iter().eq(behind), "{backend}");
        }
        assert_eq!((some.nth(3), some.nth(5)), (Some(64), None));
    }

    #[test]
    fn a_difference_has_the_remaining_backends() {
        let some: BackendSet = [0, 7, 63, 64, 99].into_iter().collect();
        let others = BackendSet::all_but(64, MAX_BACKENDS);
        assert_eq!(some.without(others), [64].into_iter().collect());
        assert_eq!(some.without(BackendSet::default()), some);
        assert!(some.without(some).is_empty() && !some.is_empty());
        assert_eq!((some.len(), some.without(some).len()), (5, 0));
    }
}
