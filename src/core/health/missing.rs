//! The deployments and APIs that a backend reported as missing.

use core::time::Duration;

use super::lasts;
use crate::codec::{Fields, Writer};
use crate::demand::LackId;
use crate::prelude::*;
use crate::time::Timestamp;

/// The most entries for one backend. The oldest entry is dropped first.
const MOST: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    id: LackId,
    since: Timestamp,
    until: Timestamp,
}

impl Entry {
    fn lasts(&self, now: Timestamp) -> bool {
        lasts(self.since, self.until, now)
    }
}

/// The missing deployments and APIs of one backend, each with an expiry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Missing(Vec<Entry>);

impl Missing {
    /// Whether the backend is known to lack this deployment or API.
    pub(super) fn contains(&self, id: LackId, now: Timestamp) -> bool {
        let mut entries = self.0.iter();
        entries.any(|entry| entry.id == id && entry.lasts(now))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Notes for `wait` that the backend lacks the deployment or API. `false` if that is already known.
    pub(super) fn add(&mut self, id: LackId, wait: Duration, now: Timestamp) -> bool {
        if wait.is_zero() || self.contains(id, now) {
            return false;
        }
        self.0.retain(|entry| entry.id != id);
        if self.0.len() >= MOST {
            self.0.remove(0);
        }
        self.0.push(Entry {
            id,
            since: now,
            until: now + wait,
        });
        true
    }

    /// Drops expired entries.
    pub(super) fn tidy(&mut self, now: Timestamp) {
        self.0.retain(|entry| entry.lasts(now));
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.length(self.0.len());
        for entry in &self.0 {
            writer.u64(entry.id.number());
            writer.time(entry.since);
            writer.time(entry.until);
        }
    }

    pub(super) fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let entries = (0..fields.u8()?).map(|_| {
            Some(Entry {
                id: LackId::from_number(fields.u64()?),
                since: fields.time()?,
                until: fields.time()?,
            })
        });
        entries.collect::<Option<_>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::{at, roundtrip, START};

    const WAIT: Duration = Duration::from_secs(600);

    fn id(number: u64) -> LackId {
        LackId::from_number(number)
    }

    #[test]
    fn missing_deployments_are_forgotten_in_time() {
        let mut missing = Missing::default();
        assert!(missing.add(id(7), WAIT, START));
        assert!(!missing.add(id(7), WAIT, at(1)), "already known");
        assert!(missing.contains(id(7), at(599_999)) && !missing.contains(id(8), START));
        assert!(!missing.contains(id(7), at(600_000)));
        missing.tidy(at(600_000));
        assert!(missing.is_empty());
    }

    #[test]
    fn the_oldest_of_too_many_is_forgotten() {
        let mut missing = Missing::default();
        for number in 0..=MOST as u64 {
            assert!(missing.add(id(number), WAIT, START));
        }
        assert!(!missing.contains(id(0), START) && missing.contains(id(1), START));
        assert_eq!(
            roundtrip(&missing, Missing::encode, Missing::decode),
            missing
        );
    }

    #[test]
    fn a_zero_wait_records_nothing() {
        assert!(!Missing::default().add(id(7), Duration::ZERO, START));
    }
}
