//! Attempts that test a cooldown: at most one a second, and fewer the more often they confirm it.

use core::time::Duration;

use crate::codec::{Fields, Writer};
use crate::hash::scatter;
use crate::time::Timestamp;

/// The longest pause between two trials.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// The trials of one cooldown.
///
/// While all backends of a request are in cooldown, one attempt is made anyway. So an unneeded wait ends within a
/// second, and no client can close a backend for other clients for longer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Trials {
    last: Timestamp,
    /// The number of refusals since the last success.
    refusals: u8,
}

impl Trials {
    /// The pause until the next trial: 1, 1, 1, 2, 4, 8 seconds, plus a random half at most.
    ///
    /// Without the random part, a client with regular requests that are all refused would make every trial.
    fn pause(&self) -> Duration {
        let doublings = u32::from(self.refusals.saturating_sub(3)).min(8);
        let pause = Duration::from_secs(1 << doublings).min(LONGEST_PAUSE);
        let jitter = scatter(self.last.as_millis()) % 1024;
        pause + pause * jitter as u32 / 2048
    }

    /// Whether a trial is due.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        (self.last + self.pause()).has_passed(now, self.pause())
    }

    /// Notes the start of a trial.
    pub(super) fn begin(&mut self, now: Timestamp) {
        self.last = now;
    }

    /// Begins a trial, if one is due.
    pub(super) fn claim(&mut self, now: Timestamp) -> bool {
        let due = self.is_due(now);
        if due {
            self.begin(now);
        }
        due
    }

    /// Notes a refused request.
    pub(super) fn refused(&mut self) {
        self.refusals = self.refusals.saturating_add(1);
    }

    /// Notes a served request.
    pub(super) fn served(&mut self) {
        self.refusals = 0;
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.time(self.last);
        writer.u8(self.refusals);
    }

    pub(super) fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            last: fields.time()?,
            refusals: fields.u8()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prelude::*;

    #[test]
    fn trials_are_made_less_often_while_they_are_refused() {
        let start = Timestamp::from_secs(1_700_000_000);
        let mut trials = Trials::default();
        trials.refused();
        let mut at = Vec::new();
        for millis in 0..60_000 {
            if trials.claim(start + Duration::from_millis(millis)) {
                trials.refused();
                at.push(millis);
            }
        }
        let pauses: Vec<_> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
        for (pause, least) in pauses.iter().zip([1000, 1000, 2000, 4000, 8000, 8000]) {
            assert!((least..least * 3 / 2).contains(pause), "{pauses:?}");
        }
        assert!(pauses[0] != pauses[1], "at random");
        trials.served();
        assert!(trials.is_due(start + Duration::from_millis(at[at.len() - 1] + 1500)));
    }
}
