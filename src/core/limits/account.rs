//! The account of one client, which workers share.

use super::bucket::{is_due, Bucket, Rate, Window};
use super::excess::{Excess, Standing};
use crate::codec::Fields;
use crate::config::Limits;
use crate::prelude::*;
use crate::time::Timestamp;

/// A limit of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Tokens a minute.
    TokensPerMinute,
    /// Tokens a day.
    TokensPerDay,
    /// Requests a minute.
    RequestsPerMinute,
}

impl Limit {
    /// Every limit.
    pub const ALL: [Self; 3] = [
        Self::TokensPerMinute,
        Self::TokensPerDay,
        Self::RequestsPerMinute,
    ];

    /// Whether the limit is of tokens.
    pub fn is_of_tokens(self) -> bool {
        self != Self::RequestsPerMinute
    }

    /// The amount and window of the limit in `limits`, if it is set.
    fn rate(self, limits: &Limits) -> Option<Rate> {
        let (most, window) = match self {
            Self::TokensPerMinute => (limits.tokens_per_minute, Window::Minute),
            Self::TokensPerDay => (limits.tokens_per_day, Window::Day),
            Self::RequestsPerMinute => (limits.requests_per_minute, Window::Minute),
        };
        let most = most?;
        Some(Rate { most, window })
    }
}

/// A request's use of limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// Whether the request's answer may take tokens.
    pub takes_tokens: bool,
    /// The size of the request's body in bytes, if announced.
    pub bytes: Option<u64>,
}

/// The estimated tokens of a request. They are settled when the real number is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Charge {
    /// The estimated tokens of the prompt.
    pub tokens: u64,
    /// The size of the request's body in bytes, if known.
    pub bytes: Option<u64>,
}

/// The number of tokens in [`DENSE`] bytes of a request's body.
pub(super) type Density = u32;

/// The number of bytes for which a [`Density`] counts tokens.
const DENSE: u64 = 1 << 20;

/// One token for four bytes, as in English prose.
///
/// Source: <https://help.openai.com/en/articles/4936856-what-are-tokens-and-how-to-count-them>
const PROSE: Density = 1 << 18;

/// The used part of one client's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Account {
    /// In the order of [`Limit::ALL`].
    buckets: [Bucket; Limit::ALL.len()],
    /// The time when the log last reported each limit as exceeded, in the same order.
    logged_at: [Timestamp; Limit::ALL.len()],
    /// The density of tokens in the client's request bodies.
    density: Density,
}

impl Default for Account {
    fn default() -> Self {
        Self {
            buckets: Default::default(),
            logged_at: Default::default(),
            density: PROSE,
        }
    }
}

/// The decision about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// The request may pass.
    Charged(Charge),
    /// The request exceeds a limit. `true` if the log has not reported it in this window.
    Refused(Box<Excess>, bool),
}

impl Account {
    /// The size of an encoded account in bytes.
    pub(super) const SIZE: usize = 8 * 2 * Limit::ALL.len() + 8 * Limit::ALL.len() + 4;

    /// Takes the request's share of the limits, unless one is used up.
    pub(super) fn take(&mut self, limits: &Limits, ask: Ask, now: Timestamp) -> Taken {
        let mut standings = [None; Limit::ALL.len()];
        let mut exceeded: Option<(usize, Standing)> = None;
        let all = Limit::ALL.into_iter().zip(&mut self.buckets);
        for (at, ((limit, bucket), slot)) in all.zip(&mut standings).enumerate() {
            let Some(rate) = limit.rate(limits) else {
                continue;
            };
            bucket.pay_back(rate, now);
            let standing = Standing {
                limit,
                most: rate.most,
                left: bucket.left(rate),
                wait: bucket.wait(rate, now),
                reset: bucket.reset(rate, now),
            };
            *slot = Some(standing);
            let concerns = ask.takes_tokens || !limit.is_of_tokens();
            let is_longest = exceeded.is_none_or(|(_, longest)| longest.wait < standing.wait);
            if concerns && standing.left == 0 && is_longest {
                exceeded = Some((at, standing));
            }
        }
        if let Some((at, standing)) = exceeded {
            let is_news = self.note_excess(at, &standing, limits, now);
            let excess = Excess::new(standing, standings);
            return Taken::Refused(Box::new(excess), is_news);
        }
        let tokens = match ask.takes_tokens {
            true => self.estimate(limits, ask.bytes),
            false => 0,
        };
        for (limit, bucket) in Limit::ALL.into_iter().zip(&mut self.buckets) {
            if let Some(rate) = limit.rate(limits) {
                bucket.take(rate, if limit.is_of_tokens() { tokens } else { 1 });
            }
        }
        Taken::Charged(Charge {
            tokens,
            bytes: ask.bytes,
        })
    }

    /// Whether the log should report that this limit is exceeded. It does so once per window.
    fn note_excess(
        &mut self,
        at: usize,
        standing: &Standing,
        limits: &Limits,
        now: Timestamp,
    ) -> bool {
        let window = standing.limit.rate(limits).map(|rate| rate.window);
        let (Some(logged_at), Some(window)) = (self.logged_at.get_mut(at), window) else {
            return false;
        };
        let is_news = is_due(*logged_at, window, now);
        if is_news {
            *logged_at = now;
        }
        is_news
    }

    /// The estimated tokens of a prompt in a body of `bytes` bytes. At most the limit, because an estimate must not
    /// cause a debt.
    fn estimate(&self, limits: &Limits, bytes: Option<u64>) -> u64 {
        // The product fits into 64 bits.
        let bytes = bytes.unwrap_or_default().min(u64::from(u32::MAX));
        let tokens = bytes.wrapping_mul(u64::from(self.density)) / DENSE;
        let most = [limits.tokens_per_minute, limits.tokens_per_day];
        most.into_iter().flatten().fold(tokens, u64::min)
    }

    /// Settles the `charge` of a request that took `tokens`. `prompt` is the known part of the prompt.
    pub(super) fn settle(
        &mut self,
        limits: &Limits,
        charge: Charge,
        tokens: u64,
        prompt: Option<u32>,
        now: Timestamp,
    ) {
        for (limit, bucket) in Limit::ALL.into_iter().zip(&mut self.buckets) {
            let Some(rate) = limit.rate(limits).filter(|_| limit.is_of_tokens()) else {
                continue;
            };
            bucket.pay_back(rate, now);
            match tokens.checked_sub(charge.tokens) {
                Some(more) => bucket.take(rate, more),
                None => bucket.put_back(rate, charge.tokens.saturating_sub(tokens)),
            }
        }
        if let (Some(bytes), Some(prompt)) = (charge.bytes, prompt) {
            self.learn(bytes, prompt);
        }
    }

    /// Learns the density of tokens in the client's bodies. Images have few tokens for their size, some scripts many.
    fn learn(&mut self, bytes: u64, prompt: u32) {
        /// The smallest body to learn from. The JSON around the text distorts smaller ones.
        const LEAST: u64 = 256;
        if bytes < LEAST {
            return;
        }
        let density = u64::from(prompt).wrapping_mul(DENSE) / bytes.max(1);
        // A body that names an earlier response may have more tokens than bytes.
        let density = u32::try_from(density.min(DENSE)).unwrap_or(PROSE);
        // The new density counts a quarter.
        self.density = self.density.saturating_sub(self.density / 4);
        self.density = self.density.saturating_add(density / 4);
    }

    /// The last use of the account.
    pub(super) fn last_use(&self) -> Timestamp {
        let times = self.buckets.iter().map(|bucket| bucket.at);
        times.max().unwrap_or_default()
    }

    /// Writes the account into [`Self::SIZE`] bytes.
    pub(super) fn write(&self, slots: &mut [u8]) {
        fn put<const N: usize>(slots: &mut [u8], bytes: [u8; N]) -> &mut [u8] {
            match slots.split_first_chunk_mut() {
                Some((slot, rest)) => {
                    *slot = bytes;
                    rest
                }
                None => &mut [],
            }
        }
        let mut rest = slots;
        for bucket in &self.buckets {
            rest = put(rest, bucket.used.to_le_bytes());
            rest = put(rest, bucket.at.as_millis().to_le_bytes());
        }
        for logged_at in &self.logged_at {
            rest = put(rest, logged_at.as_millis().to_le_bytes());
        }
        put(rest, self.density.to_le_bytes());
    }

    /// The account in `bytes`.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::of_part(bytes);
        let mut account = Self::default();
        for bucket in &mut account.buckets {
            bucket.used = fields.u64()?;
            bucket.at = fields.time()?;
        }
        for logged_at in &mut account.logged_at {
            *logged_at = fields.time()?;
        }
        account.density = fields.u32()?;
        Some(account)
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;

    const NONE: Limits = Limits {
        tokens_per_minute: None,
        tokens_per_day: None,
        requests_per_minute: None,
    };

    /// A time some seconds after a midnight.
    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_secs(1_700_006_400 + seconds)
    }

    fn chat(bytes: u64) -> Ask {
        Ask {
            takes_tokens: true,
            bytes: Some(bytes),
        }
    }

    fn charged(taken: Taken) -> Charge {
        match taken {
            Taken::Charged(charge) => charge,
            Taken::Refused(excess, _) => panic!("{excess:?}"),
        }
    }

    fn refused(taken: Taken) -> (Box<Excess>, bool) {
        match taken {
            Taken::Refused(excess, is_news) => (excess, is_news),
            Taken::Charged(charge) => panic!("{charge:?}"),
        }
    }

    #[test]
    fn a_prompt_is_estimated_then_settled() {
        let limits = Limits {
            tokens_per_minute: Some(6000),
            tokens_per_day: Some(100_000),
            ..NONE
        };
        let mut account = Account::default();
        let charge = charged(account.take(&limits, chat(4000), at(0)));
        assert_eq!(charge.tokens, 1000, "a token for four bytes");
        account.settle(&limits, charge, 6500, Some(1000), at(0));
        let (excess, _) = refused(account.take(&limits, chat(4000), at(4)));
        assert_eq!(excess.exceeded.limit, Limit::TokensPerMinute);
        assert_eq!(excess.exceeded.wait, Duration::from_millis(1010));
        let charge = charged(account.take(&limits, chat(4000), at(6)));
        account.settle(&limits, charge, 0, None, at(6));
        assert_eq!(account.buckets[1].used, 6500, "the day's");
    }

    #[test]
    fn an_estimate_is_at_most_the_limit() {
        let limits = Limits {
            tokens_per_minute: Some(1000),
            tokens_per_day: Some(500),
            ..NONE
        };
        let charge = charged(Account::default().take(&limits, chat(u64::MAX), at(0)));
        assert_eq!(charge.tokens, 500);
        let unknown = Ask {
            bytes: None,
            ..chat(0)
        };
        let charge = charged(Account::default().take(&limits, unknown, at(0)));
        assert_eq!(charge.tokens, 0);
    }

    #[test]
    fn estimates_follow_the_clients_prompts() {
        let limits = Limits {
            tokens_per_minute: Some(1_000_000_000),
            ..NONE
        };
        // An image of a megabyte takes a thousand tokens.
        for (prompt, from, to) in [(1000, 1000, 2000), (1_000_000, 900_000, 1_000_000)] {
            let mut account = Account::default();
            let mut last = 0;
            for _ in 0..40 {
                let charge = charged(account.take(&limits, chat(1 << 20), at(0)));
                account.settle(&limits, charge, 0, Some(prompt), at(0));
                last = charge.tokens;
            }
            assert!((from..=to).contains(&last), "{prompt}: {last}");
        }
        let mut account = Account::default();
        let charge = charged(account.take(&limits, chat(100), at(0)));
        account.settle(&limits, charge, 0, Some(50_000), at(0));
        assert_eq!(account.density, PROSE, "too small to tell");
    }

    #[test]
    fn refused_requests_do_not_count() {
        let limits = Limits {
            requests_per_minute: Some(2),
            tokens_per_minute: Some(10),
            ..NONE
        };
        let mut account = Account::default();
        charged(account.take(&limits, chat(400), at(0)));
        // The tokens are used up, but a list takes none.
        for _ in 0..5 {
            let (excess, _) = refused(account.take(&limits, chat(400), at(0)));
            assert_eq!(excess.exceeded.limit, Limit::TokensPerMinute);
        }
        charged(account.take(&limits, Ask::default(), at(0)));
        let (excess, _) = refused(account.take(&limits, Ask::default(), at(0)));
        assert_eq!(excess.exceeded.limit, Limit::RequestsPerMinute);
        assert_eq!(excess.exceeded.wait, Duration::from_secs(30));
        charged(account.take(&limits, Ask::default(), at(30)));
    }

    #[test]
    fn the_exceeded_limit_with_the_longest_wait_is_reported() {
        let limits = Limits {
            requests_per_minute: Some(1),
            tokens_per_minute: Some(1000),
            tokens_per_day: Some(1000),
        };
        let mut account = Account::default();
        charged(account.take(&limits, chat(4000), at(0)));
        let (excess, _) = refused(account.take(&limits, chat(4000), at(10)));
        assert_eq!(excess.exceeded.limit, Limit::TokensPerDay);
        assert_eq!(excess.exceeded.wait, Duration::from_secs(86_390));
        let headers = excess.headers();
        for header in [
            ("x-ratelimit-limit-tokens", "1000"),
            ("x-ratelimit-remaining-tokens", "0"),
            ("x-ratelimit-reset-tokens", "23h59m"),
            ("x-ratelimit-limit-requests", "1"),
            ("x-ratelimit-remaining-requests", "0"),
            ("x-ratelimit-reset-requests", "50s"),
            ("x-should-retry", "false"),
        ] {
            assert!(
                headers
                    .iter()
                    .any(|(name, value)| (*name, &**value) == header),
                "{header:?} {headers:?}"
            );
        }
    }

    #[test]
    fn messages_name_the_client_the_limit_and_the_wait() {
        let limits = Limits {
            tokens_per_minute: Some(600),
            ..NONE
        };
        let mut account = Account::default();
        charged(account.take(&limits, chat(24_000), at(0)));
        let (excess, _) = refused(account.take(&limits, chat(1), at(0)));
        assert_eq!(
            excess.message(Some("team-a")),
            "This gateway limits client team-a to 600 tokens per minute, which are used up. Try again in 100ms."
        );
        assert_eq!(
            excess.message(None),
            "This gateway limits all clients without a name together to 600 tokens per minute, which are used up. Try again in \
             100ms."
        );
        assert_eq!(excess.details(), "client_over_tokens_per_minute");
        let names: Vec<_> = excess.headers().into_iter().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            [
                "x-ratelimit-limit-tokens",
                "x-ratelimit-remaining-tokens",
                "x-ratelimit-reset-tokens"
            ],
            "a wait that a client may sit out"
        );
    }

    #[test]
    fn the_log_reports_an_exceeded_limit_once_per_window() {
        let limits = Limits {
            tokens_per_day: Some(10),
            requests_per_minute: Some(1),
            ..NONE
        };
        let mut account = Account::default();
        charged(account.take(&limits, Ask::default(), at(0)));
        let news = |account: &mut Account, ask, seconds| {
            refused(account.take(&limits, ask, at(seconds))).1
        };
        let logged = [0, 1, 59].map(|second| news(&mut account, Ask::default(), second));
        assert_eq!(logged, [true, false, false]);
        charged(account.take(&limits, Ask::default(), at(60)));
        assert!(news(&mut account, Ask::default(), 60));
        charged(account.take(&limits, chat(400), at(200)));
        let logged = [300, 4000, 80_000].map(|second| news(&mut account, chat(4), second));
        assert_eq!(logged, [true, false, false]);
    }

    #[test]
    fn an_account_survives_encoding() {
        let limits = Limits {
            tokens_per_minute: Some(600),
            tokens_per_day: Some(7000),
            requests_per_minute: Some(5),
        };
        let mut account = Account::default();
        for second in 0..9 {
            if let Taken::Charged(charge) = account.take(&limits, chat(900), at(second)) {
                account.settle(&limits, charge, 700, Some(300), at(second));
            }
        }
        assert_ne!(account, Account::default());
        let mut bytes = [0; Account::SIZE];
        account.write(&mut bytes);
        assert_eq!(Account::decode(&bytes), Some(account));
        assert_eq!(Account::decode(&bytes[1..]), None);
        assert!(account.last_use() >= at(0));
    }
}
