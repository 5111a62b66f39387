//! The tokens that a backend's answers have reported.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use crate::azure::Reply;

/// Sums of the tokens that answers have reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Of prompts, those from a cache included.
    pub prompt: u64,
    /// Of completions, those of reasoning included.
    pub completion: u64,
    /// Of prompts, from a cache.
    pub cached: u64,
    /// Of completions, spent on reasoning.
    pub reasoning: u64,
}

/// An account that requests share, once it is open: benchmarks need none, and answers are read for it.
#[derive(Debug, Default)]
pub(crate) struct SharedAccount(Mutex<Option<Account>>);

impl SharedAccount {
    /// Begins to count.
    pub(crate) fn open(&self) {
        self.lock().get_or_insert_default();
    }

    /// The sums since it was opened.
    pub(crate) fn sums(&self) -> Account {
        self.lock().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Account>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what an answer reports, as if its client gets all of it.
    pub(crate) fn add(&self, reply: &Reply) {
        if self.lock().is_none() {
            return;
        }
        let documents: Vec<Value> = match reply {
            Reply::Whole("application/json", body) => {
                serde_json::from_slice(body).into_iter().collect()
            }
            Reply::Events(events) => events
                .iter()
                .filter_map(|event| serde_json::from_str(event.text()).ok())
                .collect(),
            _ => Vec::new(),
        };
        let usage = |document: &Value| {
            let usage = [&document["usage"], &document["response"]["usage"]];
            usage.into_iter().find(|usage| usage.is_object()).cloned()
        };
        let Some(usage) = documents.iter().rev().find_map(usage) else {
            return;
        };
        let either = |one: &str, other: &str| {
            let found = usage.pointer(one).or_else(|| usage.pointer(other));
            found.and_then(Value::as_u64).unwrap_or_default()
        };
        let mut account = self.lock();
        let Some(sums) = account.as_mut() else {
            return;
        };
        sums.prompt += either("/prompt_tokens", "/input_tokens");
        sums.completion += either("/completion_tokens", "/output_tokens");
        sums.cached += either(
            "/prompt_tokens_details/cached_tokens",
            "/input_tokens_details/cached_tokens",
        );
        sums.reasoning += either(
            "/completion_tokens_details/reasoning_tokens",
            "/output_tokens_details/reasoning_tokens",
        );
    }
}
