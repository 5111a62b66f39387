//! The plan of a request: its turn, and the backends it has been to.

use super::config::MAX_BACKENDS;

// One bit for each backend.
const _: () = assert!(MAX_BACKENDS <= u128::BITS as usize);

/// The plan of one request. A turn stands for an order of all backends, the [`Schedule`](super::schedule::Schedule)'s; of it
/// the plan keeps what is not to be tried again. So the next backend is chosen at the time it is needed, by what is known then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The request's number in the order of all requests.
    pub turn: u64,
    /// The backends it has been to.
    pub tried: BackendSet,
}

impl Plan {
    /// The plan of a request that only this one of so many backends can serve. It takes no one's turn.
    pub fn only(backend: usize, backends: usize) -> Self {
        Self {
            turn: 0,
            tried: BackendSet::all_but(backend, backends),
        }
    }

    /// The plan of the request that drew number `turn`.
    pub fn new(turn: u64) -> Self {
        Self {
            turn,
            tried: BackendSet::default(),
        }
    }
}

/// A set of backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendSet(u128);

impl BackendSet {
    /// Adds a backend.
    pub fn add(&mut self, backend: usize) {
        self.0 |= bit(backend);
    }

    /// Every one of this many, but one.
    pub fn all_but(backend: usize, backends: usize) -> Self {
        let mut others = Self::default();
        let all = (0..backends).filter(|other| *other != backend);
        all.for_each(|other| others.add(other));
        others
    }

    /// Whether it has been added.
    pub fn contains(self, backend: usize) -> bool {
        self.0 & bit(backend) != 0
    }
}

fn bit(backend: usize) -> u128 {
    u32::try_from(backend)
        .ok()
        .and_then(|backend| 1_u128.checked_shl(backend))
        .unwrap_or(0)
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
        tried.add(128);
        tried.add(usize::MAX);
        assert_eq!(tried, BackendSet::default());
    }
}
