//! A request in the simulation: it follows `src/core/exchange`, without Envoy's part.

use std::cell::Cell;
use std::time::Duration;

use azure_openai_balancer::core::attempts::{Attempts, Because, Lesson, TokenId, Verdict};
use azure_openai_balancer::core::config::Config;
use azure_openai_balancer::core::fleet::{Fleet, NoChoice};
use azure_openai_balancer::core::health::Change;
use azure_openai_balancer::core::json::scan::Findings;
use azure_openai_balancer::core::no_retry::{NoRetry, Replay};
use azure_openai_balancer::core::outcome::Outcome;
use azure_openai_balancer::core::plan::Plan;
use azure_openai_balancer::core::request::{Found, Need, Request};
use azure_openai_balancer::core::state::ids::Tags;
use azure_openai_balancer::core::time::Timestamp;

use super::map::Map;

/// The time that all workers read.
#[derive(Default)]
pub(crate) struct Clock(Cell<u64>);

impl Clock {
    pub(crate) fn set(&self, millis: u64) {
        self.0.set(millis);
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.get())
    }
}

/// The state that all workers share.
pub(crate) struct Process {
    pub(crate) config: Config,
    pub(crate) map: Map,
    pub(crate) clock: Clock,
    /// A seed that makes the cooldowns of different Envoys differ.
    pub(crate) seed: u64,
    token: Cell<Token>,
}

/// The access token. Refused tokens are renewed, but not all the time.
#[derive(Clone, Copy, Default)]
struct Token {
    generation: u32,
    renewed_at: Timestamp,
}

/// The result of an attempt to renew a refused token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Renewal {
    /// There is a newer one.
    Done,
    /// The refused token is the newest already.
    IsNew,
}

const RENEWED_EVERY: Duration = Duration::from_secs(30);

impl Process {
    pub(crate) fn new(config: Config, seed: u64) -> Self {
        Self {
            config,
            map: Map::default(),
            clock: Clock::default(),
            seed,
            token: Cell::default(),
        }
    }

    pub(crate) fn worker(&self) -> Fleet<&Map> {
        Fleet::new(&self.map, &self.config, self.seed, self.clock.now()).unwrap()
    }

    /// The generation of the token that every backend gets.
    pub(crate) fn generation(&self) -> u32 {
        self.token.get().generation
    }

    fn renew(&self, refused: u32) -> Renewal {
        let Token {
            generation,
            renewed_at,
        } = self.token.get();
        let now = self.clock.now();
        if generation != refused {
            return Renewal::Done;
        }
        if !(renewed_at + RENEWED_EVERY).has_passed(now, RENEWED_EVERY) {
            return Renewal::IsNew;
        }
        self.token.set(Token {
            generation: generation + 1,
            renewed_at: now,
        });
        Renewal::Done
    }
}

/// The next step of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// An attempt goes to this backend, for this reason. Without a reason, it repeats the last attempt with a new
    /// token.
    Sent(usize, Option<Because>),
    /// The client gets the answer of the last attempt.
    Delivered(Option<NoRetry>),
    /// The client is refused without an attempt.
    Refused(Duration),
}

/// One request.
pub(crate) struct Journey {
    pub(crate) request: Request,
    pub(crate) attempts: Attempts,
    generation: u32,
}

impl Journey {
    /// A request before its first attempt. `model` is the name in its body, which is read only if it matters.
    pub(crate) fn begin(
        process: &Process,
        fleet: &Fleet<&Map>,
        mut request: Request,
        model: &Option<Findings>,
    ) -> Self {
        if let Some(model) = model {
            if request.needs(&process.config, fleet.names_matter()) == Need::Deployment {
                request.learn(Found::Json(model.clone()), &Tags::default());
            }
        }
        let plan = Plan::keyed(fleet.draw(), request.cache_key);
        Self {
            request,
            attempts: Attempts::new(plan, process.config.retry.max_attempts),
            generation: 0,
        }
    }

    fn send(&mut self, process: &Process) -> Step {
        self.attempts.attempt_made();
        self.generation = process.token.get().generation;
        let chosen = self.attempts.chosen();
        Step::Sent(chosen.backend, Some(chosen.because))
    }

    /// Makes the first attempt.
    pub(crate) fn first_attempt(&mut self, process: &Process, fleet: &Fleet<&Map>) -> Step {
        let now = fleet.time_of_choice(&|| process.clock.now());
        match fleet.choose(self.attempts.plan(), &self.request.demand(), now) {
            Ok(chosen) => {
                self.attempts.go_to(chosen);
                self.send(process)
            }
            Err(NoChoice::AllInCooldown(wait)) => Step::Refused(wait.left),
            Err(none) => panic!("{none:?}"),
        }
    }

    /// Ends the current attempt.
    pub(crate) fn conclude(
        &mut self,
        process: &Process,
        fleet: &Fleet<&Map>,
        outcome: Outcome,
        stated: Option<Duration>,
    ) -> Option<Change> {
        let demand = self.request.demand();
        if outcome == Outcome::DeploymentNotFound && self.request.names_unread_deployment() {
            fleet.note_unread_deployment(process.clock.now());
        }
        let token = TokenId {
            identity: Some(0),
            generation: self.generation,
        };
        let lesson = self.attempts.conclude(outcome, stated, &demand, token);
        learn(process, fleet, lesson)
    }

    /// The step after the attempt that ended.
    pub(crate) fn after(
        &mut self,
        process: &Process,
        fleet: &Fleet<&Map>,
        outcome: Outcome,
    ) -> Step {
        let demand = self.request.demand();
        let clock = || process.clock.now();
        // The loop runs a second time if there is no newer token.
        loop {
            let choose = |plan: &Plan| {
                fleet.choose_next(&process.config.retry, plan, &demand, outcome, &clock)
            };
            let (verdict, lesson) = self
                .attempts
                .move_on(outcome, Replay::Ready, &demand, choose);
            if let Some(lesson) = lesson {
                learn(process, fleet, lesson);
            }
            match verdict {
                Verdict::Deliver => return Step::Delivered(None),
                Verdict::GiveUp(reason) => return Step::Delivered(Some(reason)),
                Verdict::TryNext => return self.send(process),
                Verdict::RenewToken => match process.renew(self.generation) {
                    Renewal::Done => {
                        self.send(process);
                        return Step::Sent(self.attempts.backend(), None);
                    }
                    Renewal::IsNew => {
                        let lesson = self.attempts.conclude_new_token(&demand);
                        learn(process, fleet, lesson);
                    }
                },
                Verdict::AwaitRequest => panic!("all of it is there"),
            }
        }
    }

    /// The client disconnects.
    pub(crate) fn abandon(&mut self, process: &Process, fleet: &Fleet<&Map>) {
        if let Some(lesson) = self.attempts.abandon(&self.request.demand()) {
            learn(process, fleet, lesson);
        }
    }
}

fn learn(process: &Process, fleet: &Fleet<&Map>, lesson: Lesson) -> Option<Change> {
    fleet.take(&process.config.cooldown, &lesson, &|| process.clock.now())
}
