//! Watches the silences of answers.

use alloc::rc::Rc;
use core::time::Duration;

use crate::prelude::*;
use crate::time::Timestamp;

/// A request whose answer is watched.
pub trait Watchable {
    /// The number of frames of the client's answer so far.
    fn frames(&self) -> u32;
}

/// The requests of a worker whose answers have a silence limit, sorted by id. `T` is a request.
///
/// They are checked once a second. So a frame costs only its count, and a stream ends up to two seconds after its
/// limit.
pub struct Silences<T>(Vec<(u32, Watched<T>)>);

struct Watched<T> {
    request: Rc<T>,
    longest: Duration,
    /// The number of frames at the last check that found new ones.
    frames: u32,
    /// The time of that check.
    since: Timestamp,
}

impl<T> Default for Silences<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Watchable> Silences<T> {
    /// Watches a request from `now` on.
    pub fn watch(&mut self, id: u32, request: Rc<T>, longest: Duration, now: Timestamp) {
        let watched = Watched {
            frames: request.frames(),
            request,
            longest,
            since: now,
        };
        let at = self.0.partition_point(|(known, _)| *known < id);
        self.0.insert(at, (id, watched));
    }

    /// Stops watching the request.
    pub fn forget(&mut self, id: u32) {
        if let Ok(at) = self.0.binary_search_by_key(&id, |(known, _)| *known) {
            self.0.remove(at);
        }
    }

    /// Removes and returns the requests whose answers exceeded their limit.
    pub fn take_silent(&mut self, now: Timestamp) -> Vec<Rc<T>> {
        let mut silent = Vec::new();
        let mut at = 0;
        while let Some((_, watched)) = self.0.get_mut(at) {
            if watched.is_silent(now) {
                silent.push(self.0.remove(at).1.request);
            } else {
                at += 1;
            }
        }
        silent
    }
}

impl<T: Watchable> Watched<T> {
    fn is_silent(&mut self, now: Timestamp) -> bool {
        let frames = self.request.frames();
        if frames != self.frames {
            self.frames = frames;
            self.since = now;
        }
        now.since(self.since) >= self.longest
    }
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;

    use super::*;

    impl Watchable for Cell<u32> {
        fn frames(&self) -> u32 {
            self.get()
        }
    }

    const LIMIT: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000 + seconds * 1000)
    }

    fn watched(ids: &[u32]) -> (Silences<Cell<u32>>, Vec<Rc<Cell<u32>>>) {
        let mut silences = Silences::default();
        let requests: Vec<_> = ids.iter().map(|_| Rc::new(Cell::new(0))).collect();
        for (id, request) in ids.iter().zip(&requests) {
            silences.watch(*id, Rc::clone(request), LIMIT, at(0));
        }
        (silences, requests)
    }

    #[test]
    fn an_answer_is_silent_once_its_limit_has_passed() {
        let (mut silences, _) = watched(&[7]);
        assert_eq!(silences.take_silent(at(9)).len(), 0);
        assert_eq!(silences.take_silent(at(10)).len(), 1);
        // A silent request is reported once.
        assert_eq!(silences.take_silent(at(99)).len(), 0);
    }

    #[test]
    fn a_frame_restarts_the_limit() {
        let (mut silences, requests) = watched(&[2, 1, 3]);
        requests[0].set(1);
        assert_eq!(silences.take_silent(at(9)).len(), 0);
        let silent = silences.take_silent(at(18));
        assert_eq!(silent.len(), 2);
        assert!(!silent.iter().any(|it| Rc::ptr_eq(it, &requests[0])));
        assert_eq!(silences.take_silent(at(19)).len(), 1);
    }

    #[test]
    fn forgotten_answers_are_not_reported() {
        let (mut silences, requests) = watched(&[2, 1]);
        silences.forget(2);
        silences.forget(9);
        let silent = silences.take_silent(at(10));
        assert!(silent.iter().all(|it| Rc::ptr_eq(it, &requests[1])));
    }
}
