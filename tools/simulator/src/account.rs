//! The tokens reported in a backend's answers.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use crate::azure::Reply;

/// Sums of the tokens that answers have reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Tokens of prompts, including cached ones.
    pub prompt: u64,
    /// Tokens of completions, including those of reasoning.
    pub completion: u64,
    /// Cached tokens of prompts.
    pub cached: u64,
    /// Tokens of completions that were spent on reasoning.
    pub reasoning: u64,
}

impl AddAssign for Account {
    fn add_assign(&mut self, other: Self) {
        self.prompt += other.prompt;
        self.completion += other.completion;
        self.cached += other.cached;
        self.reasoning += other.reasoning;
    }
}

impl Account {
    /// The tokens that an answer reports; `None` if it reports none.
    fn of(reply: &Reply) -> Option<Self> {
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
        let usages = documents.iter().flat_map(|document| {
            let holders = [document, &document["response"], &document["message"]];
            holders.map(|holder| &holder["usage"])
        });
        let usages: Vec<&Value> = usages.filter(|usage| usage.is_object()).collect();
        usages.first()?;
        // The last event that has the tokens: an Anthropic stream reports the prompt at its beginning.
        let last = |paths: &[&str]| {
            let mut all = usages.iter().rev();
            let of = |usage: &&Value| {
                let found = paths.iter().find_map(|path| usage.pointer(path));
                found.and_then(Value::as_u64)
            };
            all.find_map(of).unwrap_or_default()
        };
        let beside = last(&["/cache_read_input_tokens"]);
        Some(Self {
            prompt: last(&["/prompt_tokens", "/input_tokens"])
                + beside
                + last(&["/cache_creation_input_tokens"]),
            completion: last(&["/completion_tokens", "/output_tokens"]),
            cached: beside
                + last(&[
                    "/prompt_tokens_details/cached_tokens",
                    "/input_tokens_details/cached_tokens",
                ]),
            reasoning: last(&[
                "/completion_tokens_details/reasoning_tokens",
                "/output_tokens_details/reasoning_tokens",
            ]),
        })
    }
}

/// The request header that names the account for the answer's tokens.
pub(crate) const ACCOUNT: &str = "x-sim-account";

/// The accounts of a backend. They are closed at first, because reading answers would slow benchmarks down.
#[derive(Debug, Default)]
pub(crate) struct SharedAccounts(Mutex<Option<BTreeMap<String, Account>>>);

impl SharedAccounts {
    /// Opens the accounts.
    pub(crate) fn open(&self) {
        self.lock().get_or_insert_default();
    }

    /// The sums since the opening, by the names of the accounts.
    pub(crate) fn sums(&self) -> BTreeMap<String, Account> {
        self.lock().clone().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Option<BTreeMap<String, Account>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the tokens that an answer reports to the account of this name. Assumes that the client gets the whole
    /// answer.
    pub(crate) fn add(&self, name: &str, reply: &Reply) {
        if self.lock().is_none() {
            return;
        }
        let Some(account) = Account::of(reply) else {
            return;
        };
        if let Some(accounts) = self.lock().as_mut() {
            *accounts.entry(name.to_owned()).or_default() += account;
        }
    }
}
