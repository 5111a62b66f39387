//! The time in which a failing or throttled backend gets no requests.

use core::time::Duration;

use super::fields::{cooldown, plugin};
use super::reader::Object;

/// Cooldown per cause.
#[derive(Clone, Debug)]
pub struct Cooldown {
    /// The wait after a 429 that states none.
    pub throttled: Duration,
    /// The shortest wait after a 429.
    pub shortest: Duration,
    /// The longest wait after a 429, and the longest cooldown after failures. Zero disables both.
    pub longest: Duration,
    /// The first cooldown after failures. It doubles each time the backend fails again right after it.
    pub failing: Duration,
    /// The number of failures in a row that starts a cooldown.
    pub consecutive_failures: u32,
    /// The share of failed attempts that starts a cooldown, in percent.
    pub failure_percent: u8,
    /// The cooldown after a refused identity, and the time for which a deployment counts as missing. Zero disables both.
    pub misconfigured: Duration,
    /// How long a request may wait for a backend when all are in cooldown.
    pub wait_timeout: Duration,
}

#[inline(never)]
pub(super) fn read_cooldown(root: &mut Object<'_>) -> Option<Cooldown> {
    if root.is_null(&plugin::COOLDOWN) {
        return Some(Cooldown::NONE);
    }
    let mut object = root.object_or_empty(&plugin::COOLDOWN)?;
    let throttled = object.duration(&cooldown::THROTTLED);
    let shortest = object.duration(&cooldown::SHORTEST);
    let longest = object.duration(&cooldown::LONGEST);
    let failing = object.duration(&cooldown::FAILING);
    let consecutive_failures = object.integer(&cooldown::CONSECUTIVE_FAILURES);
    let failure_percent = object.integer(&cooldown::FAILURE_PERCENT);
    let misconfigured = object.duration(&cooldown::MISCONFIGURED);
    let wait_timeout = object.duration(&cooldown::WAIT_TIMEOUT);
    if shortest > longest {
        object.problem(
            cooldown::SHORTEST.name,
            "is longer than cooldown.longest (5m by default); use at most that",
        );
    }
    object.finish();
    Some(Cooldown {
        throttled,
        shortest,
        longest,
        failing,
        consecutive_failures: u32::try_from(consecutive_failures).unwrap_or(u32::MAX),
        failure_percent: u8::try_from(failure_percent).unwrap_or(100),
        misconfigured,
        wait_timeout,
    })
}

impl Cooldown {
    /// No cooldowns, for `null`.
    const NONE: Self = Self {
        throttled: Duration::ZERO,
        shortest: Duration::ZERO,
        longest: Duration::ZERO,
        failing: Duration::ZERO,
        consecutive_failures: u32::MAX,
        failure_percent: 100,
        misconfigured: Duration::ZERO,
        wait_timeout: Duration::ZERO,
    };
}
