//! The limits of what clients may use.
//!
//! Each client has an account, which all workers of an Envoy share. A request takes an estimate of its prompt's tokens when it begins,
//! and that is settled when its answer is over. A limit may be exceeded: what answers took beyond what was left is owed, and no request
//! passes before it is paid back.
//!
//! The accounts lie in a fixed number of shared values, each with those of a few clients: a shared value that does not exist yet cannot
//! be compared and swapped, and one that exists cannot be removed.

mod account;
mod bucket;
mod excess;
mod shard;

pub use account::{Ask, Charge, Limit};
pub use excess::{Excess, Standing};

use self::account::Taken;
use self::shard::{place_of, shard_key, Shard, SHARDS};
use super::config::{LimitRules, Limits};
use super::host::Host;
use super::swap::{create, OftenSwapped, SharedMap, SwapError};
use super::usage::Usage;
use crate::prelude::*;

/// Holds clients to their limits, over the map `M` that all workers share.
pub struct Limiter<M> {
    map: M,
    rules: LimitRules,
    shards: Vec<OftenSwapped<Vec<u8>>>,
}

impl<M: SharedMap> Limiter<M> {
    /// The limits of these `rules`.
    ///
    /// # Errors
    /// The map refused.
    #[inline(never)]
    pub fn new(map: M, rules: LimitRules) -> Result<Self, SwapError<M::Error>> {
        let empty = Shard::default().into_bytes();
        let shards: Vec<_> = (0..SHARDS).map(shard_key).map(OftenSwapped::new).collect();
        for shard in &shards {
            create(&map, shard.key(), &empty)?;
        }
        Ok(Self { map, rules, shards })
    }
}

/// A request that may go on, or not.
pub type Verdict = Result<Option<Charge>, Box<Excess>>;

impl<H: Host> Limiter<H> {
    /// Takes what a request of `client` asks for.
    ///
    /// # Errors
    /// A limit is used up.
    #[inline(never)]
    pub fn take(&self, client: Option<&str>, ask: Ask) -> Verdict {
        let limits = self.rules.of(client);
        if !concerns(&limits, ask) {
            return Ok(None);
        }
        let (shard, id) = place_of(client);
        let Some(shard) = self.shards.get(usize::from(shard)) else {
            return Ok(None);
        };
        let now = self.map.now();
        let taken = shard.swap(&self.map, |bytes| {
            let mut shard = Shard::decode(bytes);
            let mut account = shard.account(id);
            let taken = account.take(&limits, ask, now);
            // A refusal takes nothing.
            let is_changed = !matches!(taken, Taken::Refused(_, false));
            if is_changed {
                shard.put(id, &account);
            }
            (taken, is_changed.then(|| shard.into_bytes()))
        });
        match taken {
            Ok(Taken::Charged(charge)) => Ok(Some(charge).filter(|_| ask.takes_tokens)),
            Ok(Taken::Refused(excess, is_news)) => {
                if is_news {
                    log::info!("{}", excess.log_line(client));
                }
                Err(excess)
            }
            Err(error) => {
                // What protects must not be the outage.
                log::warn!("{error}; a request passes that may be over its limit");
                Ok(None)
            }
        }
    }

    /// Settles the `charge` of a request of `client` that took these tokens in the end; `None` if it took none.
    #[inline(never)]
    pub fn settle(&self, client: Option<&str>, charge: Charge, usage: Option<&Usage>) {
        let limits = self.rules.of(client);
        let prompt = usage.and_then(|usage| usage.prompt);
        let completion = usage.and_then(|usage| usage.completion);
        let tokens = [prompt, completion].into_iter().flatten();
        let tokens = tokens.map(u64::from).sum();
        if usage.is_none() && charge.tokens == 0 {
            return;
        }
        let (shard, id) = place_of(client);
        let Some(shard) = self.shards.get(usize::from(shard)) else {
            return;
        };
        let now = self.map.now();
        let settled = shard.swap(&self.map, |bytes| {
            let mut shard = Shard::decode(bytes);
            let mut account = shard.account(id);
            account.settle(&limits, charge, tokens, prompt, now);
            shard.put(id, &account);
            ((), Some(shard.into_bytes()))
        });
        if let Err(error) = settled {
            log::warn!("{error}; the tokens of an answer do not count for its client's limit");
        }
    }
}

/// Whether a request has to do with any of these limits.
fn concerns(limits: &Limits, ask: Ask) -> bool {
    limits.requests_per_minute.is_some() || ask.takes_tokens && limits.has_tokens()
}
