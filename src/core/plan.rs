//! The plan of a request: its turn, and the backends it has been to.

use core::cmp::Ordering;

use super::affinity::Key;
use super::config::MAX_BACKENDS;

// One bit for each backend.
const _: () = assert!(MAX_BACKENDS <= WORDS * WORD);

/// The plan of one request. A turn stands for an order of all backends, the [`Schedule`](super::schedule::Schedule)'s; of it
/// the plan keeps what is not to be tried again. So the next backend is chosen at the time it is needed, by what is known then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The request's number in the order of all requests.
    pub turn: u64,
    /// The backends it has been to.
    pub tried: BackendSet,
    /// It has made a trial: no request makes two.
    pub has_tested: bool,
    /// Its affinity key, if it has one.
    pub key: Option<Key>,
}

impl Plan {
    /// The plan of a request that only these of so many backends can serve. Where it is one, the request takes no one's turn.
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

/// The bits of a word. WebAssembly has no larger one, so a wider set would be shifted by a routine of its own.
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

    /// Every one of this many, but one.
    pub fn all_but(backend: usize, backends: usize) -> Self {
        (0..backends).filter(|other| *other != backend).collect()
    }

    /// Whether it has been added.
    pub fn contains(self, backend: usize) -> bool {
        let word = self.0.get(backend / WORD);
        word.is_some_and(|word| (word >> (backend % WORD)) & 1 != 0)
    }

    /// The one that has so many others in it before it.
    pub fn nth(self, before: usize) -> Option<usize> {
        self.into_iter().nth(before)
    }

    /// Those that are in this set and behind this backend.
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

    /// Those that are in this set and in `others`.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        for (word, others) in self.0.iter_mut().zip(others.0) {
            *word &= others;
        }
        self
    }

    /// How many there are in it.
    pub fn len(self) -> usize {
        let ones = self.0.iter().map(|word| word.count_ones());
        usize::try_from(ones.sum::<u32>()).unwrap_or(usize::MAX)
    }

    /// Whether there is none in it.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Those that are in this set or in `others`.
    #[must_use]
    pub fn with(mut self, others: Self) -> Self {
        for (word, others) in self.0.iter_mut().zip(others.0) {
            *word |= others;
        }
        self
    }

    /// Those that are not in `others`.
    #[must_use]
    pub fn without(mut self, others: Self) -> Self {
        for (word, others) in self.0.iter_mut().zip(others.0) {
            *word &= !others;
        }
        self
    }
}

/// The backends of a set, in their order, for as many steps as there are of them.
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
    fn every_backend_has_a_place_of_its_own() {
        for added in 0..MAX_BACKENDS {
            let mut tried = BackendSet::default();
            tried.add(added);
            for other in 0..MAX_BACKENDS {
                assert_eq!(tried.contains(other), other == added);
            }
        }
    }

    #[test]
    fn a_backend_that_cannot_be_is_not_there() {
        let mut tried = BackendSet::default();
        tried.add(WORDS * WORD);
        tried.add(usize::MAX);
        assert!(tried.is_empty());
        assert!(!tried.contains(WORDS * WORD) && !tried.contains(usize::MAX));
    }

    #[test]
    fn the_backends_of_a_set_come_in_their_order() {
        for some in [&[][..], &[0], &[0, 7, 63, 64, 99], &[127]] {
            let set: BackendSet = some.iter().copied().collect();
            assert!(set.into_iter().eq(some.iter().copied()), "{some:?}");
        }
    }

    #[test]
    fn what_is_behind_a_backend_is_found() {
        let some: BackendSet = [0, 7, 63, 64, 99].into_iter().collect();
        for backend in 0..MAX_BACKENDS {
            let behind = some.into_iter().filter(|other| *other > backend);
            assert!(some.behind(backend).into_iter().eq(behind), "{backend}");
        }
        assert_eq!((some.nth(3), some.nth(5)), (Some(64), None));
    }

    #[test]
    fn what_is_left_of_a_set_is_what_others_do_not_have() {
        let some: BackendSet = [0, 7, 63, 64, 99].into_iter().collect();
        let others = BackendSet::all_but(64, MAX_BACKENDS);
        assert_eq!(some.without(others), [64].into_iter().collect());
        assert_eq!(some.without(BackendSet::default()), some);
        assert!(some.without(some).is_empty() && !some.is_empty());
        assert_eq!((some.len(), some.without(some).len()), (5, 0));
    }
}
