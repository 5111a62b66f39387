//! The tokens left of the backends' quotas, as answers report them.

use core::time::Duration;

use crate::demand::QuotaKey;
use crate::prelude::*;
use crate::time::Timestamp;

/// How long a reported value is used.
const LASTS: Duration = Duration::from_secs(60);

/// The most quotas of one backend. The oldest report is dropped first.
const MOST: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Capacity {
    quota: QuotaKey,
    tokens: u32,
    at: Timestamp,
}

/// The tokens left, by backend and quota.
#[derive(Clone, Debug)]
pub(super) struct Capacities(Vec<Vec<Capacity>>);

impl Capacities {
    pub(super) fn new(backends: usize) -> Self {
        Self(vec![Vec::new(); backends])
    }

    /// Records a reported number of tokens. Some backends report 0 or -1 for "unknown".
    pub(super) fn set(&mut self, backend: usize, quota: QuotaKey, tokens: i64, at: Timestamp) {
        let Some(known) = self.0.get_mut(backend) else {
            return;
        };
        known.retain(|capacity| capacity.quota != quota);
        if tokens <= 0 {
            return;
        }
        if known.len() >= MOST {
            known.remove(0);
        }
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        known.push(Capacity { quota, tokens, at });
    }

    /// The tokens left of a quota, if an answer reported them recently.
    pub(super) fn get(&self, backend: usize, quota: QuotaKey, now: Timestamp) -> Option<u32> {
        let mut known = self.0.get(backend)?.iter();
        let capacity = known.find(|capacity| capacity.quota == quota)?;
        (!(capacity.at + LASTS).has_passed(now, LASTS)).then_some(capacity.tokens)
    }
}
