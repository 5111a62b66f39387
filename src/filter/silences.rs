//! The answers that may not be silent for long.

use std::rc::Rc;
use std::time::Duration;

use super::worker::Stream;
use crate::core::time::Timestamp;

/// The streams of a worker whose answers have a limit of silence, in the order of their ids. They are looked at once a second: a frame costs nothing
/// but its count, and a stream ends up to two seconds after its time.
#[derive(Default)]
pub(super) struct Silences(Vec<(u32, Watched)>);

struct Watched {
    stream: Rc<dyn Stream>,
    longest: Duration,
    /// The frames that had come when it was looked at last.
    frames: u32,
    /// When they were found to have come.
    since: Timestamp,
}

impl Silences {
    /// Watches a stream from `now` on.
    pub(super) fn watch(
        &mut self,
        id: u32,
        stream: Rc<dyn Stream>,
        longest: Duration,
        now: Timestamp,
    ) {
        let watched = Watched {
            stream,
            longest,
            frames: 0,
            since: now,
        };
        let at = self.0.partition_point(|(known, _)| *known < id);
        self.0.insert(at, (id, watched));
    }

    /// The stream has ended.
    pub(super) fn forget(&mut self, id: u32) {
        if let Ok(at) = self.0.binary_search_by_key(&id, |(known, _)| *known) {
            self.0.remove(at);
        }
    }

    /// Takes those off the list that have been silent for too long.
    pub(super) fn take_silent(&mut self, now: Timestamp) -> Vec<(u32, Rc<dyn Stream>)> {
        let mut silent = Vec::new();
        self.0.retain_mut(|(id, watched)| {
            let is_silent = watched.is_silent(now);
            if is_silent {
                silent.push((*id, Rc::clone(&watched.stream)));
            }
            !is_silent
        });
        silent
    }
}

impl Watched {
    fn is_silent(&mut self, now: Timestamp) -> bool {
        let frames = self.stream.frames();
        if frames != self.frames {
            self.frames = frames;
            self.since = now;
        }
        now.since(self.since) >= self.longest
    }
}
