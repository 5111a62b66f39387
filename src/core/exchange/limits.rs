//! What a request takes of its client's limits. A request takes it once, however many attempts it has.

use super::{Exchange, Next, State};
use crate::balancer::Balancer;
use crate::host::Host;
use crate::ledger::Kind;
use crate::limits::{Ask, Charge, Excess, Limiter};
use crate::metrics::Event;
use crate::prelude::*;
use crate::reply::LocalReply;
use crate::usage::Usage;

/// How a request stands with its client's limits.
#[derive(Debug, Default)]
pub(super) enum Limited {
    /// It takes no tokens of a limit, or its tokens are settled.
    #[default]
    Settled,
    /// It has taken an estimate.
    Charged(Charge),
    /// A limit is used up, so it is answered.
    Refused(Box<Excess>),
}

impl Exchange {
    /// Takes what the request asks for of its client's limits. What follows, if one of them is used up.
    pub(super) fn charge<H: Host>(&mut self, balancer: &Balancer<H>) -> Option<Next> {
        let limiter = balancer.limiter.as_ref()?;
        self.take_of(limiter, balancer)
    }

    #[inline(never)]
    fn take_of<H: Host>(&mut self, limiter: &Limiter<H>, balancer: &Balancer<H>) -> Option<Next> {
        let ask = Ask {
            takes_tokens: self.request.reports_usage(self.client_path()),
            bytes: match self.has_ended {
                true => Some(0),
                false => self.request.content_length,
            },
        };
        let client = self.client.as_deref();
        let excess = match limiter.take(client, ask) {
            Ok(Some(charge)) => {
                self.limited = Limited::Charged(charge);
                return None;
            }
            Ok(None) => return None,
            Err(excess) => excess,
        };
        balancer.count(Event::Limited);
        if let Some(client) = client {
            balancer.count_limited_client(client, Kind::Limited(excess.exceeded.limit));
        }
        let reply = LocalReply::over_limit(excess.message(client), excess.exceeded.wait);
        self.limited = Limited::Refused(excess);
        Some(self.answer(reply))
    }

    /// The limit that is used up, where that is why the request was answered.
    pub(super) fn excess(&self) -> Option<&Excess> {
        match &self.limited {
            Limited::Refused(excess) => Some(excess),
            _ => None,
        }
    }

    /// The answer is over: settles the estimate by the tokens that it reports. Without a report the estimate stays.
    pub(super) fn settle_usage<H: Host>(&mut self, usage: Option<&Usage>, balancer: &Balancer<H>) {
        if let Limited::Charged(charge) = self.limited {
            self.limited = Limited::Settled;
            if usage.is_some() {
                self.settle_charge(charge, usage, balancer);
            }
        }
    }

    /// The stream has ended. An estimate that was not settled is put back, unless a backend may have worked for it.
    pub(super) fn settle_end<H: Host>(&mut self, balancer: &Balancer<H>) {
        let Limited::Charged(charge) = self.limited else {
            return;
        };
        self.limited = Limited::Settled;
        // In these states no attempt is under way. Of an answer that passes, the tokens were looked for if it may report any.
        let is_idle = matches!(
            self.state,
            State::New | State::Holding(_) | State::Passing | State::GivenUp | State::Done
        );
        if is_idle {
            self.settle_charge(charge, None, balancer);
        }
    }

    #[inline(never)]
    fn settle_charge<H: Host>(
        &self,
        charge: Charge,
        usage: Option<&Usage>,
        balancer: &Balancer<H>,
    ) {
        if let Some(limiter) = &balancer.limiter {
            limiter.settle(self.client.as_deref(), charge, usage);
        }
    }
}
