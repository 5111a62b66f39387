//! The deployments and APIs that a backend said it does not have.

use std::time::Duration;

use super::is_ahead;
use crate::core::shared::{Fields, Writer};
use crate::core::time::Timestamp;

/// More are not remembered of one backend; the oldest goes first.
const MOST: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    id: u64,
    until: Timestamp,
}

/// What one backend lacks, each until a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Missing(Vec<Entry>);

impl Missing {
    /// Whether the backend is known to lack this.
    pub(super) fn contains(&self, id: u64, now: Timestamp) -> bool {
        let mut entries = self.0.iter();
        entries.any(|entry| entry.id == id && is_ahead(entry.until, now))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Remembers for this time that the backend lacks it. `false` if that is no news.
    pub(super) fn add(&mut self, id: u64, wait: Duration, now: Timestamp) -> bool {
        if wait.is_zero() || self.contains(id, now) {
            return false;
        }
        self.0.retain(|entry| entry.id != id);
        if self.0.len() >= MOST {
            self.0.remove(0);
        }
        let until = now + wait;
        self.0.push(Entry { id, until });
        true
    }

    /// Forgets what may be there by now.
    pub(super) fn tidy(&mut self, now: Timestamp) {
        self.0.retain(|entry| is_ahead(entry.until, now));
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.length(self.0.len());
        for entry in &self.0 {
            writer.u64(entry.id);
            writer.time(entry.until);
        }
    }

    pub(super) fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let entries = (0..fields.u8()?).map(|_| {
            Some(Entry {
                id: fields.u64()?,
                until: fields.time()?,
            })
        });
        entries.collect::<Option<_>>().map(Self)
    }
}
