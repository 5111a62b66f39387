//! A worker's agenda: the waiting streams, the calls for streams, and the time of the next tick.

use core::time::Duration;

use super::{Awaited, Balancer, WaitResult, WaitingList, POLL};
use crate::host::Host;
use crate::prelude::*;
use crate::time::Timestamp;

/// The usual tick period. A worker reads all shared state once per period.
const CALM: Duration = Duration::from_secs(1);

/// The period of a tick that comes almost at once, for work that only a tick can do.
pub const NOW: Duration = Duration::from_millis(1);

/// The result of starting a stream's wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Began {
    /// The stream cannot wait: the waiting list is full, or what it waits for cannot come in time.
    Refused,
    /// The next tick is early enough.
    Waits,
    /// A tick must come at once to set the time of the next one.
    NeedsTick,
}

/// The agenda of one worker. `T` is a stream.
pub struct Agenda<T> {
    waiting: WaitingList<T>,
    /// Calls for streams that were made in a callback of the root context, each with its stream's id.
    calls: Vec<(u32, (u32, T))>,
    /// The time of the next tick, as set by the last one.
    ticks_at: Timestamp,
    /// The time of the last full tick.
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
        awaited: Awaited,
        balancer: &Balancer<H>,
        now: Timestamp,
    ) -> Began {
        // Nearly every event stream waits for its start, and few wait to the end. The next tick is mostly early enough.
        let is_early_enough = match &awaited {
            Awaited::StreamStart(longest) => self.ticks_at <= now + *longest,
            _ => false,
        };
        let credentials = &balancer.credentials;
        match self.waiting.add(id, stream, awaited, credentials, now) {
            false => Began::Refused,
            true if is_early_enough => Began::Waits,
            true => Began::NeedsTick,
        }
    }

    /// Removes a stream from the waiting list.
    pub fn forget(&mut self, id: u32) {
        self.waiting.remove(id);
    }

    /// Removes the streams whose wait is over from the waiting list, see [`WaitingList::take_ended`].
    pub fn take_ended<H: Host>(
        &mut self,
        balancer: &Balancer<H>,
        now: Timestamp,
    ) -> Vec<(u32, T, WaitResult)> {
        self.waiting.take_ended(balancer, now)
    }

    /// Notes that a callback of the root context runs for a stream, or has ended.
    pub fn set_root_running(&mut self, is_running: bool) {
        self.root_is_running = is_running;
    }

    /// Registers a stream's call, if a callback of the root context made it. Envoy then answers the root context.
    pub fn call_made(&mut self, call: u32, id: u32, stream: T) {
        if self.root_is_running {
            self.calls.push((call, (id, stream)));
        }
    }

    /// Removes a call from the list, and returns its stream with the stream's id. The oldest calls come first, and are
    /// mostly answered first.
    pub fn take_call(&mut self, call: u32) -> Option<(u32, T)> {
        let at = self.calls.iter().position(|(known, _)| *known == call)?;
        Some(self.calls.remove(at).1)
    }

    /// Whether this tick reads all shared state, which happens once a second.
    pub fn is_full_tick(&mut self, now: Timestamp) -> bool {
        let is_full = (self.looked_at + CALM).has_passed(now, CALM);
        if is_full {
            self.looked_at = now;
        }
        is_full
    }

    /// The time from `now` to the next tick.
    pub fn next_tick<H: Host>(&mut self, balancer: &Balancer<H>, now: Timestamp) -> Duration {
        // While a token may arrive, a worker without one polls often: another worker may fetch it.
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
    fn full_ticks_come_once_a_second() {
        let at = |millis: u64| Timestamp::from_millis(1_700_000_000_000 + millis);
        let mut agenda = Agenda::<u32>::default();
        let is_full = [0, 20, 999, 1000, 1001, 2500].map(|millis| agenda.is_full_tick(at(millis)));
        assert_eq!(is_full, [true, false, false, true, false, true]);
        // After the clock was set back, ticks do not wait for the old time.
        assert!(agenda.is_full_tick(at(0) + Duration::ZERO));
    }

    #[test]
    fn calls_of_the_root_context_are_taken_once() {
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
