//! The attempts of one request: how many were made, and what follows each.

use core::time::Duration;

use super::config::MAX_ATTEMPTS;
use super::demand::Demand;
use super::health::{Blame, Finding, Seen, TokenAge};
use super::no_retry::{NoRetry, Replay};
use super::outcome::Outcome;
use super::plan::{BackendSet, Plan};
use super::time::Timestamp;

/// A number of attempts as text. There are few attempts, and requests many.
pub fn digit(attempts: u8) -> &'static str {
    const DIGITS: [&str; MAX_ATTEMPTS + 1] = ["0", "1", "2", "3", "4", "5"];
    let attempts = usize::from(attempts).min(MAX_ATTEMPTS);
    DIGITS.get(attempts).copied().unwrap_or_default()
}

/// What happens after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The answer is the client's, as it is.
    Deliver,
    /// The answer is the client's although another attempt was called for.
    GiveUp(NoRetry),
    /// The next attempt goes to the current backend.
    TryNext,
    /// The same backend is tried once more with a newer token. If none is to be had, the outcome is put to
    /// [`Attempts::after`] again, which then goes on to the next backend.
    RenewToken,
    /// Another attempt is due once the client has sent all of its request.
    AwaitRequest,
}

/// Why a backend was chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Because {
    /// It was free.
    #[default]
    Free,
    /// The backend was free, and it is the first choice of the request's affinity key.
    Kept,
    /// The backend was free. An earlier choice of the request's affinity key had its full share of the attempts.
    Overflowed,
    /// It recovers from a cooldown and admitted the attempt.
    Recovering,
    /// It recovers from a cooldown, and no other backend was free.
    Crowded,
    /// It had advised to wait, and nothing better was left.
    Soft,
    /// Its breaker was open, and nothing better was left.
    Panic,
    /// Every backend was in cooldown, and one attempt found out whether that was still true.
    Trial,
    /// The router had been told to go there should the attempt before get no answer.
    Foreseen,
}

impl Because {
    /// The word for it in the header that explains a choice.
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

/// A backend for the next attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// Which one.
    pub backend: usize,
    /// Why this one.
    pub because: Because,
    /// When it was chosen; the default where nothing was known of any backend.
    pub began: Timestamp,
}

/// Names an access token among others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenId {
    /// The identity, by its place in the configuration. Backends with a key have none.
    pub identity: Option<usize>,
    /// The token's number among those of the identity.
    pub generation: u32,
}

/// What the end of an attempt says of its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lesson {
    /// The backend.
    pub backend: usize,
    /// What was found.
    pub finding: Finding,
    /// The attempt.
    pub seen: Seen,
}

/// The attempts of one request along its [`Plan`].
#[derive(Clone, Debug, Default)]
pub struct Attempts {
    plan: Plan,
    current: Chosen,
    made: u8,
    max_attempts: u8,
    /// The token of the attempt that was concluded last.
    token: TokenId,
    /// The refused token for which a newer one was asked. A request asks once.
    outdated: Option<TokenId>,
    /// The current backend admitted the attempt and has to know of its end.
    admitted: bool,
    /// The backends that answered 429.
    throttled: BackendSet,
    /// A backend failed on the request.
    has_failed: bool,
}

impl Attempts {
    /// No attempt yet along `plan`.
    pub fn new(plan: Plan, max_attempts: u8) -> Self {
        Self {
            plan,
            max_attempts,
            ..Self::default()
        }
    }

    /// The plan, with the backends it has been to.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The backend of the current attempt.
    pub fn backend(&self) -> usize {
        self.current.backend
    }

    /// How many were made so far.
    pub fn made(&self) -> u8 {
        self.made
    }

    /// Whether no further attempt may be made.
    pub fn are_exhausted(&self) -> bool {
        self.made >= self.max_attempts
    }

    /// The next attempt goes there.
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

    /// What there is to learn from the current attempt, which carried this `token` and ended with this `outcome`. `stated` is the wait
    /// that a 429 asked for.
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
                    // Nobody asked for a newer token of this identity.
                    (false, _) => Finding::Nothing,
                    (true, true) => Finding::TokenDenied(TokenAge::Old),
                    (true, false) => Finding::TokenDenied(TokenAge::New),
                }
            }),
            finding => finding,
        };
        // An old token says nothing about the backend yet: it will be asked once more.
        let admitted = finding != Finding::Nothing && core::mem::take(&mut self.admitted);
        self.lesson(self.current, finding, admitted, demand)
    }

    /// What there is to learn where the current attempt's refused token was new already: the backend refuses new tokens.
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

    /// Of one request only the first failure of a kind counts in full.
    fn blame(&self, outcome: Outcome) -> Blame {
        let has_failed_so = match outcome {
            Outcome::Throttled => !self.throttled.is_empty(),
            _ => self.has_failed,
        };
        match has_failed_so {
            true => Blame::Spent,
            false => Blame::Due,
        }
    }

    /// Whether the current backend has to know of the attempt's end.
    pub fn is_admitted(&self) -> bool {
        self.admitted
    }

    /// What the current backend has to know if the outcome of its attempt will not be known: the client left, say.
    pub fn abandon(&mut self, demand: &Demand) -> Option<Lesson> {
        let admitted = core::mem::take(&mut self.admitted);
        admitted.then(|| self.lesson(self.current, Finding::Nothing, admitted, demand))
    }

    /// What a backend has to know that was `chosen` and will not be asked.
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

    /// Decides what follows the `outcome` of the current attempt; `choose` is asked for another backend where there is to be
    /// one.
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
            // A backend that refuses a renewed token too has a quarrel of its own; the others may not.
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

    /// [`Self::after`], with what the backend of the attempt before has to know if it is not asked again and does not know yet.
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
            // An old token said nothing about the backend, and it will not be asked again.
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

    /// A walk over this many backends, one after the other.
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
    }

    #[test]
    fn three_failing_backends_are_tried_once_each() {
        let mut walk = Walk::new(3, 3);
        assert_eq!(
            walk.after(Outcome::Unavailable, Replay::Ready),
            Verdict::TryNext
        );
        assert_eq!(walk.attempts.backend(), 1);
        assert_eq!(
            walk.after(Outcome::Throttled, Replay::Ready),
            Verdict::TryNext
        );
        assert_eq!(walk.attempts.backend(), 2);
        assert_eq!(
            walk.after(Outcome::Unavailable, Replay::Ready),
            Verdict::GiveUp(NoRetry::AttemptsExhausted)
        );
        assert_eq!(walk.attempts.made(), 3);
    }

    #[test]
    fn two_backends_allow_two_attempts_whatever_the_maximum() {
        let mut walk = Walk::new(2, 3);
        assert_eq!(
            walk.after(Outcome::Unavailable, Replay::Ready),
            Verdict::TryNext
        );
        assert_eq!(
            walk.after(Outcome::Unavailable, Replay::Ready),
            Verdict::GiveUp(NoRetry::BackendsExhausted)
        );
    }

    #[test]
    fn a_bad_token_is_renewed_once_then_the_next_backend_is_tried() {
        let mut walk = Walk::new(3, 3);
        assert_eq!(
            walk.after(Outcome::BadToken, Replay::Ready),
            Verdict::RenewToken
        );
        assert_eq!(walk.attempts.backend(), 0);
        assert_eq!(
            walk.after(Outcome::BadToken, Replay::Ready),
            Verdict::TryNext
        );
        assert_eq!(walk.attempts.backend(), 1);
    }

    #[test]
    fn renewing_counts_as_an_attempt() {
        let mut walk = Walk::new(3, 2);
        assert_eq!(
            walk.after(Outcome::BadToken, Replay::Ready),
            Verdict::RenewToken
        );
        assert_eq!(
            walk.after(Outcome::Throttled, Replay::Ready),
            Verdict::GiveUp(NoRetry::AttemptsExhausted)
        );
    }

    #[test]
    fn a_missing_role_or_deployment_leads_to_the_next_backend() {
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
    fn what_cannot_be_replayed_is_given_up_with_the_reason() {
        let replay = Replay::Impossible(NoRetry::BodyTooLarge);
        let verdict = Verdict::GiveUp(NoRetry::BodyTooLarge);
        assert_eq!(Walk::new(3, 3).after(Outcome::Throttled, replay), verdict);
        assert_eq!(Walk::new(3, 3).after(Outcome::BadToken, replay), verdict);
    }

    #[test]
    fn no_backend_is_chosen_that_will_not_be_used() {
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
    fn an_attempt_that_is_abandoned_is_given_back() {
        let mut attempts = Attempts::new(Plan::new(0), 3);
        attempts.go_to(recovering(1));
        let lesson = attempts.abandon(&Demand::default());
        let lesson = lesson.map(|lesson| (lesson.backend, lesson.finding, lesson.seen.admitted));
        assert_eq!(lesson, Some((1, Finding::Nothing, true)));
        assert_eq!(attempts.abandon(&Demand::default()), None);
    }

    #[test]
    fn an_old_token_counts_only_when_the_backend_is_given_up() {
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
        // No newer token was to be had.
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
    fn only_a_requests_first_failure_of_a_kind_counts_in_full() {
        let mut attempts = Attempts::new(Plan::new(0), 5);
        let demand = Demand::default();
        let mut found = |outcome| attempts.conclude(outcome, None, &demand, TOKEN).finding;
        assert_eq!(
            found(Outcome::Throttled),
            Finding::Throttled(None, Blame::Due)
        );
        assert_eq!(found(Outcome::Unavailable), Finding::Failed(0, Blame::Due));
        assert_eq!(
            found(Outcome::Throttled),
            Finding::Throttled(None, Blame::Spent)
        );
        assert_eq!(
            found(Outcome::Unavailable),
            Finding::Failed(0, Blame::Spent)
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
        assert_eq!(
            walk.after(Outcome::Throttled, Replay::Ready),
            Verdict::TryNext
        );
        assert_eq!(walk.attempts.backend(), 1);
    }
}
