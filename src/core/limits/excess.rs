//! What a client gets to know of a limit that is used up.

use core::time::Duration;

use super::account::Limit;
use crate::prelude::*;
use crate::time::Pretty;

/// How a client stands with one of its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The limit.
    pub limit: Limit,
    /// How much there is of it.
    pub most: u64,
    /// How much of it is left.
    pub left: u64,
    /// How long until something is left.
    pub wait: Duration,
    /// How long until all of it is there again.
    pub reset: Duration,
}

/// A limit that is used up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excess {
    /// The limit that is used up the longest.
    pub exceeded: Standing,
    /// The client's limits.
    all: [Option<Standing>; Limit::ALL.len()],
}

impl Excess {
    pub(super) fn new(exceeded: Standing, all: [Option<Standing>; Limit::ALL.len()]) -> Self {
        Self { exceeded, all }
    }

    /// Why the request was refused, for the access log.
    pub fn details(&self) -> &'static str {
        match self.exceeded.limit {
            Limit::TokensPerMinute => "client_over_tokens_per_minute",
            Limit::TokensPerDay => "client_over_tokens_per_day",
            Limit::RequestsPerMinute => "client_over_requests_per_minute",
        }
    }

    /// What is used up, whose it is, and when there is more, for the client.
    #[inline(never)]
    pub fn message(&self, client: Option<&str>) -> String {
        let (whose, what) = (whose(client), self.what());
        format!(
            "This gateway limits {whose} to {what}, which are used up. Try again in {}.",
            Pretty(self.exceeded.wait)
        )
    }

    /// The same for the log, which has it once in a window.
    #[inline(never)]
    pub(super) fn log_line(&self, client: Option<&str>) -> String {
        format!(
            "{}: {} are used up; requests are answered 429, for {} at least",
            whose(client),
            self.what(),
            Pretty(self.exceeded.wait)
        )
    }

    /// `10000 tokens per minute`.
    fn what(&self) -> String {
        let unit = match self.exceeded.limit {
            Limit::TokensPerMinute => "tokens per minute",
            Limit::TokensPerDay => "tokens per day (UTC)",
            Limit::RequestsPerMinute => "requests per minute",
        };
        format!("{} {unit}", self.exceeded.most)
    }

    /// The headers by which OpenAI's clients know how they stand, and whether to try again by themselves.
    ///
    /// Sources: <https://platform.openai.com/docs/guides/rate-limits>, and `_should_retry` of the SDKs of OpenAI and Anthropic.
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
        /// The SDKs wait no longer than that before they try again.
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
