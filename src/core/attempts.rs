//! The attempts of one request: how many were made, and what follows each.

use core::time::Duration;

use super::config::MAX_ATTEMPTS;
use super::demand::Demand;
use super::health::{Blame, Finding, Seen, TokenAge};
use super::no_retry::{NoRetry, Replay};
use super::outcome::Outcome;
use super::plan::{BackendSet, Plan};
use super::time::Timestamp;

/// The number of attempts as text, without an allocation per request.
pub fn digit(attempts: u8) -> &'static str {
    const DIGITS: [&str; MAX_ATTEMPTS + 1] = ["0", "1", "2", "3", "4", "5"];
    let attempts = usize::from(attempts).min(MAX_ATTEMPTS);
    DIGITS.get(attempts).copied().unwrap_or_default()
}

/// The step after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Deliver the answer.
    Deliver,
    /// Deliver the answer although its outcome calls for a retry.
    GiveUp(NoRetry),
    /// The next attempt goes to the current backend.
    TryNext,
    /// Retry on the same backend with a newer token. Without a newer token, call [`Attempts::after`] again with the
    /// outcome. It then goes on to the next backend.
    RenewToken,
    /// Retry once the client has sent the whole request.
    AwaitRequest,
}

/// The reason for the choice of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Because {
    /// The backend was free.
    #[default]
    Free,
    /// The backend was free, and it is the first choice of the request's affinity key.
    Kept,
    /// The backend was free. An earlier choice of the request's affinity key had its full share of the attempts.
    Overflowed,
    /// The backend recovers from a cooldown and admitted the attempt.
    Recovering,
    /// The backend recovers from a cooldown, and no other backend was free.
    Crowded,
    /// The backend had advised to wait, and no better one was left.
    Soft,
    /// The backend's breaker was open, and no better one was left.
    Panic,
    /// Every backend was in cooldown, and the attempt tests whether that still holds.
    Trial,
    /// The router went to the foreseen backend because the previous attempt got no answer.
    Foreseen,
}

impl Because {
    /// The reason's name in the header that explains the attempts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Kept => "kept",
            Self::Overflowed => "overflowed",
            Self::Recovering => "recovering",
            Self::Crowded => "crowded",
            Self::Soft => "soft",
            Self::Panic => "panic",
            Self::Trial => "trial",
            Self::Foreseen => "foreseen",
        }
    }
}

/// A backend chosen for the next attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// The backend.
    pub backend: usize,
    /// The reason for the choice.
    pub because: Because,
    /// The time of the choice. The default if all backends were healthy, so that the time was not read.
    pub began: Timestamp,
}

/// Identifies an access token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenId {
    /// The index of the identity in the configuration. `None` for backends with a key.
    pub identity: Option<usize>,
    /// The generation of the identity's token.
    pub generation: u32,
}

/// The lesson of an ended attempt for its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lesson {
    /// The backend.
    pub backend: usize,
    /// The meaning of the attempt's outcome.
    pub finding: Finding,
    /// The facts about the attempt.
    pub seen: Seen,
}

/// The attempts of one request along its [`Plan`].
#[derive(Clone, Debug, Default)]
pub struct Attempts {
    plan: Plan,
    current: Chosen,
    made: u8,
    max_attempts: u8,
    /// The token of the last concluded attempt.
    token: TokenId,
    /// The refused token for which a newer one was requested. A request does so once.
    outdated: Option<TokenId>,
    /// Whether the current backend admitted the attempt, and must learn of its end.
    admitted: bool,
    /// The backends that answered the request with 429.
    throttled: BackendSet,
    /// Whether a backend failed on the request.
    has_failed: bool,
}

impl Attempts {
    /// The attempts of a request along `plan`, before the first one.
    pub fn new(plan: Plan, max_attempts: u8) -> Self {
        Self {
            plan,
            max_attempts,
            ..Self::default()
        }
    }

    /// The plan with the tried backends.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The backend of the current attempt.
    pub fn backend(&self) -> usize {
        self.current.backend
    }

    /// The number of attempts so far.
    pub fn made(&self) -> u8 {
        self.made
    }

    /// Whether the limit of attempts is reached.
    pub fn are_exhausted(&self) -> bool {
        self.made >= self.max_attempts
    }

    /// Makes `chosen` the backend of the next attempt.
    pub fn go_to(&mut self, chosen: Chosen) {
        self.plan.tried.add(chosen.backend);
        self.plan.has_tested |= chosen.because == Because::Trial;
        self.admitted = chosen.because == Because::Recovering;
        self.current = chosen;
    }

    /// The choice of the current backend.
    pub fn chosen(&self) -> Chosen {
        self.current
    }

    /// The backends that answered the request with 429.
    pub fn throttled(&self) -> BackendSet {
        self.throttled
    }

    /// The lesson of the current attempt, which used this `token` and ended with this `outcome`. `stated` is the wait
    /// that a 429 requested.
    pub fn conclude(
        &mut self,
        outcome: Outcome,
        stated: Option<Duration>,
        demand: &Demand,
        token: TokenId,
    ) -> Lesson {
        self.token = token;
        let blame = self.blame(outcome);
        match outcome {
            Outcome::Throttled => self.throttled.add(self.current.backend),
            Outcome::Unavailable => self.has_failed = true,
            _ => {}
        }
        let finding = match Finding::of(outcome, stated, blame, demand) {
            Finding::Nothing => self.outdated.map_or(Finding::Nothing, |outdated| {
                match (outdated.identity == token.identity, outdated == token) {
                    // The request requested no newer token of this identity.
                    (false, _) => Finding::Nothing,
                    (true, true) => Finding::TokenDenied(TokenAge::Old),
                    (true, false) => Finding::TokenDenied(TokenAge::New),
                }
            }),
            finding => finding,
        };
        // An old token is no evidence about the backend, which gets another attempt with a newer token.
        let admitted = finding != Finding::Nothing && core::mem::take(&mut self.admitted);
        self.lesson(self.current, finding, admitted, demand)
    }

    /// The lesson if the current attempt's refused token was already new: the backend refuses new tokens.
    pub fn conclude_new_token(&mut self, demand: &Demand) -> Lesson {
        let admitted = core::mem::take(&mut self.admitted);
        let finding = Finding::TokenDenied(TokenAge::New);
        self.lesson(self.current, finding, admitted, demand)
    }

    /// The lesson of an answer that began as a success and ended with an error of this `outcome`.
    pub fn conclude_late(
        &self,
        outcome: Outcome,
        stated: Option<Duration>,
        demand: &Demand,
    ) -> Lesson {
        let blame = self.blame(outcome);
        let finding = Finding::of(outcome, stated, blame, demand);
        self.lesson(self.current, finding, false, demand)
    }

    /// The weight of a failure. Only a request's first failure of a kind counts in full.
    fn blame(&self, outcome: Outcome) -> Blame {
        let has_failed_so = match outcome {
            Outcome::Throttled => !self.throttled.is_empty(),
            _ => self.has_failed,
        };
        match has_failed_so {
            true => Blame::Repeated,
            false => Blame::First,
        }
    }

    /// Whether the current backend must learn of the attempt's end.
    pub fn is_admitted(&self) -> bool {
        self.admitted
    }

    /// The lesson if the outcome of the current attempt stays unknown, for example because the client left.
    pub fn abandon(&mut self, demand: &Demand) -> Option<Lesson> {
        let admitted = core::mem::take(&mut self.admitted);
        admitted.then(|| self.lesson(self.current, Finding::Nothing, admitted, demand))
    }

    /// The lesson for a backend that was `chosen` and gets no attempt.
    pub fn give_back(chosen: Chosen, demand: &Demand) -> Option<Lesson> {
        let admitted = chosen.because == Because::Recovering;
        admitted.then(|| Self::default().lesson(chosen, Finding::Nothing, admitted, demand))
    }

    fn lesson(&self, of: Chosen, finding: Finding, admitted: bool, demand: &Demand) -> Lesson {
        Lesson {
            backend: of.backend,
            finding,
            seen: Seen {
                demand: *demand,
                began: of.began,
                admitted,
                token: self.token.generation,
            },
        }
    }

    /// Counts an attempt on the current backend.
    pub fn attempt_made(&mut self) {
        self.made = self.made.saturating_add(1);
    }

    /// Decides the step after the `outcome` of the current attempt. `choose` chooses another backend, if one is needed.
    pub fn after(
        &mut self,
        outcome: Outcome,
        replay: Replay,
        choose: impl FnOnce(&Plan) -> Result<Chosen, NoRetry>,
    ) -> Verdict {
        match outcome {
            Outcome::Success | Outcome::ClientError => Verdict::Deliver,
            Outcome::BadToken if self.outdated.is_none() => self.when_allowed(replay, |this| {
                this.outdated = Some(this.token);
                Verdict::RenewToken
            }),
            // A fresh token was refused too, so the fault is this backend's.
            Outcome::BadToken
            | Outcome::Throttled
            | Outcome::Unavailable
            | Outcome::PermissionDenied
            | Outcome::DeploymentNotFound
            | Outcome::ApiNotEnabled => {
                self.when_allowed(replay, |this| match choose(&this.plan) {
                    Ok(chosen) => {
                        this.go_to(chosen);
                        Verdict::TryNext
                    }
                    Err(reason) => Verdict::GiveUp(reason),
                })
            }
        }
    }

    /// Like [`Self::after`]. Also returns the lesson for the previous backend, if it must still learn that it gets no
    /// further attempt.
    pub fn move_on(
        &mut self,
        outcome: Outcome,
        replay: Replay,
        demand: &Demand,
        choose: impl FnOnce(&Plan) -> Result<Chosen, NoRetry>,
    ) -> (Verdict, Option<Lesson>) {
        let (before, admitted) = (self.current, core::mem::take(&mut self.admitted));
        let verdict = self.after(outcome, replay, choose);
        let lesson = match verdict {
            Verdict::RenewToken | Verdict::AwaitRequest => {
                self.admitted = admitted;
                None
            }
            // The refused old token was no evidence, and the backend gets no further attempt.
            _ => admitted.then(|| self.lesson(before, Finding::Nothing, admitted, demand)),
        };
        (verdict, lesson)
    }

    fn when_allowed(&mut self, replay: Replay, go: impl FnOnce(&mut Self) -> Verdict) -> Verdict {
        if self.are_exhausted() {
            return Verdict::GiveUp(NoRetry::AttemptsExhausted);
        }
        match replay {
            Replay::Impossible(reason) => Verdict::GiveUp(reason),
            Replay::Incomplete => Verdict::AwaitRequest,
            Replay::Ready => go(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: TokenId = TokenId {
        identity: Some(0),
        generation: 7,
    };

    /// A walk over `backends` backends in order.
    struct Walk {
        attempts: Attempts,
        backends: usize,
    }

    impl Walk {
        fn new(backends: usize, max_attempts: u8) -> Self {
            let mut attempts = Attempts::new(Plan::new(0), max_attempts);
            attempts.go_to(Chosen::default());
            attempts.attempt_made();
            Self { attempts, backends }
        }

        fn after(&mut self, outcome: Outcome, replay: Replay) -> Verdict {
            let backends = self.backends;
            let verdict = self.attempts.after(outcome, replay, |plan| {
                let next = (0..backends).find(|backend| !plan.tried.contains(*backend));
                let chosen = next.map(|backend| Chosen {
                    backend,
                    ..Chosen::default()
                });
                chosen.ok_or(NoRetry::BackendsExhausted)
            });
            if matches!(verdict, Verdict::TryNext | Verdict::RenewToken) {
                self.attempts.attempt_made();
            }
            verdict
        }

        fn assert_after(&mut self, outcome: Outcome, verdict: Verdict) {
            assert_eq!(self.after(outcome, Replay::Ready), verdict);
        }
    }

    #[test]
    fn three_failing_backends_are_tried_once_each() {
        let mut walk = Walk::new(3, 3);
        walk.assert_after(Outcome::Unavailable, Verdict::TryNext);
        assert_eq!(walk.attempts.backend(), 1);
        walk.assert_after(Outcome::Throttled, Verdict::TryNext);
        assert_eq!(walk.attempts.backend(), 2);
        walk.assert_after(
            Outcome::Unavailable,
            Verdict::GiveUp(NoRetry::AttemptsExhausted),
        );
        assert_eq!(walk.attempts.made(), 3);
    }

    #[test]
    fn two_backends_allow_two_attempts_at_most() {
        let mut walk = Walk::new(2, 3);
        walk.assert_after(Outcome::Unavailable, Verdict::TryNext);
        walk.assert_after(
            Outcome::Unavailable,
            Verdict::GiveUp(NoRetry::BackendsExhausted),
        );
    }

    #[test]
    fn a_bad_token_is_renewed_once_then_the_next_backend_is_tried() {
        let mut walk = Walk::new(3, 3);
        walk.assert_after(Outcome::BadToken, Verdict::RenewToken);
        assert_eq!(walk.attempts.backend(), 0);
        walk.assert_after(Outcome::BadToken, Verdict::TryNext);
        assert_eq!(walk.attempts.backend(), 1);
    }

    #[test]
    fn renewing_counts_as_an_attempt() {
        let mut walk = Walk::new(3, 2);
        walk.assert_after(Outcome::BadToken, Verdict::RenewToken);
        walk.assert_after(
            Outcome::Throttled,
            Verdict::GiveUp(NoRetry::AttemptsExhausted),
        );
    }

    #[test]
    fn missing_roles_and_deployments_lead_to_the_next_backend() {
        for outcome in [
            Outcome::PermissionDenied,
            Outcome::DeploymentNotFound,
            Outcome::ApiNotEnabled,
        ] {
            assert_eq!(
                Walk::new(2, 3).after(outcome, Replay::Ready),
                Verdict::TryNext
            );
        }
    }

    #[test]
    fn the_clients_own_errors_and_successes_are_delivered_at_once() {
        for outcome in [Outcome::Success, Outcome::ClientError] {
            assert_eq!(
                Walk::new(3, 3).after(outcome, Replay::Ready),
                Verdict::Deliver
            );
        }
    }

    #[test]
    fn requests_that_cannot_be_replayed_are_not_retried() {
        let replay = Replay::Impossible(NoRetry::BodyTooLarge);
        let verdict = Verdict::GiveUp(NoRetry::BodyTooLarge);
        assert_eq!(Walk::new(3, 3).after(Outcome::Throttled, replay), verdict);
        assert_eq!(Walk::new(3, 3).after(Outcome::BadToken, replay), verdict);
    }

    #[test]
    fn backends_are_chosen_only_if_used() {
        for (replay, attempts) in [(Replay::Incomplete, 3), (Replay::Ready, 1)] {
            let mut walk = Walk::new(3, attempts);
            walk.attempts
                .after(Outcome::Throttled, replay, |_| panic!("asked"));
        }
    }

    #[test]
    fn a_recovering_backend_learns_of_the_end_once() {
        let mut attempts = Attempts::new(Plan::new(0), 3);
        attempts.go_to(recovering(2));
        let demand = Demand::default();
        let lesson = attempts.conclude(Outcome::Success, None, &demand, TOKEN);
        assert_eq!((lesson.backend, lesson.seen.admitted), (2, true));
        assert!(
            !attempts
                .conclude(Outcome::Success, None, &demand, TOKEN)
                .seen
                .admitted
        );
        assert_eq!(attempts.abandon(&demand), None);
        assert_eq!(attempts.backend(), 2);
    }

    fn recovering(backend: usize) -> Chosen {
        Chosen {
            backend,
            because: Because::Recovering,
            began: Timestamp::default(),
        }
    }

    #[test]
    fn abandoned_attempts_return_their_place() {
        let mut attempts = Attempts::new(Plan::new(0), 3);
        attempts.go_to(recovering(1));
        let lesson = attempts.abandon(&Demand::default());
        let lesson = lesson.map(|lesson| (lesson.backend, lesson.finding, lesson.seen.admitted));
        assert_eq!(lesson, Some((1, Finding::Nothing, true)));
        assert_eq!(attempts.abandon(&Demand::default()), None);
    }

    #[test]
    fn a_refused_old_token_counts_only_without_a_newer_one() {
        let mut attempts = Attempts::new(Plan::new(0), 3);
        let demand = Demand::default();
        attempts.go_to(recovering(1));
        attempts.attempt_made();
        let lesson = attempts.conclude(Outcome::BadToken, None, &demand, TOKEN);
        assert_eq!(
            (lesson.finding, lesson.seen.admitted),
            (Finding::Nothing, false)
        );
        let next = |backend| {
            move |_: &Plan| {
                Ok(Chosen {
                    backend,
                    ..Chosen::default()
                })
            }
        };
        let (verdict, lesson) =
            attempts.move_on(Outcome::BadToken, Replay::Ready, &demand, next(2));
        assert_eq!((verdict, lesson), (Verdict::RenewToken, None));
        // No newer token arrived.
        let (verdict, lesson) =
            attempts.move_on(Outcome::BadToken, Replay::Ready, &demand, next(2));
        assert_eq!(verdict, Verdict::TryNext);
        assert_eq!(lesson.map(|lesson| lesson.backend), Some(1));
        assert_eq!(attempts.backend(), 2);
    }

    #[test]
    fn a_refused_token_is_new_only_if_it_was_renewed() {
        let newer = TokenId {
            generation: 8,
            ..TOKEN
        };
        let of_another_identity = TokenId {
            identity: Some(1),
            ..newer
        };
        for (token, finding) in [
            (TOKEN, Finding::TokenDenied(TokenAge::Old)),
            (newer, Finding::TokenDenied(TokenAge::New)),
            (of_another_identity, Finding::Nothing),
        ] {
            let mut walk = Walk::new(3, 3);
            let conclude = |walk: &mut Walk, token| {
                let demand = Demand::default();
                let attempts = &mut walk.attempts;
                attempts.conclude(Outcome::BadToken, None, &demand, token)
            };
            assert_eq!(conclude(&mut walk, TOKEN).finding, Finding::Nothing);
            walk.after(Outcome::BadToken, Replay::Ready);
            let lesson = conclude(&mut walk, token);
            assert_eq!(lesson.finding, finding);
            assert_eq!(lesson.seen.token, token.generation);
            let verdict = walk.after(Outcome::BadToken, Replay::Ready);
            assert_eq!(verdict, Verdict::TryNext, "one renewal for a request");
        }
    }

    #[test]
    fn only_the_first_failure_of_a_kind_counts_in_full() {
        let mut attempts = Attempts::new(Plan::new(0), 5);
        let demand = Demand::default();
        let mut found = |outcome| attempts.conclude(outcome, None, &demand, TOKEN).finding;
        assert_eq!(
            found(Outcome::Throttled),
            Finding::Throttled(None, Blame::First)
        );
        assert_eq!(
            found(Outcome::Unavailable),
            Finding::Failed(0, Blame::First)
        );
        assert_eq!(
            found(Outcome::Throttled),
            Finding::Throttled(None, Blame::Repeated)
        );
        assert_eq!(
            found(Outcome::Unavailable),
            Finding::Failed(0, Blame::Repeated)
        );
    }

    #[test]
    fn a_request_makes_one_trial() {
        let mut attempts = Attempts::new(Plan::new(0), 3);
        attempts.go_to(Chosen {
            because: Because::Trial,
            ..Chosen::default()
        });
        assert!(attempts.plan().has_tested);
    }

    #[test]
    fn an_early_answer_waits_for_the_rest_of_the_request() {
        let mut walk = Walk::new(3, 3);
        for _ in 0..3 {
            assert_eq!(
                walk.after(Outcome::Throttled, Replay::Incomplete),
                Verdict::AwaitRequest
            );
        }
        walk.assert_after(Outcome::Throttled, Verdict::TryNext);
        assert_eq!(walk.attempts.backend(), 1);
    }
}
