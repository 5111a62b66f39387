//! The access of the identity to a backend. A backend may refuse it because of a missing role, a revoked key, a closed
//! network or a wrong tenant.
//!
//! Such a misconfiguration needs a person to fix it, so the backend is tried again slowly. A backend that refused an
//! access token is tried again with the next token. A refusal of one request does not cover others: a backend that
//! serves requests stays open.

use core::time::Duration;

use super::recovery::{Recovery, Silence};
use super::trials::Trials;
use super::{lasts, Change, Reason, SLACK};
use crate::codec::{Fields, Writer};
use crate::config::Cooldown;
use crate::time::Timestamp;

/// A backend that served a request within this time accepts the identity. A refusal then concerns only the requested
/// operation.
const SERVED_LATELY: Duration = Duration::from_secs(60);
/// The interval at which the record notes that the backend serves.
const SERVICE_NOTED_EVERY: Duration = Duration::from_secs(20);
/// The number of requests in a row whose new token must be refused before the backend is closed.
const REFUSED_TOKENS: u8 = 2;
/// How long after a served trial a refused token concerns only its own request.
const DOUBTED: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    Refused(Timestamp),
    /// Closed until this time, or until a token newer than this generation.
    TokenRefused(Timestamp, u32),
}

/// The state of access at one moment.
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
    /// The number of requests in a row whose renewed token was refused.
    refused_tokens: u8,
    contradicted_at: Timestamp,
    trials: Trials,
    recovery: Recovery,
}

impl Access {
    /// The state of access at `now`.
    pub(super) fn standing(&self, now: Timestamp) -> Standing {
        match self.refused_until() {
            None => Standing::Open,
            Some(until) if lasts(self.refused_at, until, now) => Standing::Refused(until),
            Some(_) => Standing::Recovering,
        }
    }

    fn refused_until(&self) -> Option<Timestamp> {
        match self.state {
            State::Open => None,
            State::Refused(until) | State::TokenRefused(until, _) => Some(until),
        }
    }

    /// Whether the backend refuses no request.
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

    /// Notes that an admitted attempt from `began` ended without a useful outcome.
    pub(super) fn leave(&mut self, began: Timestamp) {
        // An attempt of an earlier recovery has no place in this one.
        if self.refused_until().is_some_and(|until| began >= until) {
            self.recovery.leave();
        }
    }

    pub(super) fn trial_is_due(&self, now: Timestamp) -> bool {
        self.trials.is_due(now)
    }

    pub(super) fn claim_trial(&mut self, now: Timestamp) -> bool {
        self.trials.claim(now)
    }

    /// Learns that the backend refused the identity or the key.
    pub(super) fn deny(&mut self, rules: &Cooldown, now: Timestamp) -> Option<Change> {
        // A backend that serves others has refused this request, not the identity.
        if self.is_open() && self.has_served_lately(now) {
            return None;
        }
        self.refuse(None, rules.misconfigured, now)
    }

    /// Closes the access of the identity, or of the token of this generation.
    #[inline(never)]
    fn refuse(&mut self, token: Option<u32>, wait: Duration, now: Timestamp) -> Option<Change> {
        // A zero cooldown is disabled.
        if wait.is_zero() {
            return None;
        }
        let is_new = !matches!(self.standing(now), Standing::Refused(_));
        self.trials.refused();
        self.recovery = Recovery::default();
        self.state = match token {
            None => State::Refused(now + wait),
            Some(generation) => State::TokenRefused(now + wait, generation),
        };
        self.refused_at = now;
        is_new.then_some(Change::CoolsDown(Reason::Misconfigured, wait))
    }

    /// Learns that the backend refused a new token of this `generation`. Such a refusal does not depend on the request.
    pub(super) fn deny_token(
        &mut self,
        generation: u32,
        rules: &Cooldown,
        now: Timestamp,
    ) -> Option<Change> {
        self.refused_tokens = self.refused_tokens.saturating_add(1);
        let is_doubted = lasts(self.contradicted_at, self.contradicted_at + DOUBTED, now);
        match self.refused_tokens >= REFUSED_TOKENS && !is_doubted {
            true => self.refuse(Some(generation), rules.misconfigured, now),
            false => {
                self.refused_at = now;
                None
            }
        }
    }

    /// The generation of the refused access token because of which the backend is closed.
    pub(super) fn refused_token(&self, now: Timestamp) -> Option<u32> {
        match self.state {
            State::TokenRefused(until, generation) if lasts(self.refused_at, until, now) => {
                Some(generation)
            }
            _ => None,
        }
    }

    /// Starts the recovery if the backend refused an older token than the one of this `generation`.
    pub(super) fn admit_token(&mut self, generation: u32, now: Timestamp) {
        match self.refused_token(now) {
            Some(refused) if is_newer(generation, refused) => {
                self.state = State::TokenRefused(now, refused);
            }
            _ => {}
        }
    }

    /// Whether a served request changes anything.
    pub(super) fn is_news(&self) -> bool {
        !self.is_open() || self.refused_tokens > 0
    }

    /// Learns that the backend served an attempt from `began`.
    #[inline(never)]
    pub(super) fn serve(&mut self, began: Timestamp, now: Timestamp) -> Option<Change> {
        // An attempt from before the last refusal does not contradict it, unless the clock was set back since.
        if self.is_news() && began <= self.refused_at && self.refused_at <= now + SLACK {
            return None;
        }
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

    /// Whether the record should note that the backend serves.
    pub(super) fn wants_service_noted(&self, now: Timestamp) -> bool {
        (self.served_at + SERVICE_NOTED_EVERY).has_passed(now, SERVICE_NOTED_EVERY)
    }

    /// Whether workers that choose a backend or report successes can ignore the difference to `other`.
    pub(super) fn looks_like(&self, other: &Self) -> bool {
        self.state == other.state && (self.refused_tokens > 0) == (other.refused_tokens > 0)
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        let (state, until) = match self.state {
            State::Open => (0, Timestamp::default()),
            State::Refused(until) => (1, until),
            State::TokenRefused(until, _) => (2, until),
        };
        writer.u8(state);
        writer.time(until);
        if let State::TokenRefused(_, generation) = self.state {
            writer.u32(generation);
        }
        writer.time(self.refused_at);
        writer.time(self.served_at);
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
                2 => State::TokenRefused(until, fields.u32()?),
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

/// Whether the token of this `generation` is newer than the other. Generations wrap around.
fn is_newer(generation: u32, than: u32) -> bool {
    (1..=u32::MAX / 2).contains(&generation.wrapping_sub(than))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::{at, roundtrip, RULES, START};

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
    fn a_refusal_closes_access_for_its_cooldown() {
        let access = denied();
        assert_eq!(access.standing(at(599_999)), Standing::Refused(at(600_000)));
        assert_eq!(access.standing(at(600_000)), Standing::Recovering);
    }

    #[test]
    fn refusals_of_a_serving_backend_do_not_close_access() {
        let mut access = Access::default();
        access.serve(START, START);
        assert_eq!(access.deny(&RULES, at(59_999)), None);
        assert_eq!(access.deny(&RULES, at(60_000)), REFUSED);
    }

    #[test]
    fn two_refused_new_tokens_in_a_row_close_access() {
        let mut access = Access::default();
        access.serve(START, START);
        for second in [1_000, 2_000, 3_000] {
            assert_eq!(access.deny_token(1, &RULES, at(second)), None);
            assert!(access.is_news());
            access.serve(at(second + 1), at(second + 1));
        }
        assert_eq!(access.deny_token(1, &RULES, at(4_000)), None);
        assert_eq!(access.deny_token(1, &RULES, at(4_000)), REFUSED);
    }

    #[test]
    fn an_answer_under_way_does_not_reopen_access() {
        let recovered = Some(Change::Recovered(Reason::Misconfigured));
        let mut access = denied();
        assert_eq!(access.serve(START, at(1_000)), None);
        assert!(!access.is_open());
        assert_eq!(access.serve(at(1), at(1_000)), recovered);
        // Such an answer does not clear a first refused token either.
        assert_eq!(access.deny_token(1, &RULES, at(100_000)), None);
        access.serve(at(99_999), at(100_001));
        assert_eq!(access.deny_token(1, &RULES, at(100_002)), REFUSED);
    }

    #[test]
    fn served_requests_reopen_access_after_a_clock_was_set_back() {
        let mut access = Access::default();
        access.deny(&RULES, at(3_600_000));
        assert!(access.serve(at(1), at(2)).is_some());
    }

    /// The access after the token of generation 7 was refused twice, at the start.
    fn token_denied() -> Access {
        let mut access = Access::default();
        assert_eq!(access.deny_token(7, &RULES, START), None);
        assert_eq!(access.deny_token(7, &RULES, START), REFUSED);
        access
    }

    #[test]
    fn a_refused_token_closes_access_until_the_next_token() {
        let mut access = token_denied();
        for generation in [6, 7] {
            access.admit_token(generation, at(1_000));
            assert_eq!(access.refused_token(at(1_000)), Some(7));
            assert_eq!(access.standing(at(1_000)), Standing::Refused(at(600_000)));
        }
        access.admit_token(8, at(1_000));
        assert_eq!(access.standing(at(1_000)), Standing::Recovering);
        assert_eq!(access.refused_token(at(1_000)), None);
        let mut again = access;
        assert_eq!(again.deny_token(8, &RULES, at(2_000)), REFUSED);
        assert_eq!(again.refused_token(at(2_000)), Some(8));
        assert!(access.serve(at(1_500), at(2_000)).is_some());
        assert!(access.is_open());
    }

    #[test]
    fn a_new_token_does_not_end_a_refusal_of_the_identity() {
        let mut access = denied();
        assert_eq!(access.refused_token(at(1_000)), None);
        access.admit_token(8, at(1_000));
        assert_eq!(access.standing(at(1_000)), Standing::Refused(at(600_000)));
    }

    #[test]
    fn generations_of_tokens_wrap_around() {
        assert!(is_newer(0, u32::MAX) && is_newer(2, 1));
        assert!(!is_newer(1, 1) && !is_newer(1, 2) && !is_newer(u32::MAX, 0));
    }

    #[test]
    fn a_served_request_opens_access_and_clears_refused_tokens() {
        let mut access = denied();
        assert!(access.is_news());
        assert_eq!(
            access.serve(at(999), at(1_000)),
            Some(Change::Recovered(Reason::Misconfigured))
        );
        for _ in 0..10 {
            assert_eq!(access.deny_token(1, &RULES, at(30_000)), None);
        }
        assert_eq!(access.deny_token(1, &RULES, at(61_000)), REFUSED);
    }

    #[test]
    fn repeated_refusals_are_reported_once() {
        let mut access = denied();
        assert_eq!(access.deny(&RULES, at(1_000)), None);
        assert_eq!(access.standing(at(1_000)), Standing::Refused(at(601_000)));
        assert_eq!(
            access.deny(&RULES, at(601_000)),
            REFUSED,
            "the cooldown had ended"
        );
    }

    #[test]
    fn the_record_of_access_can_be_read() {
        for access in [Access::default(), denied(), token_denied()] {
            assert_eq!(roundtrip(&access, Access::encode, Access::decode), access);
        }
    }
}
