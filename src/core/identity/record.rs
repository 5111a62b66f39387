//! The record of a token, which all workers share, and its state machine.
//!
//! A worker reads the record, changes its copy and stores it with compare-and-swap. On a conflict it reads again. A
//! fetch is claimed by a lease that expires, so a worker that dies during a fetch blocks others only for a short time.

use core::time::Duration;

use super::source::{self, Failure, Fetched};
use crate::codec::Fields;
use crate::config::Secret;
use crate::prelude::*;
use crate::time::Timestamp;

const VERSION: u8 = 1;

/// The difference between the lease of a fetch and the fetch's time limit.
const LEASE_MARGIN: Duration = Duration::from_secs(2);
/// The longest lease: the largest `fetch_timeout` plus the margin.
const LONGEST_LEASE: Duration = Duration::from_secs(62);
/// The longest wait after a failure, see [`source::LONGEST_RETRY_AFTER`].
const LONGEST_WAIT: Duration = source::LONGEST_RETRY_AFTER;

/// The first and the longest wait after failures. The wait doubles with each failure.
const TRANSIENT_WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// IMDS is available again within about 70 seconds of its first 410.
const UPDATING_WAITS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(40));
/// Misconfiguration is retried once a minute.
const MISCONFIGURED_WAITS: (Duration, Duration) =
    (Duration::from_secs(60), Duration::from_secs(60));

/// A token with at least this lifetime is renewed at half of it. A shorter one is renewed [`REFRESH_BEFORE_EXPIRY`].
const LONG_LIFETIME: Duration = Duration::from_secs(2 * 3600);
const REFRESH_BEFORE_EXPIRY: Duration = Duration::from_secs(300);

/// The shortest interval between fetches that refusals force. A new token does not help against every 401.
const FORCED_FETCH_INTERVAL: Duration = Duration::from_secs(30);
/// The interval of forced fetches if the backend refused no token before. The token was probably revoked.
const REVOKED_FETCH_INTERVAL: Duration = Duration::from_secs(1);

/// A backend's last answer before it refused a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// The backend accepted its token, or got none yet.
    NotRefused,
    /// The backend refused its token too.
    Refused,
}

/// An access token with its metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The token itself.
    pub secret: Secret,
    /// The number of the token. It changes with every different token.
    pub generation: u32,
    /// The expiry.
    pub expires_on: Timestamp,
    /// The time when the next token should be fetched.
    pub refresh_at: Timestamp,
}

/// The state of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No token, and none was requested yet.
    Absent,
    /// No token, and a fetch is running.
    Fetching,
    /// A valid token.
    Valid,
    /// A valid token, and a fetch of the next one is running.
    Refreshing,
    /// No token, and the last fetch failed.
    Failed,
}

/// The token's record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    token: Option<Token>,
    /// The number of failures in a row.
    failures: u32,
    /// The end of the running fetch's lease. A past time without a fetch.
    lease_until: Timestamp,
    /// The earliest next fetch, because of failures.
    not_before: Timestamp,
    /// The time of the last fetch that a refusal forced, which may be in the future.
    forced_at: Timestamp,
}

impl Record {
    /// The token, if it has not expired.
    pub fn token(&self, now: Timestamp) -> Option<&Token> {
        self.token.as_ref().filter(|token| now < token.expires_on)
    }

    /// The state of the token.
    pub fn state(&self, now: Timestamp) -> State {
        match (self.token(now), self.is_fetching(now)) {
            (Some(_), false) => State::Valid,
            (Some(_), true) => State::Refreshing,
            (None, true) => State::Fetching,
            (None, false) if self.failures > 0 => State::Failed,
            (None, false) => State::Absent,
        }
    }

    /// The time of the next fetch, after the running fetch and the waits for failures.
    pub fn next_fetch(&self, now: Timestamp) -> Timestamp {
        let wanted = self.token(now).map_or(now, |token| token.refresh_at);
        let held = [
            (self.not_before, LONGEST_WAIT),
            (self.lease_until, LONGEST_LEASE),
        ];
        held.into_iter()
            .filter(|(until, longest)| !until.has_passed(now, *longest))
            .fold(wanted, |at, (until, _)| at.max(until))
    }

    fn is_fetching(&self, now: Timestamp) -> bool {
        !self.lease_until.has_passed(now, LONGEST_LEASE)
    }

    /// The time when a missing token may arrive. While a fetch runs, this is now.
    pub fn token_expected(&self, now: Timestamp) -> Timestamp {
        if self.is_fetching(now) {
            now
        } else {
            self.next_fetch(now)
        }
    }

    /// Claims the fetch if one is due. `true` means that the caller has to fetch the token. No other worker fetches
    /// until the lease ends.
    pub fn claim_fetch(&mut self, now: Timestamp, fetch_timeout: Duration) -> bool {
        let due = self.next_fetch(now) <= now;
        if due {
            self.lease_until = now + fetch_timeout + LEASE_MARGIN;
        }
        due
    }

    /// Stores a fetched token.
    pub fn fetched(&mut self, fetched: Fetched, now: Timestamp) {
        // A caching service may return the same token again. It then keeps its generation, so that its refusals stay
        // known.
        let generation = match &self.token {
            Some(old) if old.secret == fetched.token => old.generation,
            Some(old) => old.generation.wrapping_add(1),
            None => 1,
        };
        let lifetime = fetched.expires_on.since(now);
        let half = lifetime / 2;
        let age = if lifetime >= LONG_LIFETIME {
            half
        } else {
            half.max(lifetime.saturating_sub(REFRESH_BEFORE_EXPIRY))
        };
        self.token = Some(Token {
            secret: fetched.token,
            generation,
            expires_on: fetched.expires_on,
            refresh_at: now + age,
        });
        self.failures = 0;
        self.not_before = now;
        self.lease_until = now;
    }

    /// Notes a failed fetch. An existing token stays in use until it expires.
    pub fn failed(&mut self, failure: &Failure, now: Timestamp) {
        let ((first, longest), retry_after) = match failure {
            Failure::Transient { retry_after, .. } => (TRANSIENT_WAITS, *retry_after),
            Failure::Updating { retry_after } => (UPDATING_WAITS, *retry_after),
            Failure::Malformed { .. } => (TRANSIENT_WAITS, None),
            Failure::Misconfigured { .. } => (MISCONFIGURED_WAITS, None),
        };
        let doubled = first.saturating_mul(1 << self.failures.min(16));
        let wait = doubled.min(longest).max(retry_after.unwrap_or_default());
        self.failures = self.failures.saturating_add(1);
        self.not_before = now + wait;
        self.lease_until = now;
    }

    /// Notes that a backend refused the token of this generation. The next fetch is due now, unless a refusal recently
    /// forced one. If the backend did not refuse its token `before`, the fetch is due within a second in any case.
    pub fn refused(&mut self, generation: u32, before: Before, now: Timestamp) {
        let may_be_forced = self.may_be_forced_after(FORCED_FETCH_INTERVAL, now);
        let is_soon = !self.may_be_forced_after(REVOKED_FETCH_INTERVAL, now);
        let Some(token) = &mut self.token else {
            return;
        };
        let due = match before {
            _ if token.generation != generation || token.refresh_at <= now => return,
            Before::NotRefused if is_soon => self.forced_at + REVOKED_FETCH_INTERVAL,
            Before::Refused if !may_be_forced => return,
            Before::NotRefused | Before::Refused => now,
        };
        if due < token.refresh_at {
            token.refresh_at = due;
            self.forced_at = due;
        }
    }

    /// Whether the last forced fetch was at least `interval` ago.
    fn may_be_forced_after(&self, interval: Duration, now: Timestamp) -> bool {
        // The last forced fetch may be scheduled in the future.
        (self.forced_at + interval).has_passed(now, interval + REVOKED_FETCH_INTERVAL)
    }

    /// Whether the token of this generation was fetched recently because of a refused one.
    pub fn was_renewed(&self, generation: u32, now: Timestamp) -> bool {
        let token = self.token.as_ref();
        // A token that is due for renewal is the old one.
        token.is_some_and(|token| token.generation == generation && now < token.refresh_at)
            && !self.may_be_forced_after(FORCED_FETCH_INTERVAL, now)
    }

    /// Whether a token newer than this generation is being fetched, or will be within a second.
    pub fn renewing(&self, now: Timestamp) -> bool {
        let soon = match self.failures {
            0 => now + REVOKED_FETCH_INTERVAL,
            _ => now,
        };
        self.token_expected(now) <= soon
    }

    /// The record as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.failures.to_le_bytes());
        for time in [self.lease_until, self.not_before, self.forced_at] {
            bytes.extend_from_slice(&time.as_millis().to_le_bytes());
        }
        bytes.push(u8::from(self.token.is_some()));
        if let Some(token) = &self.token {
            bytes.extend_from_slice(&token.generation.to_le_bytes());
            for time in [token.expires_on, token.refresh_at] {
                bytes.extend_from_slice(&time.as_millis().to_le_bytes());
            }
            bytes.extend_from_slice(token.secret.reveal().as_bytes());
        }
        bytes
    }

    /// The record in `bytes`. Missing or unreadable bytes decode to an empty record.
    pub fn decode(bytes: Option<&[u8]>) -> Self {
        bytes.and_then(Self::try_decode).unwrap_or_default()
    }

    #[inline(never)]
    fn try_decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes, VERSION)?;
        let mut record = Self {
            failures: fields.u32()?,
            lease_until: Timestamp::from_millis(fields.u64()?),
            not_before: Timestamp::from_millis(fields.u64()?),
            forced_at: Timestamp::from_millis(fields.u64()?),
            token: None,
        };
        if fields.u8()? == 1 {
            record.token = Some(Token {
                generation: fields.u32()?,
                expires_on: Timestamp::from_millis(fields.u64()?),
                refresh_at: Timestamp::from_millis(fields.u64()?),
                secret: Secret::new(fields.text()?.to_owned()),
            });
        }
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_secs(1_700_000_000);
    const TIMEOUT: Duration = Duration::from_secs(5);

    fn at(seconds: u64) -> Timestamp {
        START + Duration::from_secs(seconds)
    }

    fn token(name: &str, expires_on: Timestamp) -> Fetched {
        Fetched {
            token: Secret::new(name.to_owned()),
            expires_on,
        }
    }

    fn transient(retry_after: Option<u64>) -> Failure {
        Failure::Transient {
            reason: "status 500".to_owned(),
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    #[test]
    fn a_token_goes_from_absent_to_valid() {
        let mut record = Record::default();
        assert_eq!(record.state(START), State::Absent);
        assert!(record.claim_fetch(START, TIMEOUT));
        assert_eq!(record.state(START), State::Fetching);
        assert_eq!(record.token_expected(START), START);
        record.fetched(token("one", at(3600)), at(1));
        assert_eq!(record.state(at(1)), State::Valid);
        assert_eq!(record.token(at(1)).unwrap().secret.reveal(), "one");
        assert_eq!(record.state(at(3600)), State::Absent, "expired");
    }

    #[test]
    fn one_worker_claims_the_fetch_and_its_lease_expires() {
        let mut record = Record::default();
        assert!(record.claim_fetch(START, TIMEOUT));
        assert!(!record.claim_fetch(START, TIMEOUT));
        assert!(!record.claim_fetch(at(6), TIMEOUT));
        assert!(record.claim_fetch(at(7), TIMEOUT));
    }

    #[test]
    fn refresh_comes_well_before_expiry() {
        for (lifetime, refresh) in [
            (86_400, 43_200),
            (7200, 3600),
            (3599, 3299),
            (600, 300),
            (400, 200),
            (8, 4),
        ] {
            let mut record = Record::default();
            record.fetched(token("one", at(lifetime)), START);
            assert_eq!(record.next_fetch(START), at(refresh), "{lifetime}");
            assert!(!record.claim_fetch(at(refresh - 1), TIMEOUT), "{lifetime}");
            assert!(record.claim_fetch(at(refresh), TIMEOUT), "{lifetime}");
            assert_eq!(record.state(at(refresh)), State::Refreshing);
        }
    }

    #[test]
    fn transient_failures_are_retried_at_doubling_intervals() {
        let mut record = Record::default();
        let mut now = START;
        let mut waits = Vec::new();
        for _ in 0..8 {
            assert!(record.claim_fetch(now, TIMEOUT));
            record.failed(&transient(None), now);
            assert_eq!(record.state(now), State::Failed);
            assert_eq!(record.token_expected(now), record.next_fetch(now));
            waits.push(record.next_fetch(now).since(now).as_secs());
            now = record.next_fetch(now);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
    }

    #[test]
    fn each_failure_has_its_schedule_and_obeys_retry_after() {
        let updating = |retry_after| Failure::Updating { retry_after };
        for (failure, wait) in [
            (transient(Some(7)), 7),
            (transient(Some(0)), 1),
            (updating(None), 5),
            (updating(Some(Duration::from_secs(70))), 70),
            (Failure::Malformed { reason: "" }, 1),
            (
                Failure::Misconfigured {
                    reason: String::new(),
                    advice: None,
                },
                60,
            ),
        ] {
            let mut record = Record::default();
            record.failed(&failure, START);
            assert_eq!(record.next_fetch(START), at(wait), "{failure:?}");
        }
    }

    #[test]
    fn a_success_resets_the_failures() {
        let mut record = Record::default();
        for _ in 0..5 {
            record.failed(&transient(None), START);
        }
        record.fetched(token("one", at(10)), START);
        record.failed(&transient(None), at(5));
        assert_eq!(record.next_fetch(at(5)), at(6));
    }

    #[test]
    fn the_old_token_stays_in_use_while_refreshing_fails() {
        let mut record = Record::default();
        record.fetched(token("old", at(3600)), START);
        for second in (3300..3600).step_by(30) {
            assert!(record.claim_fetch(at(second), TIMEOUT));
            record.failed(&transient(None), at(second));
            assert_eq!(record.state(at(second)), State::Valid);
        }
        assert_eq!(record.state(at(3600)), State::Failed);
    }

    #[test]
    fn refusals_force_a_renewal_at_most_every_thirty_seconds() {
        let mut record = Record::default();
        record.fetched(token("one", at(3600)), START);
        record.refused(7, Before::Refused, at(40));
        assert!(!record.renewing(at(40)), "another token was refused");
        record.refused(1, Before::Refused, at(40));
        assert!(record.renewing(at(40)));
        assert!(record.claim_fetch(at(40), TIMEOUT));
        assert!(record.renewing(at(41)), "the fetch is running");
        record.fetched(token("one", at(3600)), at(41));
        assert_eq!(
            record.token(at(41)).unwrap().generation,
            1,
            "the same token"
        );
        record.refused(1, Before::Refused, at(60));
        assert!(!record.renewing(at(60)), "a moment ago");
        record.refused(1, Before::Refused, at(70));
        assert!(record.claim_fetch(at(70), TIMEOUT));
        record.fetched(token("two", at(3600)), at(71));
        assert_eq!(record.token(at(71)).unwrap().generation, 2);
    }

    #[test]
    fn a_token_that_was_accepted_is_renewed_once_a_second() {
        let mut record = Record::default();
        record.fetched(token("one", at(3600)), START);
        record.refused(1, Before::NotRefused, at(40));
        let soon = at(40) + Duration::from_millis(300);
        assert!(record.claim_fetch(at(40), TIMEOUT));
        record.fetched(token("two", at(3600)), soon);
        for _ in 0..3 {
            record.refused(2, Before::NotRefused, soon);
            record.refused(2, Before::Refused, soon);
            assert!(record.renewing(soon));
            assert!(!record.claim_fetch(soon, TIMEOUT), "it was a moment ago");
            assert_eq!(record.next_fetch(soon), at(41));
        }
        assert!(record.claim_fetch(at(41), TIMEOUT));
        record.fetched(token("three", at(3600)), at(41));
        record.refused(3, Before::NotRefused, at(41));
        assert_eq!(record.next_fetch(at(41)), at(42));
    }

    #[test]
    fn a_clock_that_was_set_back_delays_no_fetch() {
        let early = Timestamp::from_secs(1_700_000_000 - 3600);
        let mut claimed = Record::default();
        assert!(claimed.claim_fetch(START, TIMEOUT));
        assert_eq!(claimed.state(early), State::Absent);
        assert!(claimed.claim_fetch(early, TIMEOUT));
        let mut failed = Record::default();
        failed.failed(&transient(Some(600)), START);
        assert!(failed.claim_fetch(early, TIMEOUT));
        let mut refused = Record::default();
        refused.fetched(token("one", at(3600)), START);
        refused.refused(1, Before::Refused, at(40));
        refused.fetched(token("one", at(3600)), at(41));
        refused.refused(1, Before::Refused, early);
        assert!(refused.renewing(early));
    }

    #[test]
    fn the_record_survives_encoding() {
        let mut record = Record::default();
        assert_eq!(Record::decode(Some(&record.encode())), record);
        record.fetched(token("one", at(3600)), START);
        record.failed(&transient(None), at(1));
        record.refused(1, Before::Refused, at(2));
        assert!(record.claim_fetch(at(9), TIMEOUT));
        let bytes = record.encode();
        assert_eq!(Record::decode(Some(&bytes)), record);
        for cut in 0..34 {
            assert_eq!(Record::decode(bytes.get(..cut)), Record::default(), "{cut}");
        }
        assert_eq!(Record::decode(Some(&[9; 50])), Record::default());
        assert_eq!(Record::decode(None), Record::default());
    }
}
