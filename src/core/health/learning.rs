//! Learning: the end of an attempt changes the health of its backend.

use super::breaker::Failure;
use super::quota::Refusal;
use super::record::Health;
use super::{Blame, Change, Finding, Seen};
use crate::config::Cooldown;
use crate::demand::QuotaKey;
use crate::time::Timestamp;

impl Health {
    /// Whether `finding` may change this record.
    pub fn is_news(&self, finding: Finding, seen: &Seen) -> bool {
        seen.admitted
            || match finding {
                Finding::Served => {
                    self.breaker.is_news(seen.began)
                        || self.access.is_news()
                        || self
                            .quotas_of(&seen.demand)
                            .any(|quota| quota.is_news(seen.began))
                }
                Finding::Answered => self.breaker.is_news(seen.began) || self.access.is_news(),
                Finding::Nothing => false,
                Finding::Throttled(..)
                | Finding::Failed(..)
                | Finding::Denied
                | Finding::TokenDenied(_)
                | Finding::Missing(_) => true,
            }
    }

    /// Learns from an attempt. `seed` makes the cooldowns of different Envoys differ.
    pub fn learn(
        &mut self,
        finding: Finding,
        seen: &Seen,
        rules: &Cooldown,
        seed: u64,
        now: Timestamp,
    ) -> Option<Change> {
        match finding {
            Finding::Served => {
                let change = self.answer(seen, now);
                let quotas = self.quotas_of_mut(&seen.demand);
                let quotas =
                    quotas.filter_map(|quota| quota.serve(seen.began, seen.demand.size, now));
                quotas.last().or(change)
            }
            Finding::Answered => {
                self.leave_quotas(seen);
                self.answer(seen, now)
            }
            Finding::Throttled(stated, blame) => {
                let recovered = self.breaker.succeed(seen.began, now);
                if seen.admitted {
                    self.access.leave(seen.began);
                }
                let refusal = Refusal {
                    stated,
                    size: seen.demand.size,
                    client: seen.demand.client,
                    blame: match seen.demand.quota {
                        // The refusal may concern any quota, so it blocks no request. It only makes the filter read
                        // names.
                        QuotaKey::UNREAD => Blame::Repeated,
                        _ => blame,
                    },
                    began: seen.began,
                };
                let quota = self.quota(seen.demand.quota)?;
                quota.refuse(refusal, rules, now).or(recovered)
            }
            Finding::Failed(others, blame) => {
                self.leave_quotas(seen);
                let failure = Failure {
                    others,
                    blame,
                    began: seen.began,
                    admitted: seen.admitted,
                };
                self.breaker.fail(failure, rules, seed, now)
            }
            Finding::Denied => {
                self.leave(seen);
                self.access.deny(rules, now)
            }
            Finding::TokenDenied(_) => {
                self.leave(seen);
                self.access.deny_token(seen.token, rules, now)
            }
            Finding::Missing(id) => {
                let change = self.answer(seen, now);
                self.leave_quotas(seen);
                let is_new = self.missing.add(id, rules.misconfigured, now);
                is_new
                    .then_some(Change::Lacks(rules.misconfigured))
                    .or(change)
            }
            Finding::Nothing => {
                self.leave(seen);
                None
            }
        }
    }

    fn answer(&mut self, seen: &Seen, now: Timestamp) -> Option<Change> {
        let breaker = self.breaker.succeed(seen.began, now);
        self.access.serve(seen.began, now).or(breaker)
    }

    /// Returns the place of an admitted attempt that ended without an outcome.
    fn leave(&mut self, seen: &Seen) {
        if seen.admitted {
            self.breaker.leave(seen.began);
            self.access.leave(seen.began);
            self.leave_quotas(seen);
        }
    }

    #[inline(never)]
    fn leave_quotas(&mut self, seen: &Seen) {
        if seen.admitted {
            self.quotas_of_mut(&seen.demand)
                .for_each(|quota| quota.leave(seen.began));
        }
    }

    /// Drops expired quotas, failures and missing deployments.
    pub fn tidy(&mut self, now: Timestamp) {
        self.missing.tidy(now);
        self.quotas.retain(|quota| !quota.is_over(now));
        self.breaker.tidy(now);
    }

    /// Whether the record should note that the backend serves.
    pub fn wants_service_noted(&self, now: Timestamp) -> bool {
        self.access.wants_service_noted(now)
    }

    /// Notes that the backend serves.
    pub fn note_service(&mut self, now: Timestamp) {
        // Another worker may have recorded a refusal since.
        if !self.access.is_news() {
            self.access.serve(now, now);
        }
    }

    /// The generation of the refused access token because of which the backend is closed.
    pub fn refused_token(&self, now: Timestamp) -> Option<u32> {
        self.access.refused_token(now)
    }

    /// Learns of an access token of this `generation`. A backend that refused an older token starts to recover.
    pub fn admit_token(&mut self, generation: u32, now: Timestamp) {
        self.access.admit_token(generation, now);
    }

    /// Adds successful attempts to the share of failures.
    pub fn count_successes(&mut self, count: u32, now: Timestamp) {
        self.breaker.count_successes(count, now);
    }

    /// Whether the breaker needs the number of successful attempts.
    pub fn counts_successes(&self, now: Timestamp) -> bool {
        self.breaker.counts_successes(now)
    }
}
