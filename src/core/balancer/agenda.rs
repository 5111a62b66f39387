//! A worker's agenda: the streams that wait, the calls that were made for streams, and when the next tick is due.

use core::time::Duration;

use super::{Balancer, Granted, WaitingList, Wish, POLL};
use crate::host::Host;
use crate::prelude::*;
use crate::time::Timestamp;

/// The usual tick: a worker looks at everything once a second.
const CALM: Duration = Duration::from_secs(1);

/// The tick that comes as good as at once, for what only a tick can do.
pub const NOW: Duration = Duration::from_millis(1);

/// How a stream's wait begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Began {
    /// The stream cannot wait: too many do, or there is no hope.
    Refused,
    /// The next tick is early enough for it.
    Waits,
    /// A tick has to come at once: it says when the next one is due.
    NeedsTick,
}

/// The agenda of one worker. A stream is a `T`.
pub struct Agenda<T> {
    waiting: WaitingList<T>,
    /// Calls that were made for a stream in a callback of the root context, with the stream's id.
    calls: Vec<(u32, (u32, T))>,
    /// When the next tick is due, as the last one set it.
    ticks_at: Timestamp,
    /// When everything was looked at last.
    looked_at: Timestamp,
    root_is_running: bool,
}

impl<T> Default for Agenda<T> {
    fn default() -> Self {
        Self {
            waiting: WaitingList::default(),
            calls: Vec::new(),
            ticks_at: Timestamp::default(),
            looked_at: Timestamp::default(),
            root_is_running: false,
        }
    }
}

impl<T: Clone> Agenda<T> {
    /// Puts a stream on the waiting list.
    pub fn wait<H: Host>(
        &mut self,
        id: u32,
        stream: T,
        wish: Wish,
        balancer: &Balancer<H>,
        now: Timestamp,
    ) -> Began {
        // Nearly every stream of events waits so, and few to the end of it: the next tick is mostly early enough.
        let is_early_enough = match &wish {
            Wish::StreamStart(longest) => self.ticks_at <= now + *longest,
            _ => false,
        };
        let credentials = &balancer.credentials;
        match self.waiting.add(id, stream, wish, credentials, now) {
            false => Began::Refused,
            true if is_early_enough => Began::Waits,
            true => Began::NeedsTick,
        }
    }

    /// Takes a stream off the waiting list, if it is there.
    pub fn forget(&mut self, id: u32) {
        self.waiting.remove(id);
    }

    /// Takes those off the waiting list whose wait is over, see [`WaitingList::take_granted`].
    pub fn take_granted<H: Host>(
        &mut self,
        balancer: &Balancer<H>,
        now: Timestamp,
    ) -> Vec<(u32, T, Granted)> {
        self.waiting.take_granted(balancer, now)
    }

    /// A callback of the root context runs for a stream, or has ended.
    pub fn set_root_running(&mut self, is_running: bool) {
        self.root_is_running = is_running;
    }

    /// A stream made a call. A call that was made in a callback of the root context is answered there, and passed on to the stream.
    pub fn call_made(&mut self, call: u32, id: u32, stream: T) {
        if self.root_is_running {
            self.calls.push((call, (id, stream)));
        }
    }

    /// Takes a call off the list, with the id of its stream. The oldest come first, and are mostly the first to be answered.
    pub fn take_call(&mut self, call: u32) -> Option<(u32, T)> {
        let at = self.calls.iter().position(|(known, _)| *known == call)?;
        Some(self.calls.remove(at).1)
    }

    /// Whether this tick looks at everything, as one a second does.
    pub fn looks(&mut self, now: Timestamp) -> bool {
        let looks = (self.looked_at + CALM).has_passed(now, CALM);
        if looks {
            self.looked_at = now;
        }
        looks
    }

    /// How long after `now` the next tick is due.
    pub fn next_tick<H: Host>(&mut self, balancer: &Balancer<H>, now: Timestamp) -> Duration {
        // Without a token a worker looks often while one may come: another worker may be the one that gets it.
        let next = match balancer.credentials.may_come(now, CALM) {
            true => POLL,
            false => {
                let wait = self.waiting.next_timeout(now);
                wait.map_or(CALM, |wait| wait.clamp(NOW, CALM))
            }
        };
        self.ticks_at = now + next;
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_looked_at_once_a_second() {
        let at = |millis: u64| Timestamp::from_millis(1_700_000_000_000 + millis);
        let mut agenda = Agenda::<u32>::default();
        let looks = [0, 20, 999, 1000, 1001, 2500].map(|millis| agenda.looks(at(millis)));
        assert_eq!(looks, [true, false, false, true, false, true]);
        // The clock was set back: no one waits until it comes to the same time again.
        assert!(agenda.looks(at(0) + Duration::ZERO));
    }

    #[test]
    fn calls_of_the_root_context_are_passed_on_once() {
        let mut agenda = Agenda::default();
        agenda.call_made(1, 10, "its own callback");
        agenda.set_root_running(true);
        agenda.call_made(2, 20, "a tick");
        agenda.call_made(3, 30, "a tick, too");
        agenda.set_root_running(false);
        agenda.call_made(4, 40, "its own callback");
        assert_eq!(agenda.take_call(1), None);
        assert_eq!(agenda.take_call(3), Some((30, "a tick, too")));
        assert_eq!(agenda.take_call(3), None);
        assert_eq!(agenda.take_call(2), Some((20, "a tick")));
        assert_eq!(agenda.take_call(4), None);
    }
}
