//! The step after a failed attempt: another attempt and its backend, or the reason why there is none.

use alloc::rc::Rc;

use super::{Exchange, Next, NoRetry, Replay, State, Until, Verdict};
use crate::balancer::{Awaited, Balancer, Detail};
use crate::config::Engine;
use crate::host::Host;
use crate::identity::{Authorization, Renewal};
use crate::metrics::Event;
use crate::outcome::{Outcome, Trace};
use crate::plan::Plan;

/// The destination of another attempt.
#[derive(Clone, Copy, Debug)]
pub(super) enum Destination {
    /// The best backend now.
    Best,
    /// The foreseen backend, if any: the router has already gone there.
    Foreseen(Option<usize>),
}

impl Exchange {
    /// Decides and takes the step after the current attempt's `outcome`.
    #[inline(never)]
    pub(super) fn proceed<H: Host>(&mut self, outcome: Outcome, balancer: &Balancer<H>) -> Next {
        // The loop runs at most twice: the second time a refused token counts like any other failure.
        loop {
            match self.after(outcome, Destination::Best, balancer) {
                Verdict::Deliver | Verdict::GiveUp(_) => return self.deliver(),
                Verdict::AwaitRequest => {
                    self.state = State::Deciding(Until::RequestEnd(outcome));
                    return Next::Hold;
                }
                Verdict::TryNext => {
                    if self.engine == Engine::Router {
                        return self.mark();
                    }
                    // Without a token this attempt is impossible, and so are others.
                    return match balancer.credentials.of(self.attempts.backend()) {
                        Some(token) => self.renewed(token, balancer),
                        None => self.deliver(),
                    };
                }
                Verdict::RenewToken => {
                    let backend = self.attempts.backend();
                    let generation = self.token_generation();
                    let now = balancer.host().now();
                    match balancer.credentials.renew(backend, generation, now) {
                        Renewal::Done(token) => return self.renewed(token, balancer),
                        Renewal::Pending if !self.may_hold => {
                            self.router.outdated = Some(generation);
                            return self.mark();
                        }
                        Renewal::Pending => {
                            self.state = State::Deciding(Until::Token);
                            return Next::Wait(Awaited::NewerToken(backend, generation));
                        }
                        // The new token was refused too, so the next attempt goes to the next backend.
                        Renewal::IsNew => self.conclude_new_token(balancer),
                        Renewal::Failed => {}
                    }
                }
            }
        }
    }

    /// Makes the next attempt on the current backend with this token.
    pub(super) fn renewed<H: Host>(
        &mut self,
        token: Rc<Authorization>,
        balancer: &Balancer<H>,
    ) -> Next {
        match self.engine {
            Engine::Filter => {
                self.authorize_with(token);
                self.attempt_made(balancer);
                self.state = State::Calling;
                Next::Call
            }
            // The attempt takes the token when it begins.
            Engine::Router => self.mark(),
        }
    }

    fn mark(&mut self) -> Next {
        self.state = State::Marked;
        Next::Mark
    }

    /// Decides the step after the current attempt's `outcome`, and the destination of another attempt.
    pub(super) fn after<H: Host>(
        &mut self,
        outcome: Outcome,
        to: Destination,
        balancer: &Balancer<H>,
    ) -> Verdict {
        // No backend was chosen, and the current backend's health has learned of the attempt's end.
        if matches!(outcome, Outcome::Success | Outcome::ClientError) {
            return Verdict::Deliver;
        }
        self.after_failure(outcome, to, balancer)
    }

    #[inline(never)]
    fn after_failure<H: Host>(
        &mut self,
        outcome: Outcome,
        to: Destination,
        balancer: &Balancer<H>,
    ) -> Verdict {
        let (demand, replay) = (self.request.demand(), self.replay(outcome, balancer));
        balancer.can_authorize();
        let choose = |plan: &Plan| match to {
            Destination::Best => balancer.choose_next(plan, &demand, outcome),
            Destination::Foreseen(foreseen) => {
                balancer.choose_foreseen(plan, &demand, foreseen, outcome)
            }
        };
        let (verdict, lesson) = self.attempts.move_on(outcome, replay, &demand, choose);
        if let Some(lesson) = lesson {
            balancer.learn(&lesson, Detail::default);
        }
        match &verdict {
            Verdict::TryNext => self.count_choice(balancer),
            Verdict::GiveUp(reason) => self.give_up(*reason, balancer),
            _ => {}
        }
        verdict
    }

    /// Whether the request can be retried after this `outcome`. A request with side effects is not retried if it may
    /// have been carried out.
    pub(super) fn replay<H: Host>(&self, outcome: Outcome, balancer: &Balancer<H>) -> Replay {
        let once = outcome == Outcome::Unavailable
            && self.trace == Trace::Possible
            && !self.request.is_repeatable(&balancer.config);
        if once {
            return Replay::Impossible(NoRetry::NotRepeatable);
        }
        let is_filter = self.engine == Engine::Filter;
        match self.body.replay() {
            // The headers are checked last, because most requests are sent once.
            Replay::Ready | Replay::Incomplete if is_filter && !self.original.is_utf8() => {
                Replay::Impossible(NoRetry::HeadersNotReplayable)
            }
            replay => replay,
        }
    }

    /// Counts and explains the lack of a further attempt.
    #[inline(never)]
    pub(super) fn give_up<H: Host>(&mut self, reason: NoRetry, balancer: &Balancer<H>) {
        balancer.count(Event::NoRetry(reason));
        if let Some(mut why) = self.why.take() {
            why.not_retried(reason);
            if reason == NoRetry::BackendsInCooldown {
                self.explain_others(&mut why, balancer);
            }
            self.why = Some(why);
        }
    }
}
