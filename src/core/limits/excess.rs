//! Messages and headers about a used-up limit.

use core::time::Duration;

use super::account::Limit;
use crate::prelude::*;
use crate::time::Pretty;

/// The state of one of a client's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The limit.
    pub limit: Limit,
    /// The amount per window.
    pub most: u64,
    /// The amount left.
    pub left: u64,
    /// The time until something is left.
    pub wait: Duration,
    /// The time until the whole amount is left.
    pub reset: Duration,
}

/// A used-up limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excess {
    /// The used-up limit with the longest wait.
    pub exceeded: Standing,
    /// The states of the client's limits.
    all: [Option<Standing>; Limit::ALL.len()],
}

impl Excess {
    pub(super) fn new(exceeded: Standing, all: [Option<Standing>; Limit::ALL.len()]) -> Self {
        Self { exceeded, all }
    }

    /// The reason for the refusal, for the access log.
    pub fn details(&self) -> &'static str {
        match self.exceeded.limit {
            Limit::TokensPerMinute => "client_over_tokens_per_minute",
            Limit::TokensPerDay => "client_over_tokens_per_day",
            Limit::RequestsPerMinute => "client_over_requests_per_minute",
        }
    }

    /// The message for the client: the limit, its owner and the wait.
    #[inline(never)]
    pub fn message(&self, client: Option<&str>) -> String {
        let (whose, what) = (whose(client), self.what());
        format!(
            "This gateway limits {whose} to {what}, which are used up. Try again in {}.",
            Pretty(self.exceeded.wait)
        )
    }

    /// The message for the log, once per window.
    #[inline(never)]
    pub(super) fn log_line(&self, client: Option<&str>) -> String {
        format!(
            "{}: {} are used up; requests are answered 429 for at least {}",
            whose(client),
            self.what(),
            Pretty(self.exceeded.wait)
        )
    }

    /// The amount and its unit, such as `10000 tokens per minute`.
    fn what(&self) -> String {
        let unit = match self.exceeded.limit {
            Limit::TokensPerMinute => "tokens per minute",
            Limit::TokensPerDay => "tokens per day (UTC)",
            Limit::RequestsPerMinute => "requests per minute",
        };
        format!("{} {unit}", self.exceeded.most)
    }

    /// The headers that tell OpenAI's clients their limits and whether to retry.
    ///
    /// Sources: <https://platform.openai.com/docs/guides/rate-limits>, and `_should_retry` of the SDKs of OpenAI and
    /// Anthropic.
    #[inline(never)]
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let of = |limit: Limit| self.all.get(limit as usize).copied().flatten();
        let tokens = match self.exceeded.limit {
            Limit::RequestsPerMinute => of(Limit::TokensPerMinute).or(of(Limit::TokensPerDay)),
            _ => Some(self.exceeded),
        };
        let requests = of(Limit::RequestsPerMinute);
        let mut headers = Vec::new();
        let names = [
            [
                "x-ratelimit-limit-tokens",
                "x-ratelimit-remaining-tokens",
                "x-ratelimit-reset-tokens",
            ],
            [
                "x-ratelimit-limit-requests",
                "x-ratelimit-remaining-requests",
                "x-ratelimit-reset-requests",
            ],
        ];
        for (standing, [limit, remaining, reset]) in [tokens, requests].into_iter().zip(names) {
            if let Some(standing) = standing {
                headers.extend([
                    (limit, standing.most.to_string()),
                    (remaining, standing.left.to_string()),
                    (reset, Pretty(standing.reset).to_string()),
                ]);
            }
        }
        /// The longest wait after which the SDKs retry by themselves.
        const LONGEST: Duration = Duration::from_secs(60);
        if self.exceeded.wait > LONGEST {
            headers.push(("x-should-retry", "false".to_owned()));
        }
        headers
    }
}

fn whose(client: Option<&str>) -> String {
    match client {
        Some(client) => format!("client {client}"),
        None => "all clients without a name together".to_owned(),
    }
}
