//! Whether a backend lets the identity in: a role may be missing, a key revoked, a network closed, a tenant wrong.
//!
//! Somebody has to correct that, so the backend is asked again slowly. What one request was refused is not what others are:
//! a backend that serves is not kept from them.

use std::time::Duration;

use super::recovery::{Recovery, Silence};
use super::trials::Trials;
use super::{lasts, Change, Reason};
use crate::core::config::Cooldown;
use crate::core::shared::{Fields, Writer};
use crate::core::time::Timestamp;

/// A backend that has served within this time lets the identity in: a refusal is about the one operation that was asked for.
const SERVED_LATELY: Duration = Duration::from_secs(60);
/// That a backend serves is written down this often.
const SERVICE_NOTED_EVERY: Duration = Duration::from_secs(20);
/// So many requests in a row have to be refused in spite of a new token.
const REFUSED_TOKENS: u8 = 2;
/// For so long after a trial was served, refused tokens are about the requests that brought them.
const DOUBTED: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    Refused(Timestamp),
}

/// How access stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Open,
    Recovering,
    Refused(Timestamp),
}

/// The access to one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Access {
    state: State,
    refused_at: Timestamp,
    served_at: Timestamp,
    /// Requests in a row whose renewed token was refused.
    refused_tokens: u8,
    contradicted_at: Timestamp,
    trials: Trials,
    recovery: Recovery,
}

impl Access {
    /// How access stands.
    pub(super) fn standing(&self, now: Timestamp) -> Standing {
        match self.state {
            State::Open => Standing::Open,
            State::Refused(until) if lasts(self.refused_at, until, now) => Standing::Refused(until),
            State::Refused(_) => Standing::Recovering,
        }
    }

    /// Whether the backend refuses no one.
    pub(super) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Whether a recovering backend admits an attempt.
    pub(super) fn admits(&self, now: Timestamp) -> bool {
        self.recovery.admits(Silence::IsLoss, now)
    }

    /// Begins an attempt on a recovering backend, if it admits one.
    pub(super) fn admit(&mut self, now: Timestamp) -> bool {
        self.recovery.admit(Silence::IsLoss, now)
    }

    /// An admitted attempt that began at `began` ended without an outcome that counts.
    pub(super) fn leave(&mut self, began: Timestamp) {
        // An earlier recovery's attempt has no place in this one.
        if matches!(self.state, State::Refused(until) if began >= until) {
            self.recovery.leave();
        }
    }

    pub(super) fn trial_is_due(&self, now: Timestamp) -> bool {
        self.trials.is_due(now)
    }

    pub(super) fn claim_trial(&mut self, now: Timestamp) -> bool {
        self.trials.claim(now)
    }

    /// The backend refused the identity or the key.
    pub(super) fn deny(&mut self, rules: &Cooldown, now: Timestamp) -> Option<Change> {
        // A backend that serves refuses this request, not the identity.
        if self.is_open() && self.has_served_lately(now) {
            return None;
        }
        self.refuse(rules.misconfigured, now)
    }

    #[inline(never)]
    fn refuse(&mut self, wait: Duration, now: Timestamp) -> Option<Change> {
        // A cooldown of no length is none.
        if wait.is_zero() {
            return None;
        }
        let is_new = !matches!(self.standing(now), Standing::Refused(_));
        self.trials.refused();
        self.recovery = Recovery::default();
        self.state = State::Refused(now + wait);
        self.refused_at = now;
        is_new.then_some(Change::CoolsDown(Reason::Misconfigured, wait))
    }

    /// The backend refused a token that was new. It does so to every request, whatever that asks for.
    pub(super) fn deny_token(&mut self, rules: &Cooldown, now: Timestamp) -> Option<Change> {
        self.refused_tokens = self.refused_tokens.saturating_add(1);
        let is_doubted = lasts(self.contradicted_at, self.contradicted_at + DOUBTED, now);
        match self.refused_tokens >= REFUSED_TOKENS && !is_doubted {
            true => self.refuse(rules.misconfigured, now),
            false => None,
        }
    }

    /// Whether a service changes anything.
    pub(super) fn is_news(&self) -> bool {
        !self.is_open() || self.refused_tokens > 0
    }

    /// The backend served a request.
    #[inline(never)]
    pub(super) fn serve(&mut self, now: Timestamp) -> Option<Change> {
        self.served_at = now;
        self.refused_tokens = 0;
        if self.is_open() {
            return None;
        }
        if matches!(self.standing(now), Standing::Refused(_)) {
            self.contradicted_at = now;
        }
        self.trials.served();
        self.recovery = Recovery::default();
        self.state = State::Open;
        Some(Change::Recovered(Reason::Misconfigured))
    }

    fn has_served_lately(&self, now: Timestamp) -> bool {
        !(self.served_at + SERVED_LATELY).has_passed(now, SERVED_LATELY)
    }

    /// Whether it is worth writing down that the backend serves.
    pub(super) fn wants_service_noted(&self, now: Timestamp) -> bool {
        (self.served_at + SERVICE_NOTED_EVERY).has_passed(now, SERVICE_NOTED_EVERY)
    }

    /// Whether `other` looks the same to workers that choose a backend or report successes.
    pub(super) fn looks_like(&self, other: &Self) -> bool {
        self.state == other.state && (self.refused_tokens > 0) == (other.refused_tokens > 0)
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        let (state, until) = match self.state {
            State::Open => (0, Timestamp::default()),
            State::Refused(until) => (1, until),
        };
        writer.u8(state);
        for time in [until, self.refused_at, self.served_at] {
            writer.time(time);
        }
        writer.u8(self.refused_tokens);
        writer.time(self.contradicted_at);
        self.trials.encode(writer);
        self.recovery.encode(writer);
    }

    pub(super) fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let (state, until) = (fields.u8()?, fields.time()?);
        Some(Self {
            state: match state {
                0 => State::Open,
                1 => State::Refused(until),
                _ => return None,
            },
            refused_at: fields.time()?,
            served_at: fields.time()?,
            refused_tokens: fields.u8()?,
            contradicted_at: fields.time()?,
            trials: Trials::decode(fields)?,
            recovery: Recovery::decode(fields)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::health::tests::{at, roundtrip, RULES, START};

    const REFUSED: Option<Change> = Some(Change::CoolsDown(
        Reason::Misconfigured,
        Duration::from_secs(600),
    ));

    fn denied() -> Access {
        let mut access = Access::default();
        assert_eq!(access.deny(&RULES, START), REFUSED);
        access
    }

    #[test]
    fn a_refusal_keeps_requests_away_until_it_is_over() {
        let access = denied();
        assert_eq!(access.standing(at(599_999)), Standing::Refused(at(600_000)));
        assert_eq!(access.standing(at(600_000)), Standing::Recovering);
    }

    #[test]
    fn a_backend_that_has_served_lately_refuses_a_request_only() {
        let mut access = Access::default();
        access.serve(START);
        assert_eq!(access.deny(&RULES, at(59_999)), None);
        assert_eq!(access.deny(&RULES, at(60_000)), REFUSED);
    }

    #[test]
    fn two_refused_new_tokens_in_a_row_are_the_backends() {
        let mut access = Access::default();
        access.serve(START);
        for _ in 0..3 {
            assert_eq!(access.deny_token(&RULES, START), None);
            assert!(access.is_news());
            access.serve(START);
        }
        assert_eq!(access.deny_token(&RULES, START), None);
        assert_eq!(access.deny_token(&RULES, START), REFUSED);
    }

    #[test]
    fn a_service_opens_it_and_refused_tokens_count_no_more() {
        let mut access = denied();
        assert!(access.is_news());
        assert_eq!(
            access.serve(at(1_000)),
            Some(Change::Recovered(Reason::Misconfigured))
        );
        for _ in 0..10 {
            assert_eq!(access.deny_token(&RULES, at(30_000)), None);
        }
        assert_eq!(access.deny_token(&RULES, at(61_000)), REFUSED);
    }

    #[test]
    fn a_refusal_that_repeats_is_told_once() {
        let mut access = denied();
        assert_eq!(access.deny(&RULES, at(1_000)), None);
        assert_eq!(access.standing(at(1_000)), Standing::Refused(at(601_000)));
        assert_eq!(access.deny(&RULES, at(601_000)), REFUSED, "it was over");
    }

    #[test]
    fn the_record_of_access_can_be_read() {
        for access in [Access::default(), denied()] {
            assert_eq!(roundtrip(&access, Access::encode, Access::decode), access);
        }
    }
}
