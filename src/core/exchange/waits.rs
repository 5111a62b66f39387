//! The ends of waits.

use super::{Exchange, For, Next, Stalled, State, Until};
use crate::balancer::{Balancer, WaitResult};
use crate::host::Host;
use crate::outcome::Outcome;
use crate::prelude::*;

impl Exchange {
    #[inline(never)]
    pub(super) fn on_wait_ended<H: Host>(
        &mut self,
        result: WaitResult,
        stalled: Option<Box<Stalled>>,
        balancer: &Balancer<H>,
    ) -> Next {
        let state = core::mem::replace(&mut self.state, State::New);
        match (state, result) {
            (State::Holding(For::Token), WaitResult::Token(_))
            | (State::Holding(For::Backend(_)), WaitResult::Backend) => self.start(balancer),
            (State::Holding(For::Token), WaitResult::NoToken(wait)) => {
                self.reply_without_token(wait, balancer)
            }
            (State::Holding(For::Body), WaitResult::TimedOut) => self.send_unread(balancer),
            (State::AttemptHeld(cluster), _) => self.begin_attempt(cluster.as_deref(), balancer),
            (State::Deciding(Until::Token), WaitResult::Token(token)) => {
                self.renewed(token, balancer)
            }
            (State::Deciding(Until::Token), _) => self.proceed(Outcome::BadToken, balancer),
            (State::Deciding(Until::ErrorBody(status)), WaitResult::TimedOut) => {
                self.on_stalled(status, stalled, balancer)
            }
            (State::Deciding(Until::Frame), WaitResult::TimedOut) => self.deliver_stalled(stalled),
            (State::Deciding(Until::Content), WaitResult::TimedOut) => {
                self.on_slow_stream(balancer)
            }
            (State::Deciding(Until::StreamEnd(status)), WaitResult::TimedOut) => {
                self.settle_stream(status, false, balancer)
            }
            (state, _) => {
                self.state = state;
                Next::Hold
            }
        }
    }

    #[inline(never)]
    pub(super) fn on_refused_wait<H: Host>(&mut self, balancer: &Balancer<H>) -> Next {
        let state = core::mem::replace(&mut self.state, State::New);
        match state {
            State::Holding(For::Token) => {
                let identities = self.identities(balancer);
                let now = balancer.host().now();
                let wait = balancer.credentials.retry_after(identities, now);
                self.reply_without_token(wait, balancer)
            }
            State::Holding(For::Body) => self.begin_first_attempt(balancer),
            State::Holding(For::Backend(wait)) => self.refuse_all_in_cooldown(wait, balancer),
            State::AttemptHeld(cluster) => self.begin_attempt(cluster.as_deref(), balancer),
            State::Deciding(Until::Token) => self.proceed(Outcome::BadToken, balancer),
            State::Deciding(Until::ErrorBody(status)) => self.settle(status, &[], None, balancer),
            State::Deciding(Until::Content) => self.pass_stream(Outcome::Success, balancer),
            State::Deciding(Until::StreamEnd(status)) => {
                self.settle_stream(status, false, balancer)
            }
            state => {
                self.state = state;
                Next::Hold
            }
        }
    }
}
