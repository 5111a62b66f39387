//! Retries: the engine, the attempts and their limits.

use core::time::Duration;

use serde_json::Value;

use super::fields::{budget, plugin, retry};
use super::reader::{refused, whole_number, Object, Problems};
use crate::prelude::*;

/// The largest number of attempts for a request, including the first.
pub const MAX_ATTEMPTS: usize = 5;

/// Statuses after which another backend may do better: throttling, timeouts and server errors.
// Anthropic answers 529 when it is overloaded.
pub(super) const RETRIABLE_STATUSES: [u16; 7] = [408, 429, 500, 502, 503, 504, 529];

/// The engine that carries out retries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// The filter, by HTTP calls of its own. It works on every Envoy, but a re-issued answer arrives as a whole.
    #[default]
    Filter,
    /// Envoy's router, which follows the filter's plan. Answers always stream. Envoy 1.39 or later.
    Router,
}

/// When and how requests are retried.
#[derive(Clone, Debug)]
pub struct Retry {
    /// The engine that carries out retries.
    pub engine: Engine,
    /// The number of attempts, including the first: 1 to [`MAX_ATTEMPTS`].
    pub max_attempts: u8,
    /// The statuses that send a request to the next backend.
    pub statuses: Vec<u16>,
    /// The time limit of an attempt: until the headers of its answer, or until the end of a re-issued answer.
    pub per_try_timeout: Duration,
    /// How long an event stream is held for its first content, so that an earlier error is retried. Zero disables it.
    pub stream_start: Duration,
    /// How long an event stream may be silent before the filter resets it. `None` applies Envoy's own limit.
    pub stream_idle_timeout: Option<Duration>,
    /// The largest request body that is kept for a retry, in bytes.
    pub replay_limit: usize,
    /// The memory of one worker for all kept request bodies, in bytes.
    pub replay_memory: usize,
    /// Whether creations are retried although the first attempt may have succeeded.
    pub repeat_creations: bool,
    /// The limit of retries after failures, over all requests. `None` disables it.
    pub budget: Option<Budget>,
}

/// The limit of retries after failures, over all requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Retries as a share of the requests, in percent.
    pub percent: u8,
    /// Retries per second in addition to that share.
    pub min_per_second: u16,
}

#[inline(never)]
pub(super) fn read_retry(root: &mut Object<'_>, problems: &Problems) -> Option<Retry> {
    let mut object = root.object_or_empty(&plugin::RETRY)?;
    let engine = object.choice(&retry::ENGINE);
    let max_attempts = object.integer(&retry::MAX_ATTEMPTS);
    let statuses = match object.value(retry::STATUSES.name) {
        None => RETRIABLE_STATUSES.to_vec(),
        Some(list) => read_statuses(&object, list, problems),
    };
    let per_try_timeout = object.duration(&retry::PER_TRY_TIMEOUT);
    let stream_start = object.duration(&retry::STREAM_START);
    let stream_idle_timeout = object.optional_duration(&retry::STREAM_IDLE_TIMEOUT);
    let replay_limit = object.size(&retry::REPLAY_LIMIT);
    let replay_memory = object.size(&retry::REPLAY_MEMORY);
    let repeat_creations = object.flag(&retry::REPEAT_CREATIONS);
    let budget = match object.is_null(&retry::BUDGET) {
        true => None,
        false => Some(read_budget(&mut object)?),
    };
    object.finish();
    Some(Retry {
        engine,
        max_attempts: u8::try_from(max_attempts).unwrap_or(u8::MAX),
        statuses,
        per_try_timeout,
        stream_start,
        stream_idle_timeout,
        replay_limit,
        replay_memory,
        repeat_creations,
        budget,
    })
}

#[inline(never)]
fn read_budget(root: &mut Object<'_>) -> Option<Budget> {
    let mut object = root.object_or_empty(&retry::BUDGET)?;
    let percent = object.integer(&budget::PERCENT);
    let min_per_second = object.integer(&budget::MIN_PER_SECOND);
    object.finish();
    Some(Budget {
        percent: u8::try_from(percent).unwrap_or(100),
        min_per_second: u16::try_from(min_per_second).unwrap_or(u16::MAX),
    })
}

#[inline(never)]
fn read_statuses(object: &Object<'_>, list: &Value, problems: &Problems) -> Vec<u16> {
    if list.as_array().is_some_and(Vec::is_empty) {
        object.problem(
            retry::STATUSES.name,
            "an empty list is not allowed; use max_attempts 1 to disable retries",
        );
        return Vec::new();
    }
    object
        .list(retry::STATUSES.name, list, retry::STATUSES.form)
        .filter_map(|(path, value)| {
            let status = whole_number(value)
                .and_then(|number| u16::try_from(number).ok())
                // 401 has its own rule: its error code decides between a new token and the next backend.
                .filter(|status| (400..600).contains(status) && *status != 401);
            if status.is_none() {
                problems.add(
                    &path,
                    refused(value, "a status from 400 to 599, except 401"),
                );
            }
            status
        })
        .collect()
}
