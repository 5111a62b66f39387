//! The recovery of a backend after a cooldown.

use core::time::Duration;

use crate::codec::{Fields, Writer};
use crate::time::Timestamp;

/// The number of concurrent attempts at which a recovery is complete.
const COMPLETE: u8 = 16;

/// A recovery: one attempt at a time, then two, four, eight. Each success doubles the number.
///
/// The number is a preference, not a limit. If no other backend is free, a recovering backend gets every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Recovery {
    limit: u8,
    out: u8,
    last: Timestamp,
}

impl Default for Recovery {
    fn default() -> Self {
        Self {
            limit: 1,
            out: 0,
            last: Timestamp::default(),
        }
    }
}

/// The meaning of an attempt without an outcome after some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// The attempt was accepted: a throttled backend refuses at once.
    IsConsent,
    /// The attempt may have been lost with its worker.
    IsLoss,
}

impl Silence {
    const fn patience(self) -> Duration {
        match self {
            Self::IsConsent => Duration::from_secs(1),
            Self::IsLoss => Duration::from_secs(10),
        }
    }
}

impl Recovery {
    /// Whether an attempt may begin.
    pub(super) fn admits(&self, silence: Silence, now: Timestamp) -> bool {
        self.out < self.limit || self.is_overdue(silence, now)
    }

    /// Begins an attempt, if one is allowed.
    pub(super) fn admit(&mut self, silence: Silence, now: Timestamp) -> bool {
        if !self.admits(silence, now) {
            return false;
        }
        if self.out > 0 && self.is_overdue(silence, now) {
            self.out = 0;
            if silence == Silence::IsConsent {
                self.limit = self.limit.saturating_mul(2);
            }
        }
        self.out = self.out.saturating_add(1);
        self.last = now;
        true
    }

    fn is_overdue(&self, silence: Silence, now: Timestamp) -> bool {
        let patience = silence.patience();
        (self.last + patience).has_passed(now, patience)
    }

    /// Notes that an admitted attempt ended without a useful outcome.
    pub(super) fn leave(&mut self) {
        self.out = self.out.saturating_sub(1);
    }

    /// Notes a successful attempt.
    pub(super) fn succeed(&mut self) {
        self.leave();
        self.limit = self.limit.saturating_mul(2);
    }

    /// Whether the backend has recovered.
    pub(super) fn is_complete(&self) -> bool {
        self.limit >= COMPLETE
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.u8(self.limit);
        writer.u8(self.out);
        writer.time(self.last);
    }

    pub(super) fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            limit: fields.u8()?,
            out: fields.u8()?,
            last: fields.time()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_secs(1_700_000_000);

    #[test]
    fn each_success_doubles_the_concurrent_attempts() {
        let mut recovery = Recovery::default();
        for allowed in [1, 2, 4, 8] {
            for _ in 0..allowed {
                assert!(recovery.admit(Silence::IsLoss, START), "{allowed}");
            }
            assert!(!recovery.admit(Silence::IsLoss, START), "{allowed}");
            assert!(!recovery.is_complete());
            for _ in 1..allowed {
                recovery.leave();
            }
            recovery.succeed();
        }
        assert!(recovery.is_complete());
    }

    #[test]
    fn a_lost_attempt_makes_room_for_one_more_only() {
        let mut recovery = Recovery::default();
        assert!(recovery.admit(Silence::IsLoss, START));
        let later = START + Duration::from_secs(10);
        assert!(!recovery.admits(Silence::IsLoss, START + Duration::from_millis(9999)));
        assert!(recovery.admit(Silence::IsLoss, later));
        assert!(!recovery.admits(Silence::IsLoss, later));
    }

    #[test]
    fn silence_of_a_throttled_backend_counts_as_success() {
        let mut recovery = Recovery::default();
        assert!(recovery.admit(Silence::IsConsent, START));
        let later = START + Duration::from_secs(1);
        assert!(recovery.admit(Silence::IsConsent, later));
        assert!(recovery.admit(Silence::IsConsent, later));
        assert!(!recovery.admits(Silence::IsConsent, later));
    }
}
