//! The limits of clients.
//!
//! Each client has an account, which all workers of an Envoy share. A request first takes an estimate of its prompt's
//! tokens, which is settled when its answer is over. A limit can be exceeded: tokens beyond the rest become a debt, and
//! no request passes before it is paid back.
//!
//! The accounts are spread over a fixed number of shared values, each with those of a few clients. Compare-and-swap
//! cannot create a shared value, and an existing one cannot be removed.

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

/// Enforces the clients' limits. All workers share the map `M`.
pub struct Limiter<M> {
    map: M,
    rules: LimitRules,
    shards: Vec<OftenSwapped<Vec<u8>>>,
}

impl<M: SharedMap> Limiter<M> {
    /// Creates a limiter with these `rules`.
    ///
    /// # Errors
    /// The map refused an operation.
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

/// The charge of a request that may pass, or the exceeded limit.
pub type Verdict = Result<Option<Charge>, Box<Excess>>;

impl<H: Host> Limiter<H> {
    /// Takes the share of a request of `client`.
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
                // A failure of the limiter must not become an outage.
                log::warn!("limits: {error}; a request passes unchecked");
                Ok(None)
            }
        }
    }

    /// Settles the `charge` of a request of `client` by its tokens. `None` if it took none.
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
            log::warn!(
                "limits: {error}; the tokens of an answer are not counted for its client's limit"
            );
        }
    }
}

/// Whether a request takes from any of these limits.
fn concerns(limits: &Limits, ask: Ask) -> bool {
    limits.requests_per_minute.is_some() || ask.takes_tokens && limits.has_tokens()
}
