//! The request's use of its client's limits. It counts once per request, whatever the number of attempts.

use super::{Exchange, Next, State};
use crate::balancer::Balancer;
use crate::host::Host;
use crate::ledger::Kind;
use crate::limits::{Ask, Charge, Excess, Limiter};
use crate::metrics::Event;
use crate::prelude::*;
use crate::reply::LocalReply;
use crate::usage::Usage;

/// The state of a request's tokens in its client's limits.
#[derive(Debug, Default)]
pub(super) enum Limited {
    /// The request takes no tokens of a limit, or its tokens are settled.
    #[default]
    Settled,
    /// The request has taken an estimate of its tokens.
    Charged(Charge),
    /// A limit is used up, so the request is answered with an error.
    Refused(Box<Excess>),
}

impl Exchange {
    /// Takes the request's share of its client's limits. Returns the next step if a limit is used up.
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

    /// The used-up limit because of which the request was answered.
    pub(super) fn excess(&self) -> Option<&Excess> {
        match &self.limited {
            Limited::Refused(excess) => Some(excess),
            _ => None,
        }
    }

    /// Settles the estimate at the end of the answer by the reported tokens. Without a report the estimate stays.
    pub(super) fn settle_usage<H: Host>(&mut self, usage: Option<&Usage>, balancer: &Balancer<H>) {
        if let Limited::Charged(charge) = self.limited {
            self.limited = Limited::Settled;
            if usage.is_some() {
                self.settle_charge(charge, usage, balancer);
            }
        }
    }

    /// At the end of the stream, returns an unsettled estimate, unless a backend may have done work for it.
    pub(super) fn settle_end<H: Host>(&mut self, balancer: &Balancer<H>) {
        let Limited::Charged(charge) = self.limited else {
            return;
        };
        self.limited = Limited::Settled;
        // In these states no attempt is under way. The tokens of a passing answer have been read already.
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
